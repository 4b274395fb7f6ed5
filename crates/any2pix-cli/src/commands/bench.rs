//! `any2pix bench`: how fast this build is on this machine, beside the machine's own ceilings.

use std::ops::ControlFlow;
use std::time::Duration;

use any2pix_bench::{BenchError, CASES, Effort, Options, Row};
use any2pix_nn::ops::{Level, Precision};
use comfy_table::{Table, presets};
use serde_json::json;

use crate::compute::{ComputeArgs, has_bf16};
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// Measure operations and models beside what the machine can do at most.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which benchmarks (see --list); all unless given.
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// Names the benchmarks and measures nothing.
    #[arg(long)]
    list: bool,
    /// At least so many runs of each, after one that is not counted.
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: usize,
    /// Run stock candle beside each operation; CANDLE_NUM_THREADS gives it threads of its own.
    #[arg(long)]
    peer: bool,
}

/// Threads unless `--threads` says otherwise.
const THREADS: usize = 2;

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    if args.list {
        for case in CASES {
            printer.result(&format!("{:<18} {}", case.name, case.about));
        }
        return Ok(Exit::Done);
    }
    let precisions = match compute.precision() {
        Some(precision) => vec![precision],
        None if has_bf16() => vec![Precision::Bf16, Precision::F32],
        None => vec![Precision::F32],
    };
    let options = Options {
        names: args.cases.clone(),
        threads: compute.threads.unwrap_or(THREADS),
        precisions,
        effort: Effort { runs: args.runs, time: Duration::from_millis(700) },
        peer: args.peer,
    };
    let mut rows: Vec<Row> = Vec::new();
    let (mut stopped, level) = (None, Level::current());
    printer.note(&format!("{level:?}, {} threads", options.threads));
    any2pix_bench::run(&options, |row| {
        rows.push(row.clone());
        if !printer.json {
            printer.note(&line(row).join("  "));
        }
        stopped = interrupt::requested();
        if stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(|error| {
        let unknown = matches!(error, BenchError::Unknown(_));
        Failure::of(if unknown { Exit::Refused } else { Exit::Internal }, &error)
    })?;
    if printer.json {
        printer.document(&json!(rows));
    } else {
        printer.result(&table(&rows).to_string());
    }
    Ok(stopped.unwrap_or(Exit::Done))
}

/// The cells of a row, in words.
fn line(row: &Row) -> [String; 9] {
    let cell = |value: Option<f64>, digits: usize| {
        value.map_or(String::new(), |value| format!("{value:.digits$}"))
    };
    let unit = if row.gbps.is_some() { "GB/s" } else { "GFLOP/s" };
    let rate = cell(row.gflops.or(row.gbps), 1);
    [
        row.name.to_string(),
        row.shape.clone(),
        row.dtype.to_string(),
        format!("{:.3}", row.median_s * 1e3),
        format!("{rate} {unit}"),
        cell(row.ceiling_gflops.or(row.ceiling_gbps), 1),
        cell(row.fraction, 2),
        cell(row.samples_per_s, 2),
        row.peak_mb.map(|mb| format!("{mb:.0} MB")).or(peer(row)).unwrap_or_default(),
    ]
}

/// How many times stock candle takes.
fn peer(row: &Row) -> Option<String> {
    row.peer_s.map(|seconds| format!("candle {:.2}x", seconds / row.median_s))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table
        .set_header(["case", "shape", "dtype", "ms", "rate", "ceiling", "fraction", "items/s", ""]);
    table.add_rows(rows.iter().map(line));
    table
}
