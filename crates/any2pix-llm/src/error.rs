//! What can go wrong between an instruction and its plan.

use any2pix_nn::{CheckpointError, Hint};
use thiserror::Error;

/// An instruction that became no plan, or a model that cannot be loaded.
#[derive(Debug, Error)]
pub enum LlmError {
    /// A value in a config that cannot be.
    #[error("language model config: `{key}`: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// Why it cannot be.
        reason: String,
    },
    /// The tokenizer cannot be read or does not fit the model.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer lacks a token that plans are made of.
    #[error("tokenizer: it has no control token `{token}`")]
    MissingControlToken {
        /// The token's text.
        token: &'static str,
    },
    /// More text than an instruction may have.
    #[error("the instruction has {bytes} bytes; at most {limit} are read")]
    InstructionTooLong {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Prompt and answer do not fit the model's context.
    #[error(
        "the prompt has {prompt} tokens and the answer may have {answer}; the model's context has {context}"
    )]
    ContextTooShort {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that the answer may have.
        answer: usize,
        /// Tokens that the model can hold.
        context: usize,
    },
    /// A place for a reference without its embedding.
    #[error("the instruction names reference {index}, but there are {count} embeddings")]
    NoSuchReference {
        /// Zero-based.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// An embedding of the wrong width.
    #[error("embedding {index} has {width} numbers; this model takes {expected}")]
    EmbeddingWidth {
        /// Zero-based.
        index: usize,
        /// Its width.
        width: usize,
        /// The model's.
        expected: usize,
    },
    /// The model's answer is not a plan.
    #[error("the model gave no plan: `{missing}` is missing from its answer: {answer:?}")]
    Refusal {
        /// The control token that is not there.
        missing: &'static str,
        /// What the model said.
        answer: String,
    },
    /// The plan takes its source from the references, and none of them is a picture.
    #[error("the plan edits a picture, but no reference is a picture")]
    NoBaseImage,
    /// The weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The arithmetic.
    #[error("language model: {0}")]
    Compute(#[from] candle_core::Error),
}

impl Hint for LlmError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Config { .. } | Self::MissingControlToken { .. } | Self::Tokenizer { .. } => {
                vec!["are config.json and tokenizer.json from the same folder?".to_string()]
            }
            Self::InstructionTooLong { .. } | Self::ContextTooShort { .. } => {
                vec!["say it in fewer words".to_string()]
            }
            Self::Refusal { .. } => {
                vec!["say what to change and in which picture: `add a dog to [photo.png]`".into()]
            }
            Self::NoBaseImage => {
                vec!["name a picture to edit, or ask for a new one: `make a picture of …`".into()]
            }
            Self::Checkpoint(error) => error.hints(),
            Self::NoSuchReference { .. } | Self::EmbeddingWidth { .. } | Self::Compute(_) => {
                Vec::new()
            }
        }
    }
}
