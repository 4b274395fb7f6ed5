//! `EvalError`: why there are no numbers.

use std::path::{Path, PathBuf};

use any2pix_agent::{AgentError, ErrorClass};
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
    /// A file of the suite or of a report is not as it should be.
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
    /// An edit, or what an edit needs, failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A system cannot do what an item asks for.
    #[error("{reason}")]
    Inapplicable {
        /// Why not.
        reason: String,
    },
    /// A folder holds a run already.
    #[error("{}: there is a run in this folder", folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder holds another run than the one that is to go on.
    #[error("{}: the run in this folder differs in `{field}`: {there}, not {here}", folder.display())]
    AnotherRun {
        /// The folder.
        folder: PathBuf,
        /// The first thing in which it differs.
        field: String,
        /// What the folder says.
        there: String,
        /// What this run says.
        here: String,
    },
    /// Another process writes to a folder.
    #[error("{}: another process writes to this folder", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// What was asked for cannot be understood.
    #[error("`{text}`: {reason}")]
    Syntax {
        /// What was said.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Whoever watches wanted no more.
    #[error("stopped before the last item; what was measured is kept")]
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

    /// An [`EvalError::Syntax`] about `text`.
    pub fn syntax(text: impl ToString, reason: impl ToString) -> Self {
        Self::Syntax { text: text.to_string(), reason: reason.to_string() }
    }

    /// An [`EvalError::Inapplicable`].
    pub fn inapplicable(reason: impl ToString) -> Self {
        Self::Inapplicable { reason: reason.to_string() }
    }

    /// Whether only one item fails with it: a system that cannot do one edit may do the next, one
    /// whose weights cannot be read will do none.
    pub fn is_of_one_item(&self) -> bool {
        match self {
            Self::Inapplicable { .. } => true,
            Self::Agent(error) => {
                matches!(error.class(), ErrorClass::Refused | ErrorClass::Internal)
            }
            _ => false,
        }
    }
}

impl Hint for EvalError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Malformed { .. } => {
                "`any2pix data playroom` writes suites, `any2pix eval` reports; is it complete?"
            }
            Self::Taken { .. } => "`--resume` goes on with it; or give another folder",
            Self::AnotherRun { .. } => "give another folder, or the settings of that run",
            Self::Busy { .. } => "wait until it has ended, or give another folder",
            Self::Stopped => "`--resume` goes on with the same command",
            Self::Checkpoint(error) => return error.hints(),
            Self::Metric { source, .. } => return source.hints(),
            Self::Agent(error) => return error.hints(),
            _ => return Vec::new(),
        };
        vec![hint.into()]
    }
}
