//! `any2pix eval playroom`: one run, one report.

use std::path::PathBuf;

use any2pix_eval::systems::SystemName;
use any2pix_eval::{Asked, EvalError};
use serde_json::json;

use super::bench::{Bench, BenchArgs};
use super::failure;
use super::settings::SettingsArgs;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    bench: BenchArgs,
    /// What makes the edits: model, identity, oracle, sdedit, text-only, no-prior, inversion or
    /// instruct-pix2pix.
    #[arg(long, value_name = "NAME", default_value = "model", value_parser = system)]
    system: SystemName,
    /// Make no edit: measure the pictures in this folder, which another system made and which are
    /// named after the items.
    #[arg(long, value_name = "DIR", conflicts_with = "system")]
    outputs: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn system(text: &str) -> Result<SystemName, String> {
    text.parse().map_err(|error: EvalError| error.to_string())
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let asked = Asked { system: args.system, ..args.settings.asked() };
    let bench = Bench::open(&args.bench, &[&asked])?;
    let report = match &args.outputs {
        Some(outputs) => bench.run_stored(outputs, &asked, printer),
        None => bench.run(&asked, &args.bench.out, printer),
    };
    let report = report.map_err(failure)?;
    let out = &args.bench.out;
    if printer.json {
        let (table, timings) = (&report.table, &report.costs);
        let out = out.to_string_lossy();
        printer.document(&json!({ "out": out, "table": table, "timings": timings }));
    } else {
        printer.result(report.table.trim_end());
        printer.note(&format!(
            "{} items, {:.2} s each (95 % within {:.2} s), at most {} MB of memory",
            report.costs["items"],
            report.costs["seconds"]["mean"].as_f64().unwrap_or_default(),
            report.costs["seconds"]["p95"].as_f64().unwrap_or_default(),
            report.costs["peak_memory_bytes"].as_u64().unwrap_or_default() / 1_000_000,
        ));
    }
    Ok(Exit::Done)
}
