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
    /// What was asked for is no `organisation/name`.
    #[error("`{id}` is neither a model that this program knows nor organisation/name")]
    NotARepository {
        /// What was asked for.
        id: String,
    },
    /// A name that would lead out of the folder it is meant for.
    #[error("{origin}: the path `{}` leaves its folder", path.escape_debug())]
    UnsafePath {
        /// Who gave it.
        origin: String,
        /// The name.
        path: String,
    },
    /// A connection would be needed and none may be opened.
    #[error("{what}: not on this machine, and no connection may be opened")]
    Offline {
        /// What would have been asked for.
        what: String,
    },
    /// No answer came, or not all of it.
    #[error("{url}: {reason}")]
    Connection {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// The hub wants to know who asks, or refuses who asks.
    #[error("{url}: refused with status {status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Refused {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
        /// What the hub says.
        reason: String,
    },
    /// The hub has no such repository, revision or file, or does not show it.
    #[error("{url}: is not there{}{reason}", if reason.is_empty() { "" } else { ": " })]
    NotThere {
        /// What was asked for.
        url: String,
        /// What the hub says.
        reason: String,
    },
    /// Another answer than a file.
    #[error("{url}: answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// Of HTTP.
        status: u16,
        /// Seconds after which the server wants to be asked again.
        retry_after: Option<u64>,
    },
    /// What came is not what was announced.
    #[error("{path}: its hash is {found}, announced was {expected}")]
    WrongHash {
        /// The file.
        path: String,
        /// As listed.
        expected: String,
        /// As computed or answered.
        found: String,
    },
    /// Somebody else is fetching the same.
    #[error("{}: another process is fetching this", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
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

    /// An [`HubError::Connection`] about `url`.
    pub(crate) fn connection(url: &str, reason: impl ToString) -> Self {
        Self::Connection { url: url.to_string(), reason: reason.to_string() }
    }

    /// Seconds after which the same may be asked again, if the server said so; `None` when
    /// another answer is not to be expected.
    pub(crate) fn worth_another_try(&self) -> Option<Option<u64>> {
        match self {
            Self::Connection { .. } => Some(None),
            Self::Status { status: 429 | 500 | 502 | 503 | 504, retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        }
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
            Self::UnknownComponent { .. } => {
                vec!["without --only, all of them are taken".into()]
            }
            Self::NotARepository { .. } => {
                vec!["examples: instructany2pix, stabilityai/stable-diffusion-xl-base-1.0".into()]
            }
            Self::Offline { .. } => {
                vec!["leave out --offline and HF_HUB_OFFLINE, or copy the files here".into()]
            }
            Self::Connection { .. } => {
                vec!["the same command goes on where this one stopped".into()]
            }
            Self::Refused { with_token: false, .. } => {
                vec!["set HF_TOKEN to a token of yours; gated models also want consent".into()]
            }
            Self::Refused { .. } => {
                vec!["has HF_TOKEN expired, and was consent given on the model's page?".into()]
            }
            Self::NotThere { .. } => {
                vec!["is the name right, and the --revision? private models need HF_TOKEN".into()]
            }
            Self::Status { retry_after: Some(seconds), .. } => {
                vec![format!("the server asks to come back after {seconds} seconds")]
            }
            Self::WrongHash { .. } => {
                vec!["it was removed; the same command fetches it again".into()]
            }
            Self::Locked { .. } => vec!["wait for the other one, then run this again".into()],
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
