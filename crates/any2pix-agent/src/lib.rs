//! The one place that knows all three: EditRequest to EditOutcome.

pub mod alter;
pub mod components;
pub mod compose;
pub mod conditioning;
pub mod curate;
pub mod edit;
pub mod error;
pub mod gallery;
pub mod inputs;
pub mod knowledge;
mod layers;
pub mod locate;
pub mod matting;
mod nearer;
pub mod outcome;
pub mod painter;
pub mod parity;
pub mod pipeline;
pub mod planes;
pub mod png_metadata;
pub mod progress;
pub mod request;
pub mod run;
pub mod settings;
pub mod sighting;
pub mod storage;
pub mod store;
pub mod tasks;
mod workbench;

pub use edit::Playroom;
pub use error::{AgentError, ErrorClass};
pub use outcome::EditOutcome;
pub use pipeline::Pipeline;
pub use progress::{Progress, Silent, Stage};
pub use request::{EditRequest, Instruction, Reference, Segment};
pub use settings::{Decoder, EditSettings, SettingsPatch};
