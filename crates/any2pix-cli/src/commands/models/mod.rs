//! `any2pix models …`: published models on this machine, on the hub, or made of random numbers.

mod init;
mod transfer;

use any2pix_hub::HubError;
use clap::Subcommand;

use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// Published models: list, fetch, look into, convert, make random ones.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write a full-size checkpoint of random weights in the published layout and formats.
    Init(init::Args),
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    match &args.action {
        Action::Init(args) => init::run(args, printer),
    }
}

/// The exit code of an error of the hub's.
fn failure(error: &HubError) -> Failure {
    let exit = match error {
        HubError::UnknownModel { .. }
        | HubError::UnknownComponent { .. }
        | HubError::Exists { .. } => Exit::Refused,
        HubError::Io { .. } | HubError::NoRoom { .. } => Exit::Storage,
        HubError::Stopped => interrupt::requested().unwrap_or(Exit::Interrupted),
        _ => Exit::Model,
    };
    Failure::of(exit, error)
}
