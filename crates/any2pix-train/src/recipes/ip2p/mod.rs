//! Stages `ip2p_text` and `ip2p`: an InstructPix2Pix, its text encoder and its UNet.

mod drawings;
mod folder;
mod pairs;
mod recipe;
mod text;
mod triplets;
mod watch;

pub use recipe::Ip2pRecipe;
pub use text::TextRecipe;
pub use triplets::{WorldTriplet, world_triplets};

use std::path::Path;

use any2pix_diffusion::{PatchCodec, instruct_pix2pix};
use any2pix_encoders::clip_text::ClipTextConfig;
use any2pix_encoders::locator::{Locator, LocatorConfig};
use any2pix_llm::Tokenizer;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::component;
use crate::playroom::{Piece, Sample};
use crate::{Result, TrainError};

const WORDS: &str = include_str!("../../../../../prompts/instruct_pix2pix/prompts.json");

/// What the text encoder reads besides the instruction.
#[derive(Clone, Debug, Deserialize)]
struct Words {
    /// Stands for the picture where the instruction names it.
    picture: String,
    /// The text of no instruction.
    negative: String,
}

impl Words {
    fn read() -> Result<Self> {
        serde_json::from_str(WORDS).map_err(|e| TrainError::Config {
            path: "instruct_pix2pix/prompts.json".into(),
            reason: e.to_string(),
        })
    }

    /// The instruction of an edit in words, as an edit reads it.
    fn of(&self, sample: &Sample) -> String {
        let segments = sample.pieces.iter().map(|piece| match piece {
            Piece::Text(words) => Some(words.as_str()),
            Piece::Media(_) => None,
        });
        instruct_pix2pix::instruction(segments, &self.picture)
    }
}

/// The codec whose latents are painted.
fn codec(model: &Path) -> Result<PatchCodec> {
    let weights = component::weights(model, "vae")?;
    let builder = weights.builder(DType::F32, &Device::Cpu);
    let codec = PatchCodec::load(builder, &component::config(model, "vae")?);
    weights.finish(&[])?;
    codec.map_err(component::misfit)
}

/// Texts as the ids of a text encoder.
struct Reader {
    tokenizer: Tokenizer,
    config: ClipTextConfig,
}

impl Reader {
    fn open(model: &Path) -> Result<Self> {
        let config = component::config(model, TEXT_ENCODER)?;
        Ok(Self { tokenizer: component::tokenizer(model)?, config })
    }

    /// # Shapes
    /// n texts → `(n, max_position_embeddings)`, u32.
    fn ids<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<Tensor> {
        let row = |text| {
            let ids = self.tokenizer.encode_text(text).map_err(component::misfit)?;
            Ok(self.config.closed(&ids))
        };
        let rows = texts.into_iter().map(row).collect::<Result<Vec<Vec<u32>>>>()?;
        let shape = (rows.len(), self.config.max_position_embeddings);
        Ok(Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?)
    }
}

/// The network that looks at the source for the UNet, if that has channels for it.
fn eye(model: &Path) -> Result<Locator> {
    let config: LocatorConfig = component::config(model, EYE)?;
    let weights = component::weights(model, EYE)?;
    let locator = Locator::load(weights.builder(DType::F32, &Device::Cpu), &config)?;
    weights.finish(&[])?;
    Ok(locator)
}

/// The components of the model in its folder.
const TEXT_ENCODER: &str = "ip2p/text_encoder";
const UNET: &str = "ip2p/unet";
const EYE: &str = "locator";
const SCHEDULER: &str = "ip2p/scheduler/scheduler_config.json";
