//! The page: one HTML file with tables, charts and every edit, that asks for nothing else.
//!
//! The page's own script and style are named by their hashes in its content security policy:
//! nothing from outside is loaded, and a script that came in with a text would not run.

mod data;
mod html;
mod media;
mod wave;

use std::fs;
use std::path::Path;

use any2pix_agent::storage::write_atomically;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::chart::Chart;
use crate::report::{self, Slice};
use crate::suite::Suite;
use crate::{EvalError, Result};

const PAGE: &str = include_str!("page.html");
const GRID: &str = include_str!("grid.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The file's name in the folder of a run.
pub const FILE: &str = "report.html";
/// What a page may take for every item, in bytes: 200 items stay under five megabytes.
const BYTES_AN_ITEM: usize = 24_000;
/// Small suites need not be stingy.
const LEAST_ITEMS: usize = 200;

/// `results.json` as far as the page shows it.
#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    run: Value,
    #[serde(default)]
    absent: Value,
    slices: Vec<Slice>,
}

/// Writes `report.html` into the folder of a run, from what is stored there and in the suite.
///
/// # Errors
/// `results.json` and `samples.jsonl` must be there. A picture or sound that is not shows as
/// missing.
pub fn write(suite: &Suite, dir: &Path) -> Result<()> {
    let path = dir.join(report::RESULTS);
    let text = fs::read(&path).map_err(EvalError::io(&path))?;
    let results: Results =
        serde_json::from_slice(&text).map_err(|e| EvalError::malformed(&path, e))?;
    let samples = report::read(dir)?;
    let narrow: Vec<Slice> =
        results.slices.into_iter().filter(|slice| report::parts(&slice.name) < 3).collect();
    let charts = html::interval_charts(&narrow);
    let parts = Parts {
        title: format!("Edits of {}", html::system(&results.run)),
        lead: format!("{} edits, each beside its source and its target.", samples.len()),
        table: html::table(&narrow),
        absent: html::absent(&results.absent),
        charts: html::charts("Main figures by slice", &charts),
        about: html::about(&results.run),
        grid: GRID.to_string(),
        data: String::new(),
    };
    let rest = parts.page().len();
    let budget = (samples.len().max(LEAST_ITEMS) * BYTES_AN_ITEM).saturating_sub(rest);
    let data = data::collect(suite, dir, &samples, budget);
    save(&dir.join(FILE), &Parts { data: html::json(&data), ..parts }.page())
}

/// Writes a page of charts and tables alone, as a sweep has them.
///
/// # Errors
/// What the file system refuses.
pub fn write_charts(path: &Path, title: &str, charts: &[Chart], about: &Value) -> Result<()> {
    let parts = Parts {
        title: title.to_string(),
        lead: format!("{} charts.", charts.len()),
        table: html::chart_tables(charts),
        absent: String::new(),
        charts: html::charts("Curves", charts),
        about: html::about(about),
        grid: String::new(),
        data: "{}".to_string(),
    };
    save(path, &parts.page())
}

fn save(path: &Path, page: &str) -> Result<()> {
    Ok(write_atomically(path, page.as_bytes())?)
}

/// What stands in the page; all but `title` and `lead` is HTML already.
struct Parts {
    title: String,
    lead: String,
    table: String,
    absent: String,
    charts: String,
    about: String,
    grid: String,
    data: String,
}

impl Parts {
    fn page(&self) -> String {
        let policy = format!(
            "default-src 'none'; img-src data:; media-src data:; style-src '{}'; script-src '{}'; \
             base-uri 'none'; form-action 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        html::fill(
            PAGE,
            &[
                ("policy", &policy),
                ("title", &html::escape(&self.title)),
                ("lead", &html::escape(&self.lead)),
                ("style", STYLE),
                ("script", SCRIPT),
                ("table", &self.table),
                ("absent", &self.absent),
                ("charts", &self.charts),
                ("about", &self.about),
                ("grid", &self.grid),
                ("data", &self.data),
            ],
        )
    }
}

/// As a content security policy names an inline script or style.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}
