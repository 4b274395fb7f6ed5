//! `any2pix batch`: many edits, so that nothing is lost, doubled or torn.

use std::path::PathBuf;

use any2pix_agent::batch::{Batch, Manifest, ManifestOptions, Shard, Summary};
use any2pix_agent::{AgentError, ErrorClass};

use crate::batch_progress::BatchProgress;
use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::model_args::ModelArgs;
use crate::printer::Printer;
use crate::shard_args::ShardArgs;

/// Do the edits of a manifest.
///
/// One JSON object a line: {"id", "instruction", "references"?: {name: path}, "settings"?,
/// "session"?, "turn"?}. Paths are relative to the manifest; [last] is the turn before.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The manifest (JSONL).
    manifest: PathBuf,
    /// The folder of the results.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Go on where an earlier run stopped.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    shard: ShardArgs,
    /// Rows at the same time; unless given, one a thread where the model stays in memory.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Let references lead out of the manifest's folder.
    #[arg(long)]
    allow_outside: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    let shard = args.shard.shard()?;
    let pipeline = args.model.open()?;
    let settings = args.model.settings(&*pipeline)?;
    let options = ManifestOptions { settings, allow_outside: args.allow_outside };
    let manifest = Manifest::open(&args.manifest, options)?;
    for warning in &manifest.warnings {
        printer.warning(warning);
    }
    let batch = Batch {
        pipeline: &*pipeline,
        manifest: &manifest,
        shard,
        resume: args.resume,
        jobs: args.jobs,
    };
    let progress = BatchProgress::new(printer);
    let result = batch.run(&args.out, &progress);
    progress.finish();
    let summary = result.map_err(|error| stopped(error, &progress))?;
    show(&summary, args, shard, printer);
    Ok(if summary.totals.failed() > 0 { Exit::Items } else { Exit::Done })
}

/// What stopped the batch, and that what is done is done.
fn stopped(error: AgentError, progress: &BatchProgress) -> Failure {
    let is_midway = matches!(error.class(), ErrorClass::Cancelled | ErrorClass::Storage);
    let failure = Failure::from(error);
    match progress.counted() {
        Some((done, total)) if is_midway => {
            failure.hint(format!("{done} of {total} rows are done; --resume does the rest"))
        }
        _ => failure,
    }
}

fn show(summary: &Summary, args: &Args, shard: Shard, printer: &Printer) {
    if printer.json {
        return printer.document(&summary.document());
    }
    let Summary { rows, skipped, totals, seconds } = summary;
    let before = if *skipped > 0 { format!(", {skipped} of them before") } else { String::new() };
    let (done, failed) = (totals.done, totals.failed());
    printer.note(&format!("{rows} rows: {done} done, {failed} failed{before}; {seconds:.1} s"));
    for group in totals.failures() {
        let (count, reason, example) = (group.count, group.reason, group.example);
        printer.note(&format!("{count:>6} × {reason}, for instance {example}: {}", group.error));
    }
    let file = match shard.count {
        1 => "results.jsonl".to_string(),
        _ => format!("{}.jsonl", shard.stem()),
    };
    printer.result(&args.out.join(file).display().to_string());
}
