//! `any2pix models …`: published models on this machine, on the hub, or made of random numbers.

mod hub_args;
mod init;
mod inspect;
mod pull;
mod transfer;

use any2pix_hub::HubError;
use clap::Subcommand;

use self::hub_args::HubArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// Published models: list, fetch, look into, convert, make random ones.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Subcommand)]
enum Action {
    /// List the embedded model, pulled ones, and what the cache of Hugging Face's tools holds.
    List,
    /// Fetch a repository of the hub, or all that a model consists of; goes on where it stopped.
    Pull(pull::Args),
    /// Say what a model's folder holds, what is missing, and how to get it.
    Inspect(inspect::InspectArgs),
    /// Write weights of any format as safetensors.
    Convert(inspect::ConvertArgs),
    /// Write a full-size checkpoint of random weights in the published layout and formats.
    Init(init::Args),
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    match &args.action {
        Action::List => inspect::list(&args.hub, printer),
        Action::Pull(pull) => pull::run(pull, &args.hub, printer),
        Action::Inspect(what) => inspect::inspect(what, &args.hub, printer),
        Action::Convert(args) => inspect::convert(args, printer),
        Action::Init(args) => init::run(args, printer),
    }
}

/// The exit code of an error of the hub's.
fn failure(error: &HubError) -> Failure {
    let exit = match error {
        HubError::UnknownModel { .. }
        | HubError::UnknownComponent { .. }
        | HubError::NotARepository { .. }
        | HubError::Exists { .. } => Exit::Refused,
        HubError::Locked { .. } => Exit::Busy,
        HubError::Io { .. } | HubError::NoRoom { .. } => Exit::Storage,
        HubError::Stopped => interrupt::requested().unwrap_or(Exit::Interrupted),
        _ => Exit::Model,
    };
    Failure::of(exit, error)
}
