//! `any2pix worker --stdio`: edits for another program.

use any2pix_agent::worker::Worker;

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::model_args::ModelArgs;
use crate::printer::Printer;

/// Edit for another program: one JSON request a line, one reply a line.
///
/// {"id"?, "instruction", "references"?: {name: path}, "output", "settings"?} is one edit;
/// {"id"?, "batch": {"manifest", "out", "shards"?, "shard"?, "resume"?}} one shard of a batch;
/// {"cancel": id} stops a request. The end of the input ends the worker.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Read requests from stdin and write replies to stdout.
    #[arg(long, required = true)]
    stdio: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    let pipeline = args.model.open()?;
    let settings = args.model.settings(&*pipeline)?;
    let worker = Worker { pipeline: &*pipeline, settings };
    let mut reply = |line: &str| printer.result(line);
    let is_stopped = || interrupt::requested().is_some();
    match worker.serve(std::io::stdin(), &mut reply, &is_stopped) {
        Ok(()) => Ok(Exit::Done),
        // Whoever sent the signal knows.
        Err(_) => Ok(interrupt::requested().unwrap_or(Exit::Interrupted)),
    }
}
