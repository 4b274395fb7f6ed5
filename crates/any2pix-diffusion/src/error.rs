//! `DiffusionError`: what can go wrong before a tensor is touched, and what to try next.

use any2pix_nn::{CheckpointError, Hint};
use thiserror::Error;

/// Errors of this crate that are not a tensor operation's own.
#[derive(Debug, Error)]
pub enum DiffusionError {
    /// A config asks for something that this build does not do.
    #[error("{component}: {key} = {value} is not supported")]
    Unsupported {
        /// The class whose config it is.
        component: &'static str,
        /// The key in config.json.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// A config that is not what its class expects.
    #[error("{component}: the config cannot be read")]
    Config {
        /// The class whose config it is.
        component: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A LoRA that cannot be merged.
    #[error("{origin}: `{name}`: {reason}")]
    Lora {
        /// The file.
        origin: String,
        /// The tensor or module.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Weights that do not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Hint for DiffusionError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unsupported { key, .. } => {
                vec![format!("set `{key}` to a supported value, or use another model")]
            }
            Self::Config { .. } => vec!["is this the config.json of that component?".into()],
            Self::Lora { .. } => vec!["a LoRA fits the model that it was made for".into()],
            Self::Checkpoint(source) => source.hints(),
            Self::Tensor(_) => Vec::new(),
        }
    }
}

/// Reads a config with upstream's keys.
pub fn parse_config<T: serde::de::DeserializeOwned>(
    component: &'static str,
    value: &serde_json::Value,
) -> Result<T, DiffusionError> {
    serde_json::from_value(value.clone())
        .map_err(|source| DiffusionError::Config { component, source })
}
