//! `Protocol`: one run from its first item to its report, in one folder.

use std::path::Path;

use serde_json::{Value, json};

use crate::contact_sheet;
use crate::harness::{Harness, Tell};
use crate::journal::{Entry, Journal};
use crate::report::{self, About, Absent, Sample};
use crate::systems::System;
use crate::{Result, meaning};

/// How many items the contact sheet shows.
const SHOWN: usize = 40;

/// Everything that decides the figures of one run.
pub struct Protocol<'a> {
    /// What is run and how it is looked at.
    pub harness: Harness<'a>,
    /// What is run, as the report says it: system, model, suite, by their hashes. The rest that
    /// decides the figures is added from the harness.
    pub about: Value,
    /// SHA-256 of what the eyes judge by.
    pub eyes: Option<String>,
}

/// What a run came to.
pub struct Report {
    /// The rows, in the order of the suite.
    pub samples: Vec<Sample>,
    /// The Markdown table.
    pub table: String,
    /// Seconds and memory.
    pub costs: Value,
}

impl Protocol<'_> {
    /// Why figures are in no sample.
    pub fn absent(&self) -> Absent {
        let captions = self.harness.suite.has_captions();
        let mut absent = self.harness.published.map(|p| p.absent(captions)).unwrap_or_default();
        if self.harness.eyes.is_some() {
            absent.extend(meaning::absent(captions));
        }
        absent
    }

    /// All that decides the figures; another run in the same folder is told apart by it.
    fn pinned(&self) -> Value {
        let Harness { suite, published, settings, raw, .. } = &self.harness;
        let mut pinned = json!({
            "any2pix": env!("CARGO_PKG_VERSION"),
            "items": suite.items.len(),
            "settings": settings,
            "raw": raw,
            "eyes": self.eyes,
            "metrics": published.map(|published| published.hashes()),
        });
        if let (Value::Object(pinned), Value::Object(about)) = (&mut pinned, &self.about) {
            pinned.extend(about.clone());
        }
        pinned
    }

    /// Runs what is not done yet and writes the report into `out`: `samples.jsonl`,
    /// `results.json`, `table.md`, the same bytes for the same run, killed and resumed or not;
    /// beside them `outputs/`, `contact_sheet.png`, and what differs from run to run, `timings.json`
    /// and the journal.
    pub fn run(
        &self,
        system: &dyn System,
        out: &Path,
        resume: bool,
        tell: &mut Tell<'_>,
    ) -> Result<Report> {
        let run = self.pinned();
        let journal = Journal::open(out, &run, resume)?;
        let entries = self.harness.run(system, &journal, tell)?;
        let costs = report::costs(&entries);
        let samples: Vec<Sample> = entries.into_iter().map(|Entry { sample, .. }| sample).collect();
        let made_with = self.harness.published.map(|p| p.made_with()).unwrap_or_default();
        let about = About { run, made_with: json!(made_with), absent: self.absent() };
        let table = report::write(out, &samples, &about)?;
        report::write_costs(out, &costs)?;
        contact_sheet::write(self.harness.suite, &samples, out, SHOWN)?;
        Ok(Report { samples, table, costs })
    }
}
