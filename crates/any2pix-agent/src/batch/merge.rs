//! `merge`: the journals of all shards become one list of results and one report.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::folder::{BatchFolder, REPORT, RESULTS};
use super::identity::Identity;
use super::journal::{self, Entry};
use super::result::{PictureFile, RowResult, Totals};
use super::shards::{Shard, array};
use crate::error::AgentError;
use crate::outcome::sha256;
use crate::storage::write_atomically;

/// What is in a batch's folder.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Rows of the manifest.
    pub rows: usize,
    /// How those that are there ended.
    pub totals: Totals,
    /// How many are not there.
    pub missing: usize,
    /// The shards that they belong to, as Slurm's `--array` takes them; empty when none is missing.
    pub missing_shards: String,
}

/// Results by the row's place in the manifest, as they were written.
type Results = BTreeMap<usize, String>;

/// Joins the journals of the batch in `out` and writes `results.jsonl` and `report.json`: the same
/// bytes for any number of shards.
pub fn merge(out: &Path) -> Result<Merged, AgentError> {
    let folder = BatchFolder::new(out);
    let none = || AgentError::NoBatch { path: out.to_path_buf() };
    let identity = folder.identity()?.ok_or_else(none)?;
    let _lock = folder.claim_merge()?;
    let (mut results, mut totals, mut missing_shards) =
        (Results::new(), Totals::default(), Vec::new());
    for index in 0..identity.shards() {
        let shard = Shard { index, count: identity.shards() };
        if !collect(&folder, shard, &identity, &mut results, &mut totals)? {
            missing_shards.push(index);
        }
    }
    let merged = Merged {
        rows: identity.rows(),
        totals,
        missing: identity.rows().saturating_sub(results.len()),
        missing_shards: array(&missing_shards),
    };
    let lines: String = results.into_values().map(|text| text + "\n").collect();
    write_atomically(&folder.join(RESULTS), lines.as_bytes())?;
    let report = report(&identity, &merged, &lines);
    write_atomically(&folder.join(REPORT), report.as_bytes())?;
    Ok(merged)
}

/// Reads a shard's journal; says whether the shard is complete.
fn collect(
    folder: &BatchFolder,
    shard: Shard,
    identity: &Identity,
    results: &mut Results,
    totals: &mut Totals,
) -> Result<bool, AgentError> {
    let path = folder.journal(shard);
    let mut rows = BTreeMap::new();
    let scan = journal::scan(&path, |entry: Entry<RowResult>| {
        rows.insert(entry.index, entry);
        Ok(())
    })?;
    let Some(scan) = scan else { return Ok(false) };
    let other = |what| AgentError::OtherBatch { path: path.clone(), what };
    if scan.header.batch != identity.digest() || scan.header.shard != shard.index {
        return Err(other("another manifest or configuration"));
    }
    let is_there = |entry: &Entry<RowResult>| {
        entry.result.picture.as_ref().is_none_or(|p| is_there(folder, p))
    };
    rows.retain(|_, entry| is_there(entry));
    let is_complete = rows.len() == scan.header.rows;
    for (index, entry) in rows {
        totals.count(&entry.result);
        if results.insert(index, entry.text).is_some() {
            return Err(other("a row that another shard has too"));
        }
    }
    Ok(is_complete && folder.done(shard).is_file())
}

/// Whether a picture is where its row says, with as many bytes.
pub(super) fn is_there(folder: &BatchFolder, picture: &PictureFile) -> bool {
    std::fs::metadata(folder.join(&picture.output))
        .is_ok_and(|file| file.is_file() && file.len() == picture.bytes)
}

fn report(identity: &Identity, merged: &Merged, lines: &str) -> String {
    let report = json!({
        "batch": identity.for_report(),
        "rows": merged.rows,
        "done": merged.totals.done,
        "failed": merged.totals.failed(),
        "missing": merged.missing,
        "failures": merged.totals.failures(),
        "results_sha256": sha256(lines.as_bytes()),
    });
    format!("{report:#}\n")
}
