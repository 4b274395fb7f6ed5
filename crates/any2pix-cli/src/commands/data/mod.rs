//! `any2pix data RECIPE`: data sets from their declared sources, or made by models.

mod instruct_pix2pix;
mod playroom;

use clap::Subcommand;

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Build a data set from its declared sources.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    recipe: Recipe,
}

/// Data sets; their `Args` say what they are.
#[derive(Subcommand)]
enum Recipe {
    Playroom(playroom::Args),
    #[command(name = "instruct-pix2pix")]
    InstructPix2Pix(Box<instruct_pix2pix::Args>),
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    match &args.recipe {
        Recipe::Playroom(args) => playroom::run(args, printer),
        Recipe::InstructPix2Pix(args) => instruct_pix2pix::run(args, compute, printer),
    }
}
