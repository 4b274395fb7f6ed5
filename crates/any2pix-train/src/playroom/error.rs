//! What can go wrong while the Playroom is fetched, prepared or opened.

use std::path::{Path, PathBuf};

use any2pix_nn::Hint;

/// Why a Playroom data set could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PlayroomError {
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A package client is not installed.
    #[error("the tool `{tool}` is needed to {doing}, and cannot be run")]
    ToolMissing {
        /// The program's name.
        tool: &'static str,
        /// What it is for.
        doing: String,
    },
    /// A package client ran and failed.
    #[error("`{tool}` failed to {doing}: {detail}")]
    ToolFailed {
        /// The program's name.
        tool: &'static str,
        /// What it was doing.
        doing: String,
        /// The end of what it wrote to its error stream.
        detail: String,
    },
    /// A file is not what its name says.
    #[error("{}: {detail}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The prepared store has nothing to draw from.
    #[error("the Playroom at {} has no {what}", path.display())]
    Empty {
        /// The prepared store.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

impl PlayroomError {
    /// For `map_err` on input and output at `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// For `map_err` on anything that says why `path` is not readable as what it should be.
    pub(super) fn format<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self + '_ {
        move |error| Self::Format { path: path.to_owned(), detail: error.to_string() }
    }
}

impl Hint for PlayroomError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::ToolMissing { tool, .. } => {
                vec![format!(
                    "install `{tool}`, or put the unpacked packages under DIR/packages/root"
                )]
            }
            Self::ToolFailed { .. } => vec![
                "the packages are Debian 12's, npm's and PyPI's: check the network and the sources"
                    .to_owned(),
            ],
            Self::Empty { .. } => {
                vec!["prepare it with `any2pix data playroom --out DIR`".to_owned()]
            }
            Self::Io { .. } | Self::Format { .. } => Vec::new(),
        }
    }
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, PlayroomError>;
