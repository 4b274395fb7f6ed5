//! `Compat`: the habits of the published program that change numbers, and whether they are kept.

use any2pix_encoders::imagebind::ClipSpacing;
use any2pix_llm::tokenizer::SegmentPrefix;
use serde::{Deserialize, Serialize};

/// Whose numbers an edit follows. Sections are those of `docs/instructany2pix.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// The published weights as they were trained, without the published program's slips.
    #[default]
    Repaired,
    /// The published program, slips and all.
    Reference,
}

/// What [`Compat`] decides, one field a habit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// Section 1: clips of a sound end before it does, as in the version of the audio library
    /// that the published requirements install. Repaired: the last clip ends with the sound.
    pub clip_spacing: ClipSpacing,
    /// Section 2: the published program prompts with the fast tokenizer, which begins every
    /// stretch of text after a control token with a word boundary; the weights were trained
    /// with the slow one, which does so at the very beginning alone.
    pub segment_prefix: SegmentPrefix,
    /// Section 3: the words about quality run into the caption's first word. Repaired: a comma
    /// stands between them.
    pub glued_prompt: bool,
    /// Section 4: the source is cut to a square. Repaired: it keeps its aspect, and the result
    /// has its size.
    pub square: bool,
    /// Section 4: latents of the source are drawn from the codec's distribution. Repaired: they
    /// are its mean, which reconstructs better and needs no chance.
    pub sampled_posterior: bool,
    /// Section 5: the adapter stays installed while the source is inverted, and takes the last
    /// tokens of the empty prompt for its own. Repaired: they are text.
    pub image_tokens_in_inversion: bool,
}

impl Compat {
    /// The habits in force.
    pub fn quirks(self) -> Quirks {
        let kept = self == Self::Reference;
        Quirks {
            clip_spacing: if kept { ClipSpacing::BeforeTheEnd } else { ClipSpacing::ToTheEnd },
            segment_prefix: if kept { SegmentPrefix::Every } else { SegmentPrefix::First },
            glued_prompt: kept,
            square: kept,
            sampled_posterior: kept,
            image_tokens_in_inversion: kept,
        }
    }
}
