//! `any2pix data instruct-pix2pix`: the three stages of InstructPix2Pix' training data.

mod filter;
mod pairs;
mod triplets;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;
use crate::shard_args::ShardArgs;

/// Edits in words and pairs of pictures, as InstructPix2Pix' training data were made.
///
/// Three stages: a language model writes an edit to every caption; a text-to-image model paints
/// many pairs of each, by Prompt-to-Prompt; what an encoder finds alike enough is kept.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    stage: Stage,
}

/// The stages; their structures say what they do.
#[derive(Subcommand)]
enum Stage {
    Triplets(Triplets),
    Pairs(Pairs),
    Filter(Filter),
    All(Box<All>),
}

/// Let a language model write an instruction and an edited caption to every caption.
///
/// Asks any endpoint of OpenAI's chat protocol; exit code 1 when it did not answer for every
/// caption. A Playroom needs none: it writes its edits itself.
#[derive(clap::Args)]
struct Triplets {
    #[command(flatten)]
    flags: triplets::TripletFlags,
    /// The folder of the triplets.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Chooses the captions that a Playroom gives.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Go on where an earlier run stopped.
    #[arg(long)]
    resume: bool,
}

/// Paint many pairs of pictures of every triplet.
///
/// Both captions start from one noise, and for a part of the steps the second picture looks where
/// the first one looks.
#[derive(clap::Args)]
struct Pairs {
    /// The triplets: JSONL with `caption` (or `input`), `edit`, `output`.
    triplets: PathBuf,
    #[command(flatten)]
    flags: pairs::PairFlags,
    /// The folder of the pairs.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Chooses the seeds of the pairs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    shard: ShardArgs,
    /// Go on where an earlier run stopped.
    #[arg(long)]
    resume: bool,
}

/// Keep the best pairs of every triplet, in the layout that `any2pix train ip2p` reads.
#[derive(clap::Args)]
struct Filter {
    /// The folder of the pairs.
    pairs: PathBuf,
    #[command(flatten)]
    flags: filter::FilterFlags,
    /// The folder of what is kept.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    shard: ShardArgs,
    /// Go on where an earlier run stopped.
    #[arg(long)]
    resume: bool,
}

/// All stages, one after another, into DIR/triplets, DIR/pairs and DIR/data.
#[derive(clap::Args)]
struct All {
    #[command(flatten)]
    triplets: triplets::TripletFlags,
    #[command(flatten)]
    pairs: pairs::PairFlags,
    #[command(flatten)]
    filter: filter::FilterFlags,
    /// The folder of everything.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Chooses the captions that a Playroom gives, and the seeds of the pairs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Go on where an earlier run stopped.
    #[arg(long)]
    resume: bool,
}

/// What a stage came to.
struct Outcome {
    exit: Exit,
    /// In words.
    said: String,
    /// In numbers.
    document: Value,
    /// What it wrote.
    out: PathBuf,
}

impl Outcome {
    fn show(&self, printer: &Printer) -> Exit {
        printer.note(&self.said);
        if printer.json {
            printer.document(&self.document);
        } else {
            printer.result(&self.out.display().to_string());
        }
        self.exit
    }
}

/// One shard of one.
fn whole() -> Result<any2pix_agent::batch::Shard, Failure> {
    Ok(any2pix_agent::batch::Shard::new(0, 1)?)
}

/// Says how far a stage is, and whether it goes on.
fn teller<'a>(
    printer: &'a Printer,
    what: &'static str,
) -> impl FnMut(usize, usize) -> bool + Send + 'a {
    let mut last = None;
    move |done, total| {
        if last.replace(done) != Some(done) {
            printer.note(&format!("{done}/{total} {what}"));
        }
        interrupt::requested().is_none()
    }
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    let outcome = match &args.stage {
        Stage::Triplets(args) => args.flags.run(&args.out, args.seed, args.resume, printer)?,
        Stage::Pairs(args) => {
            let Pairs { triplets, out, seed, resume, .. } = args;
            args.flags.run((triplets, out), *seed, args.shard.shard()?, *resume, printer)?
        }
        Stage::Filter(args) => {
            args.flags.run((&args.pairs, &args.out), args.shard.shard()?, args.resume, printer)?
        }
        Stage::All(args) => return all(args, printer),
    };
    Ok(outcome.show(printer))
}

fn all(args: &All, printer: &Printer) -> Result<Exit, Failure> {
    let All { out, seed, resume, .. } = args;
    let (words, pictures, kept) = (out.join("triplets"), out.join("pairs"), out.join("data"));
    let triplets = args.triplets.run(&words, *seed, *resume, printer)?;
    if triplets.exit != Exit::Done {
        return Ok(triplets.show(printer));
    }
    printer.note(&triplets.said);
    let pairs = args.pairs.run((&triplets.out, &pictures), *seed, whole()?, *resume, printer)?;
    printer.note(&pairs.said);
    let filter = args.filter.run((&pictures, &kept), whole()?, *resume, printer)?;
    let document = json!({
        "triplets": triplets.document, "pairs": pairs.document, "filter": filter.document,
    });
    Ok(Outcome { document, ..filter }.show(printer))
}
