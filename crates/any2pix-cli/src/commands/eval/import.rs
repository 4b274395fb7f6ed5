//! `any2pix eval import`: a published test set as a suite.

use std::path::PathBuf;

use any2pix_eval::layouts::{self, Layout};
use serde_json::json;

use super::failure;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Make a suite of a published test set, or of one's own.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How the test set is laid out.
    #[arg(value_enum)]
    layout: Name,
    /// Its folder as it was published; for `custom`, the file of JSON lines.
    source: PathBuf,
    /// The folder of the suite.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// JSON lines: source, instruction, references, target, mask, caption, source_caption.
    Custom,
    /// MagicBrush: edit_sessions.json, global_descriptions.json, images/; or its Parquet files.
    #[value(name = "magicbrush")]
    MagicBrush,
    /// Emu Edit's test set: its Parquet files.
    EmuEdit,
    /// MM-Inst: instruction.json, media_map.json and media.
    MmInstruct,
    /// InstructPix2Pix: seeds.json and a folder a prompt; the test split.
    Ip2pTest,
    /// DreamBench: prompts_and_classes.txt and a folder a subject.
    #[value(name = "dreambench")]
    DreamBench,
}

impl From<Name> for Layout {
    fn from(name: Name) -> Self {
        match name {
            Name::Custom => Self::Custom,
            Name::MagicBrush => Self::MagicBrush,
            Name::EmuEdit => Self::EmuEdit,
            Name::MmInstruct => Self::MmInstruct,
            Name::Ip2pTest => Self::InstructPix2Pix,
            Name::DreamBench => Self::DreamBench,
        }
    }
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let items = layouts::import(args.layout.into(), &args.source, &args.out).map_err(failure)?;
    let out = args.out.to_string_lossy();
    if printer.json {
        printer.document(&json!({ "suite": out, "items": items }));
    } else {
        printer.result(&format!("{items} items in {out}"));
    }
    Ok(Exit::Done)
}
