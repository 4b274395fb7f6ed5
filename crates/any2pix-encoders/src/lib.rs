//! Perception: image, audio and text to embeddings.

pub mod aesthetic;
pub mod audio;
pub mod clip;
mod clip_layer;
pub mod clip_text;
pub mod clip_tokenizer;
pub mod clip_vision;
mod convnet;
pub mod dino;
pub mod error;
pub mod fbank;
pub mod file;
pub mod image;
pub mod imagebind;
pub mod judge;
pub mod locator;
pub mod lpips;
pub mod metadata;
pub mod parity;
pub mod resample;
pub mod resize;
mod sniff;
mod wav;

pub use convnet::pixels;
pub use error::{EncoderError, MediaError, Stage};
pub use imagebind::{ImageBindConfig, ImageBindModel};
pub use judge::{JudgeConfig, ObjectClassifier};
pub use locator::{Locator, LocatorConfig};
