//! Numbers about edits: suites with exact truth, systems, metrics, the harness, the report,
//! comparisons and sweeps.

pub mod amend;
pub mod asked;
pub mod chart;
pub mod chat;
pub mod compare;
pub mod contact_sheet;
pub mod curves;
pub mod error;
pub mod eyes;
pub mod harness;
pub mod item;
pub mod journal;
pub mod layouts;
pub mod meaning;
pub mod metrics;
pub mod page;
pub mod parity;
pub mod perception;
pub mod pix2pix;
pub mod protocol;
pub mod published;
pub mod report;
pub mod suite;
pub mod sweep;
pub mod systems;
pub mod viescore;

pub use asked::Asked;
pub use error::{EvalError, Result};
pub use eyes::Eyes;
pub use harness::Harness;
pub use journal::Journal;
pub use perception::Perception;
pub use protocol::Protocol;
pub use published::{ColourRange, Published};
pub use report::Sample;
pub use suite::Suite;
pub use systems::System;
