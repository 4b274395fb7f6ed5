//! `any2pix data playroom`: the world that the embedded model is trained on.

use std::path::PathBuf;

use any2pix_train::playroom::{self, PlayroomError, World, gallery, suite};
use any2pix_train::recipes::tokenizer;

use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// The small world of things and sounds that the embedded model is trained on.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to put it; what is there already is used.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many held-out edits the evaluation suite has; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 500)]
    suite: usize,
    /// Also write the cut-outs that may be shipped to this folder.
    #[arg(long, value_name = "DIR")]
    gallery: Option<PathBuf>,
    /// Also train the tokenizer on its text, into `llm/` of this model directory.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let exit = playroom(args, printer).map_err(failure)?;
    if let Some(model) = &args.tokenizer {
        tokenizer::write(&args.out, model).map_err(|e| Failure::of(Exit::Refused, &e))?;
        printer.note(&format!("a tokenizer in {}", model.join("llm").display()));
    }
    Ok(exit)
}

fn playroom(args: &Args, printer: &Printer) -> playroom::Result<Exit> {
    playroom::prepare(&args.out, &mut |what| printer.note(what))?;
    if let Some(dir) = &args.gallery {
        let count = gallery::write(&args.out, dir)?;
        printer.note(&format!("{count} cut-outs in {}", dir.display()));
    }
    if args.suite > 0 {
        let dir = args.out.join("suite");
        suite::write(&World::open(&args.out)?, &dir, args.suite)?;
        printer.note(&format!("{} held-out edits in {}", args.suite, dir.display()));
    }
    Ok(Exit::Done)
}

/// An error about the world.
pub(super) fn failure(error: PlayroomError) -> Failure {
    let exit = match &error {
        PlayroomError::Io { .. } => Exit::Storage,
        _ => Exit::Refused,
    };
    Failure::of(exit, &error)
}
