//! Numbers about edits: suites with exact truth, metrics, the harness, the report.

pub mod error;
pub mod metrics;
pub mod report;
pub mod suite;

pub use error::{EvalError, Result};
pub use report::Sample;
pub use suite::Suite;
