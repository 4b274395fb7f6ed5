//! `any2pix eval judge`: VIEScore for stored results.

use std::path::PathBuf;

use any2pix_eval::viescore::{FIGURES, Judge, Judged};
use any2pix_eval::{Suite, amend, page, report};
use serde_json::json;

use super::failure;
use crate::chat_args::ChatArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// How many items without figures are named.
const NAMED: usize = 5;

/// Let a vision-language model judge stored results: VIEScore.
///
/// Asks any endpoint of OpenAI's chat protocol. Exit code 1 when some edit has no verdict.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of the results.
    run: PathBuf,
    /// The suite that was run.
    #[arg(long, value_name = "DIR")]
    suite: PathBuf,
    /// Where the judge answers, up to and with `/v1`.
    #[arg(long, value_name = "URL")]
    judge_url: String,
    /// The judge's name there.
    #[arg(long, value_name = "NAME")]
    judge_model: String,
    /// Sent as a bearer token.
    #[arg(long, env = "ANY2PIX_JUDGE_KEY", hide_env_values = true, hide = true)]
    judge_key: Option<String>,
    /// Where verdicts are kept, so that nothing is asked twice; `verdicts` beside the run when it
    /// is not given.
    #[arg(long, value_name = "DIR")]
    verdicts: Option<PathBuf>,
    #[command(flatten)]
    chat: ChatArgs,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let suite = Suite::open(&args.suite).map_err(failure)?;
    let mut samples = report::read(&args.run).map_err(failure)?;
    let endpoint = args.chat.endpoint(&args.judge_url, args.judge_key.as_deref());
    let judge = Judge {
        endpoint: &endpoint,
        model: args.judge_model.clone(),
        cache: args.verdicts.clone().unwrap_or_else(|| args.run.join("verdicts")),
        parallel: args.chat.parallel(),
    };
    let judged = judge
        .judge(&suite, &args.run, &mut samples, &mut |done, total| {
            printer.note(&format!("{done}/{total} judged"));
            interrupt::requested().is_none()
        })
        .map_err(failure)?;
    let absent = absent(&judged, samples.len());
    let table = amend::write(&args.run, &samples, &absent).map_err(failure)?;
    page::write(&suite, &args.run).map_err(failure)?;
    for (id, why) in judged.missing.iter().take(NAMED) {
        printer.note(&format!("{id}: {why}"));
    }
    if printer.json {
        printer.document(&json!({
            "out": args.run.to_string_lossy(), "judged": judged.complete, "asked": judged.asked,
            "missing": judged.missing, "table": table,
        }));
    } else {
        printer.result(table.trim_end());
    }
    Ok(if judged.missing.is_empty() { Exit::Done } else { Exit::Items })
}

/// What the report says of figures that some edits lack.
fn absent(judged: &Judged, total: usize) -> std::collections::BTreeMap<String, Option<String>> {
    let why = judged
        .missing
        .first()
        .map(|(id, why)| format!("{} of {total} edits were judged; {id}: {why}", judged.complete));
    FIGURES.iter().map(|figure| (figure.to_string(), why.clone())).collect()
}
