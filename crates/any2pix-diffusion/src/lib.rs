//! Everything that denoises: schedulers, prior, UNet, VAE, IP-Adapter, inversion.

pub mod autoencoder;
pub mod autoencoder_kl;
pub mod denoise;
pub mod draft;
mod error;
pub mod exemplar;
pub mod gpt2;
pub mod guidance;
pub mod instruct_pix2pix;
pub mod inversion;
pub mod ip_adapter;
pub mod latents;
pub mod ldm_names;
pub mod lora;
pub mod packed;
pub mod parity;
pub mod patch_codec;
pub mod prior_transformer;
pub mod prompt_to_prompt;
pub mod schedulers;
pub mod sdxl;
pub mod source_decoder;
pub mod tiled;
pub mod unet;

pub use autoencoder::{Autoencoder, DiagonalGaussian};
pub use autoencoder_kl::{AutoencoderKL, AutoencoderKLConfig};
pub use denoise::NoisePredictor;
pub use error::{DiffusionError, parse_config};
pub use ip_adapter::{AdaptedUNet, ImageProjModel, ImageProjModelConfig, TokenMode};
pub use lora::{Lora, LoraPart};
pub use packed::Packed;
pub use patch_codec::{PatchCodec, PatchCodecConfig};
pub use prior_transformer::{PriorTransformer, PriorTransformerConfig};
pub use source_decoder::{PriorDeviations, SourceDecoder, SourceWindow};
pub use tiled::{TiledAutoencoder, Tiling};
pub use unet::{UNet2DConditionModel, UNet2DConditionModelConfig};
