//! `any2pix man`: manual pages, one a command.

use std::path::{Path, PathBuf};

use any2pix_agent::storage;
use clap::CommandFactory;

use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Print the manual page of any2pix, or write those of all commands to a folder.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder for one page a command, as in ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let mut command = crate::Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.out else {
        printer.result(String::from_utf8_lossy(&page(&command)?).trim_end());
        return Ok(Exit::Done);
    };
    let unwritable = |e| Failure::new(Exit::Storage, format!("{}: {e}", folder.display()));
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    write(&command, folder)?;
    printer.result(&folder.display().to_string());
    Ok(Exit::Done)
}

/// The pages of a command and of all under it.
fn write(command: &clap::Command, folder: &Path) -> Result<(), Failure> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = folder.join(format!("{name}.1"));
    storage::write_atomically(&path, &page(command)?)?;
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|c| write(c, folder))
}

fn page(command: &clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    rendered.map_err(|e| Failure::internal(format!("manual page: {e}")))?;
    Ok(page)
}
