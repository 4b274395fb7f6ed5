//! Published checkpoints: what they hold, where they come from, and what is missing.

pub mod definition;
pub mod error;
pub mod table;

pub use definition::{ComponentDefinition, ModelDefinition};
pub use error::{HubError, Result};
pub use table::TensorTable;
