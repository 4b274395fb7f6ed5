//! `any2pix chat`: a conversation about a picture, at a terminal or line by line from a pipe.

mod command;
mod helper;
mod input;
mod preview;
mod talk;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use any2pix_agent::Session;

use self::input::{Heard, Input};
use self::preview::{How, Preview};
use self::talk::Talk;
use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::model_args::ModelArgs;
use crate::printer::Printer;

/// Talk about a picture: each sentence edits the result of the one before.
///
/// Pictures and sounds stand in the sentence as [path], or are dropped on the terminal; [last] is
/// the previous result. /help lists the commands. Lines can be piped in.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The picture to begin with.
    image: Option<String>,
    /// Where results go; unless given, a new folder under XDG_STATE_HOME.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How pictures are shown in the terminal.
    #[arg(long, value_enum, default_value = "auto", env = "ANY2PIX_PREVIEW")]
    preview: How,
    /// Show no pictures in the terminal.
    #[arg(long)]
    no_preview: bool,
    #[command(flatten)]
    model: ModelArgs,
}

fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where any2pix keeps what it remembers from run to run.
fn state_folder() -> Option<PathBuf> {
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    state.map(|state| state.join("any2pix"))
}

/// A new folder for the results of a conversation.
fn new_folder() -> PathBuf {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let parent = state_folder().unwrap_or_else(|| std::env::temp_dir().join("any2pix"));
    parent.join("sessions").join(format!("{since}-{}", std::process::id()))
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    let printer = &printer.of_lines();
    let pipeline = args.model.open()?;
    let settings = args.model.settings(&*pipeline)?;
    let folder_of_results = args.out.clone().unwrap_or_else(new_folder);
    let session = Session::new(&folder_of_results, folder("HOME"), settings);
    let terminal =
        !printer.json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let how = if args.no_preview || !terminal { How::Off } else { args.preview };
    let mut talk = Talk::new(session, &*pipeline, Preview::new(how, printer), printer);
    if let Some(image) = &args.image {
        talk.open(image)?;
    }
    let mut input = if terminal {
        let keys = talk.session.table().into_iter().map(|(key, _)| key).collect();
        printer.note("Say what to do, or /help. Tab completes, Ctrl-C cancels, Ctrl-D leaves.");
        Input::terminal(folder("HOME"), keys, state_folder(), printer)?
    } else {
        Input::lines()
    };
    let mut failed = false;
    let mut report = |failure: &Failure| {
        printer.failure(failure);
        failed = true;
    };
    let exit = loop {
        let line = match input.next(&talk.prompt())? {
            Heard::Line(line) => line,
            Heard::Left(exit) => break exit,
            Heard::Wrong(failure) => {
                report(&failure);
                continue;
            }
            Heard::Interrupted => {
                printer.note("Ctrl-C again leaves; so do Ctrl-D and /quit");
                continue;
            }
        };
        interrupt::begin();
        match talk.hear(&line) {
            Ok(true) => {}
            Ok(false) => break Exit::Done,
            Err(failure) => report(&failure),
        }
        // At a terminal Ctrl-C was meant for the edit alone.
        match interrupt::requested() {
            Some(exit) if !terminal || exit == Exit::Terminated => return Ok(exit),
            _ => {}
        }
    };
    Ok(if failed && !terminal { Exit::Items } else { exit })
}
