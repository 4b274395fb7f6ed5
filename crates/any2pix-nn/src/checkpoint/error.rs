//! What can be wrong with a checkpoint.

use std::path::PathBuf;

use thiserror::Error;

use super::json::short;
use crate::Hint;

/// What can be wrong with a checkpoint.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not a valid file of weights.
    #[error("{origin}: not a valid file of weights: {reason}")]
    Malformed {
        /// File name, or what the bytes were.
        origin: String,
        /// The first defect found.
        reason: String,
    },
    /// A file that may be what it claims, and that this program does not read.
    #[error("{origin}: {reason}")]
    Refused {
        /// File name, or what the bytes were.
        origin: String,
        /// What it holds that is not read.
        reason: String,
        /// What to try next.
        hint: &'static str,
    },
    /// Tensors that the model never asked for.
    #[error("{origin}: {count} tensors were never read, first `{first}`")]
    Unused {
        /// File name, or what the bytes were.
        origin: String,
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
}

impl Hint for CheckpointError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unreadable { path, .. } => {
                vec![format!("is `{}` the right folder, and readable by you?", path.display())]
            }
            Self::Malformed { .. } => {
                vec!["the file may be cut short: fetch or convert it again".to_string()]
            }
            Self::Refused { hint, .. } => vec![(*hint).to_string()],
            Self::Unused { .. } => {
                vec!["the weights and the config.json beside them do not belong together".into()]
            }
        }
    }
}

/// What is wrong with bytes, before it is known what they are called.
#[derive(Debug)]
pub(super) enum Fault {
    /// They contradict themselves or end early.
    Malformed(String),
    /// They are of a kind that is not read.
    Refused(String, &'static str),
}

impl Fault {
    /// The fault of the part of that name.
    pub(super) fn about(self, name: &str) -> Self {
        let named = |reason: &str| format!("`{}`: {reason}", short(name));
        match self {
            Self::Malformed(reason) => Self::Malformed(named(&reason)),
            Self::Refused(reason, hint) => Self::Refused(named(&reason), hint),
        }
    }

    pub(super) fn at(self, origin: &str) -> CheckpointError {
        let origin = origin.to_string();
        match self {
            Self::Malformed(reason) => CheckpointError::Malformed { origin, reason },
            Self::Refused(reason, hint) => CheckpointError::Refused { origin, reason, hint },
        }
    }
}

/// A reason as the error of a reader.
pub(super) fn malformed<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(reason.into()))
}
