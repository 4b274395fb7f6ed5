//! The one place that knows all three: EditRequest to EditOutcome.

pub mod error;
pub mod outcome;
pub mod pipeline;
pub mod png_metadata;
pub mod progress;
pub mod request;
pub mod settings;
pub mod storage;

pub use error::{AgentError, ErrorClass};
pub use outcome::EditOutcome;
pub use pipeline::Pipeline;
pub use progress::{Progress, Silent, Stage};
pub use request::{EditRequest, Instruction, Reference, Segment};
pub use settings::{Decoder, EditSettings, SettingsPatch};
