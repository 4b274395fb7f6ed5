//! `any2pix gallery add|list|remove|index`: reference pictures of one's own.

use std::path::PathBuf;

use any2pix_agent::components::Components;
use any2pix_agent::matting::Matte;
use any2pix_agent::{curate, gallery};
use clap::Subcommand;
use comfy_table::{Table, presets};
use serde_json::json;

use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Manage galleries: what words and sounds look like.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// The model whose encoder indexes the gallery.
    #[arg(long, env = "ANY2PIX_MODEL", default_value = "playroom", global = true)]
    model: String,
}

#[derive(Subcommand)]
enum Action {
    /// Cut out what pictures show and add it under a name.
    Add {
        /// The gallery's folder; made when it does not exist.
        dir: PathBuf,
        /// What the pictures show.
        #[arg(long)]
        name: String,
        /// Pictures: with transparency, or on a plain background.
        #[arg(required = true)]
        pictures: Vec<PathBuf>,
    },
    /// List a gallery's pictures.
    List {
        /// The gallery's folder.
        dir: PathBuf,
    },
    /// Take pictures out of a gallery.
    Remove {
        /// The gallery's folder.
        dir: PathBuf,
        /// A name, or one file.
        name: String,
    },
    /// Embed a gallery's pictures anew, for another model.
    Index {
        /// The gallery's folder.
        dir: PathBuf,
    },
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let components = || Components::open(&args.model).map_err(Failure::from);
    match &args.action {
        Action::Add { dir, name, pictures } => {
            let added = curate::add(dir, name, pictures, &components()?)?;
            for picture in &added {
                let from = picture.from.display();
                let how = match picture.matte {
                    Matte::Alpha => "by its transparency",
                    Matte::PlainBackground => "from its plain background",
                    Matte::StandsOut => "by what stands out in it",
                    Matte::SoftCentre => {
                        printer.warning(&format!(
                            "{from}: no plain background; a soft ellipse was taken from its middle"
                        ));
                        "from its middle"
                    }
                };
                printer.note(&format!("{from}: cut out {how}"));
            }
            files(added.iter().map(|picture| picture.file.as_str()), printer);
        }
        Action::List { dir } => list(dir, printer)?,
        Action::Remove { dir, name } => {
            let removed = curate::remove(dir, name, &components()?)?;
            files(removed.iter().map(|item| item.file.as_str()), printer);
        }
        Action::Index { dir } => {
            let count = curate::reindex(dir, &components()?)?;
            printer.note(&format!("{count} pictures"));
            if printer.json {
                printer.document(&json!({ "pictures": count }));
            }
        }
    }
    Ok(Exit::Done)
}

/// The files that were added or removed: a line each, or one document.
fn files<'a>(files: impl Iterator<Item = &'a str>, printer: &Printer) {
    if printer.json {
        printer.document(&json!({ "files": files.collect::<Vec<_>>() }));
    } else {
        files.for_each(|file| printer.result(file));
    }
}

fn list(dir: &std::path::Path, printer: &Printer) -> Result<(), Failure> {
    let index = gallery::Index::read(dir)?;
    if printer.json {
        printer.document(&json!({ "items": index.items }));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for item in &index.items {
        table.add_row([&item.name, &item.file, &item.licence, &item.source]);
    }
    printer.result(&table.to_string());
    Ok(())
}
