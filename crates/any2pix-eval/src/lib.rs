//! Numbers about edits: suites with exact truth, metrics, the harness, the report.

pub mod contact_sheet;
pub mod error;
pub mod eyes;
pub mod harness;
pub mod item;
pub mod metrics;
pub mod parity;
pub mod perception;
pub mod published;
pub mod report;
pub mod suite;
pub mod sweep;

pub use error::{EvalError, Result};
pub use eyes::Eyes;
pub use harness::{Harness, System};
pub use perception::Perception;
pub use published::Published;
pub use report::Sample;
pub use suite::Suite;
