//! `any2pix parity DIR…`: recorded goldens of official implementations against this build.

use std::path::PathBuf;

use any2pix_agent::parity::{self, CaseReport};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// Run recorded goldens against this build.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folders with golden cases, at any depth.
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// One row for every output, not only for the worst of each case.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_exact();
    let cases = parity::find(&args.folders).map_err(|e| Failure::of(Exit::Refused, &e))?;
    let mut reports = Vec::new();
    for dir in &cases {
        if let Some(exit) = interrupt::requested() {
            return Ok(exit);
        }
        let metrics = |case: &_| any2pix_eval::parity::run(case).map(parity::told);
        reports.push(parity::run(dir, &metrics));
    }
    if printer.json {
        printer.document(&json!({ "cases": reports.iter().map(document).collect::<Vec<_>>() }));
    } else {
        printer.result(&table(&reports, args.all).to_string());
    }
    let failed = reports.iter().filter(|report| !report.passes()).count();
    printer.note(&format!("{} of {} cases pass", reports.len() - failed, reports.len()));
    Ok(if failed == 0 { Exit::Done } else { Exit::Items })
}

fn table(reports: &[CaseReport], all: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(["case", "output", "max abs", "max ref", "norm", "cosine", "s", ""]);
    for report in reports {
        let name = format!("{}/{}", report.component, report.case);
        let rows = if all { report.rows.iter().collect() } else { Vec::from_iter(report.worst()) };
        for row in rows {
            table.add_row([
                name.clone(),
                row.name.clone(),
                format!("{:.1e}", row.max_abs),
                format!("{:.2}", row.reference_max),
                format!("{:.1e}", row.relative_norm),
                format!("{:.6}", row.cosine),
                format!("{:.1}", report.seconds),
                if row.passes { "ok".to_string() } else { format!("MISS {}", row.note) },
            ]);
        }
        if let Some(problem) = &report.problem {
            let empty = String::new;
            let verdict = format!("FAIL {problem}");
            table.add_row([name, empty(), empty(), empty(), empty(), empty(), empty(), verdict]);
        }
    }
    table
}

fn document(report: &CaseReport) -> Value {
    // JSON has no infinity: what is missing or not finite is null.
    let outputs: Vec<Value> = report
        .rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "max_abs": row.max_abs, "reference_max": row.reference_max,
                "relative_norm": row.relative_norm, "cosine": row.cosine,
                "passes": row.passes, "note": row.note,
            })
        })
        .collect();
    json!({
        "component": report.component, "case": report.case, "dir": report.dir.to_string_lossy(),
        "passes": report.passes(), "seconds": report.seconds, "problem": report.problem,
        "outputs": outputs,
    })
}
