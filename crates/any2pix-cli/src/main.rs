//! The `any2pix` binary: flags, environment, printing, exit codes.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "clap shows these comments: brackets there are references of an instruction"
)]

mod commands;
mod diagnostics;
mod interrupt;
mod printer;
mod progress;
mod settings_args;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Edits pictures because of words, other pictures and sounds, on a model that this project
/// trained itself.
#[derive(Parser)]
#[command(name = "any2pix", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(clap::Args)]
struct Common {
    /// Print results and errors as one JSON document.
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but results and errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Threads to compute with; the result does not depend on it.
    #[arg(long, global = true, env = "ANY2PIX_THREADS", value_name = "N")]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    any2pix_nn::prepare_process();
    diagnostics::quiet_panics();
    let cli = Cli::parse();
    let printer = Printer::new(cli.common.json, cli.common.quiet);
    let outcome = std::panic::catch_unwind(|| run(cli, &printer));
    let exit = match outcome {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => {
            printer.failure(&failure);
            failure.exit
        }
        // The hook has said what happened.
        Err(_) => Exit::Internal,
    };
    ExitCode::from(exit as u8)
}

fn run(cli: Cli, printer: &Printer) -> Result<Exit, Failure> {
    interrupt::watch()?;
    if let Some(threads) = cli.common.threads {
        set_threads(threads)?;
    }
    cli.command.run(cli.common.threads, printer)
}

fn set_threads(threads: usize) -> Result<(), Failure> {
    if threads == 0 || threads > 1024 {
        return Err(Failure::refused(format!("--threads {threads}: must be 1 to 1024")));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|e| Failure::internal(format!("cannot start {threads} threads: {e}")))
}
