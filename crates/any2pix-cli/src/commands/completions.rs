//! `any2pix completions SHELL`.

use clap::CommandFactory;

use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Print a completion script for a shell.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "any2pix", &mut script);
    printer.result(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Done)
}
