//! `any2pix merge`: the shards of a batch become one list of results and one report.

use std::path::PathBuf;

use any2pix_agent::batch;
use serde_json::json;

use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Join the shards of a batch, and say what is missing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder that `any2pix batch --out` wrote.
    dir: PathBuf,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let merged = batch::merge(&args.dir)?;
    let (rows, done, failed) = (merged.rows, merged.totals.done, merged.totals.failed());
    let is_complete = merged.missing_shards.is_empty();
    if printer.json {
        printer.document(&json!({
            "status": if is_complete { "done" } else { "incomplete" },
            "rows": rows, "done": done, "failed": failed,
            "failures": merged.totals.failures(),
            "missing": merged.missing, "missing_shards": merged.missing_shards,
        }));
    } else {
        printer.note(&format!("{rows} rows: {done} done, {failed} failed"));
        if !is_complete {
            let (missing, shards) = (merged.missing, &merged.missing_shards);
            printer.note(&format!("missing: {missing} rows of the shards --array={shards}"));
        }
        printer.result(&args.dir.join("results.jsonl").display().to_string());
    }
    Ok(if is_complete && failed == 0 { Exit::Done } else { Exit::Items })
}
