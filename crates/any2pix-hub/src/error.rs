//! `HubError`: why a published model cannot be had.

use std::path::{Path, PathBuf};

use any2pix_nn::{CheckpointError, Hint};
use thiserror::Error;

use crate::storage::human_bytes;

/// What every fallible function of this crate returns.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// Why a published model cannot be had, written or looked at.
#[derive(Debug, Error)]
pub enum HubError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file, or an answer, is not as it should be.
    #[error("{origin}: {reason}")]
    Malformed {
        /// File name or address.
        origin: String,
        /// The first defect.
        reason: String,
    },
    /// There is no model of that name.
    #[error("`{name}` is no model that this program knows; it knows {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The model has no component of that name.
    #[error("`{model}` has no component `{component}`; it has {known}")]
    UnknownComponent {
        /// The model.
        model: String,
        /// What was asked for.
        component: String,
        /// What there is.
        known: String,
    },
    /// There is less room than what is going to be written takes.
    #[error("{}: {} are needed, {} are free", path.display(), human_bytes(*needed), human_bytes(*free))]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// What is needed.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// A file that would be written is there already.
    #[error("{}: is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Whoever watches wanted no more.
    #[error("stopped")]
    Stopped,
    /// Weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl HubError {
    /// An [`HubError::Io`] about `path`, for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// An [`HubError::Malformed`] about `origin`.
    pub fn malformed(origin: impl ToString, reason: impl ToString) -> Self {
        Self::Malformed { origin: origin.to_string(), reason: reason.to_string() }
    }
}

impl Hint for HubError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::UnknownModel { .. } => {
                vec!["`any2pix models list` shows the models there are".into()]
            }
            Self::NoRoom { .. } => {
                vec!["make room, or name a folder on another disk".into()]
            }
            Self::Exists { .. } => {
                vec!["remove it, name another folder, or choose parts with --only".into()]
            }
            Self::Checkpoint(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}
