//! `any2pix eval compare A B`: what differs, and whether that is too much.

use std::path::PathBuf;

use any2pix_eval::compare::{Comparison, Gate};
use serde_json::json;

use super::failure;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of the report that is judged.
    a: PathBuf,
    /// The folder of the report that is taken away from it.
    b: PathBuf,
    /// Exit with 1 when this holds for A less B: `edit_right < -0.02` looks at the mean difference,
    /// `high(edit_right) < 0` and `low(…)` at the ends of its interval, `edit_right@add × sound < 0`
    /// at one slice. May be given several times.
    #[arg(long, value_name = "GATE")]
    fail_if: Vec<String>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let gates: Result<Vec<Gate>, _> = args.fail_if.iter().map(|text| text.parse()).collect();
    let gates = gates.map_err(failure)?;
    let comparison = Comparison::read(&args.a, &args.b).map_err(failure)?;
    let verdicts = comparison.check(&gates).map_err(failure)?;
    if printer.json {
        let mut document = json!(comparison);
        document["gates"] = json!(verdicts);
        printer.document(&document);
    } else {
        printer.result(comparison.table().trim_end());
        for verdict in &verdicts {
            let word = if verdict.fails { "fails" } else { "passes" };
            printer.result(&format!("\ngate `{}`: {:+.4}, {word}", verdict.gate, verdict.value));
        }
    }
    let fails = verdicts.iter().any(|verdict| verdict.fails);
    Ok(if fails { Exit::Items } else { Exit::Done })
}
