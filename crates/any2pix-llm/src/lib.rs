//! Intention: an instruction and embeddings to an EditPlan.
//!
//! [`Planner::plan`] is the door. The text that a user writes is data: only this program can
//! write control tokens, and the model's answer is read by token id.

pub mod chat_template;
pub mod config;
pub mod error;
pub mod generation;
pub mod grammar;
pub mod instruction;
pub mod llama;
pub mod llama_cpp;
pub mod model;
pub mod parity;
pub mod plan;
pub mod planner;
pub mod tokenizer;

pub use chat_template::ChatTemplate;
pub use config::LlamaConfig;
pub use error::LlmError;
pub use generation::{GenerationConfig, Sampling};
pub use grammar::PlanGrammar;
pub use instruction::{Embedding, MediaKind, Piece};
pub use llama::LlamaForCausalLM;
pub use model::InstructAny2PixForCausalLM;
pub use plan::{EditPlan, Operation};
pub use planner::{Planner, PlannerConfig};
pub use tokenizer::{ControlTokens, Tokenizer};
