//! `Prompts`: what SDXL's text encoders say of the caption and of what is not wanted.

use any2pix_diffusion::sdxl::PromptEmbeds;
use any2pix_encoders::clip_text::ClipTextOutput;
use any2pix_encoders::clip_tokenizer::Padding;
use candle_core::Tensor;
use serde::Deserialize;

use super::compat::Quirks;
use super::parts::Parts;
use crate::error::AgentError;
use crate::full_size::read;
use crate::progress::Stage;

const WORDS: &str = include_str!("../../../../prompts/instructany2pix/prompts.json");

/// The words around a caption.
#[derive(Debug, Deserialize)]
struct Words {
    quality: String,
    separator: String,
    negative: String,
    refiner: String,
}

/// Embedded prompts.
pub(super) struct Prompts {
    /// Of the inversion: no words.
    pub(super) empty: PromptEmbeds,
    /// What is not wanted.
    pub(super) negative: PromptEmbeds,
    /// What is wanted.
    pub(super) positive: PromptEmbeds,
    /// The refiner's, from the second encoder alone: no words, and what is wanted.
    pub(super) refiner: [PromptEmbeds; 2],
}

impl Words {
    fn open(parts: &Parts) -> Result<Self, AgentError> {
        serde_json::from_str(WORDS).map_err(|e| parts.store.bad("prompts.json", &e))
    }

    /// The prompt of a caption.
    fn prompt(&self, caption: &str, quirks: &Quirks) -> String {
        let separator = if quirks.glued_prompt { "" } else { self.separator.as_str() };
        format!("{}{separator}{caption}", self.quality)
    }
}

/// The embedded prompts of a caption. One encoder is held at a time.
pub(super) fn encode(parts: &Parts, caption: &str, quirks: &Quirks) -> Result<Prompts, AgentError> {
    let words = Words::open(parts)?;
    let prompt = words.prompt(caption, quirks);
    let refined = format!("{caption}{}", words.refiner);
    let texts = ["", words.negative.as_str(), prompt.as_str(), refined.as_str()];
    let first = read(&parts.text_encoder(false)?, &texts[..3], Padding::End)?;
    let second = read(&parts.text_encoder(true)?, &texts, Padding::Exclamation)?;
    assemble(&first, &second).map_err(AgentError::compute(Stage::Prompt))
}

fn assemble(first: &ClipTextOutput, second: &ClipTextOutput) -> candle_core::Result<Prompts> {
    let Some(pooled) = &second.text_embeds else {
        candle_core::bail!("the second text encoder has no projection")
    };
    let (narrow, wide) = (first.penultimate()?, second.penultimate()?);
    let row = |tensor: &Tensor, i: usize| tensor.narrow(0, i, 1)?.contiguous();
    let embeds = |i: usize, states: Tensor| -> candle_core::Result<PromptEmbeds> {
        Ok(PromptEmbeds { hidden_states: states, pooled: row(pooled, i)? })
    };
    let both = |i: usize| embeds(i, Tensor::cat(&[row(narrow, i)?, row(wide, i)?], 2)?);
    let alone = |i: usize| embeds(i, row(wide, i)?);
    Ok(Prompts {
        empty: both(0)?,
        negative: both(1)?,
        positive: both(2)?,
        refiner: [alone(0)?, alone(3)?],
    })
}

#[cfg(test)]
mod tests {
    use super::super::compat::Compat;
    use super::*;

    #[test]
    fn the_caption_stands_apart_unless_the_reference_is_followed() {
        let words: Words = serde_json::from_str(WORDS).unwrap();
        let prompt = |compat: Compat| words.prompt("a shop", &compat.quirks());
        assert_eq!(prompt(Compat::Repaired), "best quality, high quality, a shop");
        assert_eq!(prompt(Compat::Reference), "best quality, high qualitya shop");
    }
}
