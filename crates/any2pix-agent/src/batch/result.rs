//! What a batch says of a row, and of all rows together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::outcome::{PlanReport, Provenance, StageTime};

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowStatus {
    /// Its picture is there.
    Done,
    /// There is a reason instead of a picture.
    Failed,
}

/// A row's result: nothing in it depends on when, where or beside what it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowResult {
    /// The row's id.
    pub id: String,
    /// How it ended.
    pub status: RowStatus,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    /// The instruction, as it parses.
    pub instruction: String,
    /// The seed that was in force.
    pub seed: u64,
    /// The picture.
    #[serde(flatten)]
    pub picture: Option<PictureFile>,
    /// Why there is none.
    #[serde(flatten)]
    pub failure: Option<RowFailure>,
}

/// A row's picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureFile {
    /// Its file, relative to the batch's folder.
    pub output: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// What the planner understood.
    pub plan: PlanReport,
    /// The inputs.
    pub references: Vec<Provenance>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why a row has no picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFailure {
    /// The kind of failure; rows that failed alike have the same.
    pub reason: String,
    /// What is wrong with this row.
    pub error: String,
    /// What to try next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What differs from run to run; merged results leave it out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct RunFigures {
    /// Wall time of the row.
    pub(super) seconds: f64,
    /// Wall time of each stage.
    pub(super) timings: Vec<StageTime>,
    /// Largest resident memory of the process so far.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// Rows that failed alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureGroup {
    /// The kind of failure.
    pub reason: String,
    /// How many.
    pub count: usize,
    /// The first of them.
    pub example: String,
    /// Its error.
    pub error: String,
}

/// How many rows ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows with a picture.
    pub done: usize,
    /// The others, by reason.
    groups: BTreeMap<String, (usize, String, String)>,
}

impl Totals {
    /// Counts a row; of rows that failed alike the first by id stands for all, whatever the order.
    pub fn count(&mut self, result: &RowResult) {
        let Some(failure) = &result.failure else {
            self.done += 1;
            return;
        };
        let first = (result.id.clone(), failure.error.clone());
        let group = self.groups.entry(failure.reason.clone());
        let group = group.or_insert_with(|| (0, first.0.clone(), first.1.clone()));
        group.0 += 1;
        if first.0 < group.1 {
            (group.1, group.2) = first;
        }
    }

    /// How many rows have no picture.
    pub fn failed(&self) -> usize {
        self.groups.values().map(|(count, ..)| count).sum()
    }

    /// The rows without a picture, the most frequent reason first.
    pub fn failures(&self) -> Vec<FailureGroup> {
        let group = |(reason, (count, example, error)): (&String, &(usize, String, String))| {
            let (reason, example, error) = (reason.clone(), example.clone(), error.clone());
            FailureGroup { reason, count: *count, example, error }
        };
        let mut groups: Vec<FailureGroup> = self.groups.iter().map(group).collect();
        groups.sort_by(|a, b| b.count.cmp(&a.count).then(a.reason.cmp(&b.reason)));
        groups
    }
}
