//! Published checkpoints: what they hold, where they come from, and what is missing; and every
//! other connection, which is the one to a judge.

pub mod cache;
pub mod chat;
pub mod client;
pub mod convert;
pub mod definition;
mod download;
pub mod error;
mod glob;
pub mod init;
pub mod inspect;
pub mod listing;
pub mod pull;
mod random;
pub mod storage;
pub mod table;
mod tokenizer;
pub mod write;

pub use cache::{Cache, Snapshot};
pub use chat::{ChatClient, ChatSettings};
pub use client::{HubClient, HubSettings};
pub use convert::convert;
pub use definition::{ComponentDefinition, ModelDefinition};
pub use error::{HubError, Result};
pub use init::{InitOptions, init};
pub use inspect::{Inspection, inspect};
pub use pull::{Destination, ModelPlace, PullRequest, Pulled, pull, pull_model};
pub use storage::{Progress, Silent, human_bytes};
pub use table::TensorTable;
