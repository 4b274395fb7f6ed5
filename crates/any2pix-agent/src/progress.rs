//! `Progress`: what an edit tells while it runs, and how it is asked to stop.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stage of an edit, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Read files and weights.
    Load,
    /// Pictures and sounds to embeddings.
    Encode,
    /// Instruction and embeddings to a plan.
    Plan,
    /// The prior cleans the target embedding.
    Refine,
    /// The condition is mixed.
    Condition,
    /// The words for the painter to tokens.
    Prompt,
    /// The region and the window of the edit.
    Locate,
    /// The source to latents.
    Invert,
    /// Inverted latents are mixed with noise.
    Mix,
    /// Latents to new latents.
    Denoise,
    /// Latents to pixels.
    Decode,
    /// A second painter goes over the picture.
    Polish,
    /// Untouched pixels come from the source.
    Compose,
    /// The picture is written.
    Save,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Load => "load",
            Self::Encode => "encode",
            Self::Plan => "plan",
            Self::Refine => "refine",
            Self::Condition => "condition",
            Self::Prompt => "prompt",
            Self::Locate => "locate",
            Self::Invert => "invert",
            Self::Mix => "mix",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
            Self::Polish => "polish",
            Self::Compose => "compose",
            Self::Save => "save",
        })
    }
}

/// Who watches an edit.
pub trait Progress {
    /// A stage begins.
    fn stage(&mut self, _stage: Stage) {}

    /// `done` of `total` steps of the stage are behind.
    fn step(&mut self, _done: usize, _total: usize) {}

    /// Something that the user should know and that does not stop the edit.
    fn warning(&mut self, _message: &str) {}

    /// The plan is known: lines to show before the long stages.
    fn plan(&mut self, _lines: &[String]) {}

    /// True when the edit shall stop before its next step.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {}
