//! `any2pix batch`: many edits, so that nothing is lost, doubled or torn.

use std::path::PathBuf;

use any2pix_agent::batch::{Batch, Manifest, ManifestOptions, Shard, Summary};
use any2pix_agent::{AgentError, ErrorClass};

use crate::batch_progress::BatchProgress;
use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::model_args::ModelArgs;
use crate::printer::Printer;

/// What schedulers call the index of a task. The number of tasks is never taken from them: one
/// task that is submitted again would be one of one.
const INDICES: [&str; 3] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK"];

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
    /// Do one of so many shards; any number gives the same results.
    #[arg(long, env = "ANY2PIX_SHARDS", value_name = "N", default_value_t = 1)]
    shards: usize,
    /// Which shard, from 0; unless given, the index that Slurm, Kubernetes or RANK says.
    #[arg(long, env = "ANY2PIX_SHARD", value_name = "I")]
    shard: Option<usize>,
    /// Rows at the same time; unless given, one a thread where the model stays in memory.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Let references lead out of the manifest's folder.
    #[arg(long)]
    allow_outside: bool,
    #[command(flatten)]
    model: ModelArgs,
}

impl Args {
    fn shard(&self) -> Result<Shard, Failure> {
        let index = match self.shard {
            Some(index) => index,
            None if self.shards <= 1 => 0,
            None => index_of_task()?,
        };
        Ok(Shard::new(index, self.shards)?)
    }
}

/// The index that a scheduler gave this process.
fn index_of_task() -> Result<usize, Failure> {
    let said = |name: &'static str| Some((name, std::env::var_os(name)?));
    let Some((name, text)) = INDICES.into_iter().find_map(said) else {
        let failure = Failure::refused("--shards is given, and nothing says which shard to do");
        return Err(failure.hint("say it with --shard I, or ANY2PIX_SHARD"));
    };
    let text = text.to_string_lossy();
    text.parse().map_err(|_| Failure::refused(format!("{name}={text}: is no index of a shard")))
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    let shard = args.shard()?;
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
