//! Published checkpoints: what they hold, where they come from, and what is missing.

pub mod definition;
pub mod error;
pub mod init;
mod random;
pub mod storage;
pub mod table;
mod tokenizer;
pub mod write;

pub use definition::{ComponentDefinition, ModelDefinition};
pub use error::{HubError, Result};
pub use init::{InitOptions, init};
pub use storage::{Progress, Silent, human_bytes};
pub use table::TensorTable;
