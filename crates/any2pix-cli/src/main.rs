//! The `any2pix` binary: flags, environment, printing, exit codes.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "clap shows these comments: brackets there are references of an instruction"
)]

mod batch_progress;
mod chat_args;
mod commands;
mod compute;
mod diagnostics;
mod edit_flags;
mod interrupt;
mod model_args;
mod output_args;
mod printer;
mod progress;
mod settings_args;
mod shard_args;
#[cfg(test)]
mod snapshots;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Edits pictures by words, other pictures and sounds, on this machine.
#[derive(Parser)]
#[command(name = "any2pix", version, propagate_version = true, after_help = BEGIN)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What to try first.
const BEGIN: &str = "Begin with: any2pix edit \"add [dog.ogg] to [park.jpg]\" -o out.png";

/// Flags that every command takes.
#[derive(clap::Args)]
#[command(next_help_heading = "Flags of every command")]
struct Common {
    /// Print results and errors as one JSON document.
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but results and errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(flatten)]
    compute: ComputeArgs,
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
    cli.common.compute.prepare(cli.command.computes_here())?;
    cli.command.run(&cli.common.compute, printer)
}
