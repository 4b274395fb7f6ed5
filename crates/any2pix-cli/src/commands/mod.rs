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
mod show;
mod train;
mod worker;

use clap::Subcommand;

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// What any2pix can be asked to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Edit a picture, or make one from nothing.
    Edit(Box<edit::Args>),
    /// Talk about a picture, sentence by sentence.
    Chat(Box<chat::Args>),
    /// Do the edits of a manifest.
    Batch(Box<batch::Args>),
    /// Join the shards of a batch, and say what is missing.
    Merge(merge::Args),
    /// Edit for another program: one JSON request a line, one reply a line.
    Worker(Box<worker::Args>),
    /// Show what a picture remembers of its edit.
    Show(show::Args),
    /// Do the edits of a manifest on many machines, by Ray, Slurm or Kubernetes.
    Cluster(cluster::Args),
    /// Manage galleries: what words and sounds look like.
    Gallery(gallery::Args),
    /// Published models: list, fetch, look into, convert, make random ones.
    Models(Box<models::Args>),
    /// Run recorded goldens against this build.
    Parity(parity::Args),
    /// Say what this build and this machine are.
    Doctor(doctor::Args),
    /// Train one stage of the embedded model, or all of them in order.
    Train(train::Args),
    /// Measure edits against their exact truth, or compare two measurements.
    Eval(eval::Args),
    /// Build a data set from its declared sources.
    Data(data::Args),
    /// Measure operations and models beside what the machine can do at most.
    Bench(bench::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// Print or write manual pages.
    Man(man::Args),
}

impl Command {
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
            Self::Data(args) => data::run(&args, printer),
            Self::Bench(args) => bench::run(&args, compute, printer),
            Self::Completions(args) => completions::run(&args, printer),
            Self::Man(args) => man::run(&args, printer),
        }
    }
}
