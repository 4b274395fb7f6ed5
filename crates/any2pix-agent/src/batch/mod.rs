//! Batches: a manifest of many edits, done so that nothing is lost, doubled or torn.
//!
//! # The folder of a batch
//!
//! ```text
//! batch.json                      what makes these results: manifest, configuration, shards
//! outputs/<name>.png              one picture a row, under a name derived from the row's id
//! part-00003-of-00016.jsonl       the journal of a shard: a header, then one line a finished row
//! part-00003-of-00016.done        says that the shard is complete
//! results.jsonl, report.json      what `merge` makes of all shards: the same bytes for any number
//! cluster/                        where a cluster did it: what was started, and its logs
//! ```
//!
//! A picture is synced and renamed, its folder is synced, then its line is appended to the journal
//! and synced: a row is done when its line is there. A run that starts again reads the journal,
//! drops a last line that is torn, and does the rest.

mod conversation;
mod edit;
mod folder;
mod identity;
mod journal;
mod manifest;
mod media;
mod merge;
mod names;
mod result;
mod row;
mod run;
mod shards;

pub use folder::begun_shards;
pub use journal::{Entry, Header, Journal};
pub use manifest::{Fault, Manifest, ManifestOptions};
pub use merge::{Merged, merge};
pub use result::{FailureGroup, RowResult, RowStatus, Totals};
pub use run::{Batch, RowEvent, Summary, Watch};
pub use shards::Shard;
