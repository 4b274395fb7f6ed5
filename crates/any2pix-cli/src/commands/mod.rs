//! One module a command: `Args` for clap and `run(args, &Printer) -> Result<Exit, Failure>`.

mod batch;
mod bench;
mod chat;
mod cluster;
mod completions;
mod data;
mod doctor;
mod edit;
mod eval;
mod gallery;
mod man;
mod merge;
mod models;
mod parity;
mod randomize;
mod show;
mod train;
mod worker;

use clap::Subcommand;

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// What any2pix can be asked to do. Each command's `Args` say what it does: a comment here would
/// hide the longer text there.
#[derive(Subcommand)]
pub(crate) enum Command {
    Edit(Box<edit::Args>),
    Chat(Box<chat::Args>),
    Batch(Box<batch::Args>),
    Merge(merge::Args),
    Worker(Box<worker::Args>),
    Show(show::Args),
    Cluster(cluster::Args),
    Gallery(gallery::Args),
    Models(Box<models::Args>),
    Parity(parity::Args),
    Doctor(doctor::Args),
    Train(train::Args),
    Eval(eval::Args),
    Data(data::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Whether the thread that runs it computes, instead of waiting for others that do.
    pub(crate) fn computes_here(&self) -> bool {
        matches!(self, Self::Edit(_) | Self::Chat(_) | Self::Train(_) | Self::Eval(_))
    }

    /// Does it.
    pub(crate) fn run(self, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
        match self {
            Self::Edit(args) => edit::run(&args, compute, printer),
            Self::Chat(args) => chat::run(&args, compute, printer),
            Self::Batch(args) => batch::run(&args, compute, printer),
            Self::Merge(args) => merge::run(&args, printer),
            Self::Worker(args) => worker::run(&args, compute, printer),
            Self::Show(args) => show::run(&args, printer),
            Self::Cluster(args) => cluster::run(&args, compute, printer),
            Self::Gallery(args) => gallery::run(&args, printer),
            Self::Models(args) => models::run(&args, printer),
            Self::Parity(args) => parity::run(&args, compute, printer),
            Self::Doctor(args) => doctor::run(&args, printer),
            Self::Train(args) => train::run(&args, printer),
            Self::Eval(args) => eval::run(&args, compute, printer),
            Self::Data(args) => data::run(&args, compute, printer),
            Self::Bench(args) => bench::run(&args, compute, printer),
            Self::Completions(args) => completions::run(&args, printer),
            Self::Man(args) => man::run(&args, printer),
        }
    }
}
