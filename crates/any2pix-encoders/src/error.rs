//! What can go wrong between a file and its embedding.

use std::path::PathBuf;

use any2pix_nn::{CheckpointError, Hint};
use thiserror::Error;

/// Where in the reading of a file it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening and reading the bytes.
    Read,
    /// Turning bytes into pixels.
    Image,
    /// Turning bytes into samples.
    Audio,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "reading",
            Self::Image => "decoding the image",
            Self::Audio => "decoding the sound",
        })
    }
}

/// A picture or a sound that was refused; one line each.
#[derive(Debug, Error)]
pub enum MediaError {
    /// The file cannot be opened or read.
    #[error("{path}: {}: {source}", Stage::Read)]
    Unreadable {
        /// The file as the user wrote it.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A directory, a pipe, a device: nothing that ends.
    #[error("{path}: {}: it is {kind}, not a regular file", Stage::Read)]
    NotAFile {
        /// The path as the user wrote it.
        path: String,
        /// What it is instead.
        kind: &'static str,
    },
    /// A bound was crossed.
    #[error("{path}: {stage}: {reason} (limit {limit})")]
    Limit {
        /// The file as the user wrote it.
        path: String,
        /// Where.
        stage: Stage,
        /// What crossed it, with its own number.
        reason: String,
        /// The bound.
        limit: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// The bytes are no picture, or no sound.
    #[error("{path}: {stage}: {reason}")]
    NotMedia {
        /// The file as the user wrote it.
        path: String,
        /// Where.
        stage: Stage,
        /// What they are, as far as one can tell.
        reason: String,
    },
    /// A format or codec that is known and not read here.
    #[error("{path}: {stage}: unsupported format {format} (supported: {supported})")]
    Unsupported {
        /// The file as the user wrote it.
        path: String,
        /// Where.
        stage: Stage,
        /// Its name.
        format: String,
        /// What is read instead.
        supported: &'static str,
    },
    /// The file ends before its content does.
    #[error("{path}: {stage}: truncated {format}: {detail}")]
    Truncated {
        /// The file as the user wrote it.
        path: String,
        /// Where.
        stage: Stage,
        /// PNG, JPEG, FLAC, …
        format: String,
        /// What is missing.
        detail: String,
    },
    /// The content contradicts its own format.
    #[error("{path}: {stage}: damaged {format}: {reason}")]
    Damaged {
        /// The file as the user wrote it.
        path: String,
        /// Where.
        stage: Stage,
        /// PNG, JPEG, WAV, …
        format: String,
        /// The first defect found.
        reason: String,
    },
    /// A sound in which nothing can be heard.
    #[error("{path}: {}: {reason}", Stage::Audio)]
    Inaudible {
        /// The file as the user wrote it.
        path: String,
        /// Empty, silent or too short.
        reason: String,
    },
}

impl MediaError {
    /// The file as the user wrote it.
    pub fn path(&self) -> &str {
        match self {
            Self::Unreadable { path, .. }
            | Self::NotAFile { path, .. }
            | Self::Limit { path, .. }
            | Self::NotMedia { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Truncated { path, .. }
            | Self::Damaged { path, .. }
            | Self::Inaudible { path, .. } => path,
        }
    }
}

impl Hint for MediaError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Unreadable { .. } => "does the file exist, and may you read it?",
            Self::NotAFile { .. } => "give the path of a picture or a sound file",
            Self::Limit { hint, .. } => hint,
            Self::NotMedia { stage: Stage::Audio, .. } => "give a WAV, MP3, FLAC or OGG file",
            Self::NotMedia { .. } => "give a PNG, JPEG, WebP, GIF, BMP or TIFF file",
            Self::Unsupported { .. } => "convert it to one of the supported formats",
            Self::Truncated { .. } => "the file was cut short: copy or download it again",
            Self::Damaged { .. } => "open it in another program and save it again",
            Self::Inaudible { .. } => "give a recording of at least a quarter of a second",
        };
        vec![hint.to_string()]
    }
}

/// An encoder that cannot be built or run.
#[derive(Debug, Error)]
pub enum EncoderError {
    /// A picture or a sound was refused.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The weights cannot be read, or are not this model's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor operation failed.
    #[error("the encoder failed")]
    Tensor(#[from] candle_core::Error),
    /// A `config.json` that says something impossible.
    #[error("{component}: config.json: {reason}")]
    Config {
        /// Whose config.
        component: &'static str,
        /// The first defect found.
        reason: String,
    },
    /// A tokenizer that cannot be built or used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A file of a model folder cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Hint for EncoderError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Media(error) => error.hints(),
            Self::Checkpoint(error) => error.hints(),
            Self::Config { .. } | Self::Tokenizer(_) | Self::Unreadable { .. } => {
                vec!["is the model folder complete, and of this version?".to_string()]
            }
            Self::Tensor(_) => Vec::new(),
        }
    }
}
