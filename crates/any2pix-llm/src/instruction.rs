//! An instruction as the planner takes it: text with media at their places.

use serde::{Deserialize, Serialize};

/// What a reference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// A picture; the base of an edit is one.
    Image,
    /// A sound.
    Audio,
}

/// A stretch of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The user's words: data, whatever they look like.
    Text(String),
    /// Reference number so-and-so, from zero; one reference may stand at several places.
    Media(usize, MediaKind),
}

/// An ImageBind embedding of any norm.
pub type Embedding = Vec<f32>;

impl Piece {
    /// An instruction as golden cases record it: its references are written as `<video>`.
    pub fn recorded(instruction: &str) -> Vec<Self> {
        let mut pieces = Vec::new();
        for (index, text) in instruction.split("<video>").enumerate() {
            if index > 0 {
                pieces.push(Self::Media(index - 1, MediaKind::Image));
            }
            pieces.push(Self::Text(text.to_string()));
        }
        pieces
    }
}
