//! `TrainError`: what can go wrong while training, and what to try next.

use std::path::{Path, PathBuf};

use any2pix_nn::{CheckpointError, Hint};
use thiserror::Error;

/// What every fallible function of this crate returns.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// What can go wrong while training.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A settings file is not what this crate reads.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The first defect found.
        reason: String,
    },
    /// The run directory holds a run already.
    #[error("{}: holds a run already, at step {step}", path.display())]
    RunExists {
        /// The run directory.
        path: PathBuf,
        /// Its last saved step.
        step: u64,
    },
    /// The saved state does not belong to this recipe and these settings.
    #[error("{}: cannot be resumed: {reason}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The loss or the gradient stopped being a number.
    #[error("step {step}: the {what} is {value}")]
    NonFinite {
        /// The step.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// What it was.
        value: f64,
    },
    /// There is no stage of this name.
    #[error("`{name}` is not a stage; there are {}", known.join(", "))]
    UnknownStage {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// Training data are missing or not as expected.
    #[error("{what}")]
    Data {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A curve cannot be drawn.
    #[error("{}: cannot be drawn: {reason}", path.display())]
    Curve {
        /// The picture.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A component's weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl TrainError {
    /// An [`TrainError::Io`] about `path`, for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }
}

impl Hint for TrainError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::RunExists { .. } => {
                vec!["`--resume` goes on with it; another `--run` starts anew".into()]
            }
            Self::Resume { .. } => {
                vec!["resume with the settings the run began with, or start another run".into()]
            }
            Self::NonFinite { .. } => vec![
                "`--resume` starts from the last checkpoint".into(),
                "a lower learning_rate or clip_norm, or a longer warmup, may pass this step".into(),
            ],
            Self::Data { hint, .. } => vec![hint.clone()],
            Self::Checkpoint(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}
