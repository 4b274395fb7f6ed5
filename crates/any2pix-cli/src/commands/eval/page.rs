//! `any2pix eval page`: the page of a run that is stored.

use std::path::PathBuf;

use any2pix_eval::{Suite, curves, page};
use serde_json::json;

use super::failure;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Draw the page of stored results again.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of the results, or of a sweep.
    run: PathBuf,
    /// The suite that was run; a sweep's page shows no edits and needs none.
    #[arg(long, value_name = "DIR")]
    suite: Option<PathBuf>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let file = match &args.suite {
        Some(suite) => {
            let suite = Suite::open(suite).map_err(failure)?;
            page::write(&suite, &args.run).map_err(failure)?;
            page::FILE
        }
        None if args.run.join(curves::CURVES).is_file() => {
            curves::draw(&args.run).map_err(failure)?;
            curves::FILE
        }
        None => {
            let error = format!("{}: no sweep is in this folder", args.run.display());
            return Err(Failure::refused(error).hint("the page of a run needs --suite DIR"));
        }
    };
    let path = args.run.join(file).to_string_lossy().into_owned();
    if printer.json {
        printer.document(&json!({ "page": path }));
    } else {
        printer.result(&path);
    }
    Ok(Exit::Done)
}
