//! `any2pix eval`: numbers about edits, comparisons of them, and how they change with settings.

mod bench;
mod compare;
mod import;
mod judge;
mod page;
mod playroom;
mod settings;
mod sweep;

use any2pix_eval::EvalError;

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// Measure edits against their exact truth, compare measurements, vary settings.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The held-out split of the embedded model's world, or any other suite: one run, one report.
    #[command(visible_alias = "run")]
    Playroom(Box<playroom::Args>),
    /// The model beside what copies the source, what copies the target, SDEdit, and itself without
    /// references and without its prior: one report each, and one table.
    Baselines(Box<sweep::BaselinesArgs>),
    /// One report for each point of a grid of settings, one table, and curves.
    Sweep(Box<sweep::Args>),
    /// What differs between two reports, item by item, with intervals and gates.
    Compare(compare::Args),
    Page(page::Args),
    Import(import::Args),
    Judge(Box<judge::Args>),
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    match &args.what {
        What::Playroom(args) => playroom::run(args, printer),
        What::Baselines(args) => sweep::baselines(args, printer),
        What::Sweep(args) => sweep::run(args, printer),
        What::Compare(args) => compare::run(args, printer),
        What::Page(args) => page::run(args, printer),
        What::Import(args) => import::run(args, printer),
        What::Judge(args) => judge::run(args, printer),
    }
}

pub(super) fn failure(error: EvalError) -> Failure {
    let exit = match &error {
        EvalError::Io { .. } => Exit::Storage,
        EvalError::Malformed { .. }
        | EvalError::Syntax { .. }
        | EvalError::Inapplicable { .. }
        | EvalError::Taken { .. }
        | EvalError::AnotherRun { .. } => Exit::Refused,
        EvalError::Busy { .. } => Exit::Busy,
        EvalError::Checkpoint(_) | EvalError::Metric { .. } => Exit::Model,
        EvalError::Stopped => interrupt::requested().unwrap_or(Exit::Interrupted),
        EvalError::Agent(error) => error.class().into(),
        EvalError::Tensor(_) => Exit::Internal,
    };
    Failure::of(exit, &error)
}
