//! `EvalError`: why there are no numbers.

use std::path::{Path, PathBuf};

use any2pix_encoders::EncoderError;
use any2pix_nn::{CheckpointError, Hint};
use thiserror::Error;

/// What every fallible function of this crate returns.
pub type Result<T, E = EvalError> = std::result::Result<T, E>;

/// Why there are no numbers.
#[derive(Debug, Error)]
pub enum EvalError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the suite is not as it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The first defect.
        reason: String,
    },
    /// A component's weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A published metric's model cannot be opened or used.
    #[error("{}: {source}", folder.display())]
    Metric {
        /// Its folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: Box<EncoderError>,
    },
    /// Whoever watches wanted no more.
    #[error("stopped before the last item; nothing was written but pictures")]
    Stopped,
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl EvalError {
    /// An [`EvalError::Io`] about `path`, for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// An [`EvalError::Malformed`] about `path`.
    pub fn malformed(path: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::Malformed { path: path.as_ref().to_path_buf(), reason: reason.to_string() }
    }
}

impl Hint for EvalError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Malformed { .. } => {
                vec!["`any2pix data playroom` writes the suite; is it complete?".into()]
            }
            Self::Checkpoint(error) => error.hints(),
            Self::Metric { source, .. } => source.hints(),
            _ => Vec::new(),
        }
    }
}
