//! Published test sets, read as their authors lay them out, and one's own: each becomes a suite
//! folder, so that everything else knows one layout.

mod custom;
mod dreambench;
mod instruct_pix2pix;
mod magicbrush;
mod mm_instruct;
mod tables;

use std::fs;
use std::path::{Component, Path, PathBuf};

use any2pix_agent::Instruction;
use any2pix_agent::request::Segment;
use any2pix_agent::storage::write_atomically;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{EvalError, Result};

/// Largest file of a test set that is read into memory.
const MOST_BYTES: u64 = 1 << 30;

/// How a test set is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A file of JSON lines: `source`, `instruction`, `references`, `target`, `mask`, `caption`,
    /// `source_caption`, `operation`, `seed`, `id`.
    Custom,
    /// MagicBrush's dev and test folders: `edit_sessions.json`, `global_descriptions.json`,
    /// `images/`; or Hugging Face's Parquet files.
    MagicBrush,
    /// Emu Edit's test set: Hugging Face's Parquet files.
    EmuEdit,
    /// The data set of InstructPix2Pix: `seeds.json` and a folder a prompt; its last twentieth is
    /// the test split.
    InstructPix2Pix,
    /// MM-Inst: `instruction.json`, `media_map.json` and the media it names.
    MmInstruct,
    /// DreamBench: `prompts_and_classes.txt` and a folder a subject.
    DreamBench,
}

/// A row of `suite.jsonl`.
#[derive(Serialize)]
struct Row {
    id: String,
    kind: String,
    /// Empty: nobody says what a plan should be.
    operation: String,
    instruction: String,
    base: Option<String>,
    target: Option<String>,
    mask: Option<String>,
    caption: Option<String>,
    source_caption: Option<String>,
    seed: u64,
}

/// Makes a suite of the test set in `source` in the folder `out`, and says how many items it has.
/// Files are linked where the file system can, and copied elsewhere.
///
/// # Errors
/// Files that are not there or not laid out as published, and names that leave the folder.
pub fn import(layout: Layout, source: &Path, out: &Path) -> Result<usize> {
    let mut importer = Importer::new(source, out)?;
    match layout {
        Layout::Custom => custom::read(&mut importer)?,
        Layout::MagicBrush => magicbrush::read(&mut importer)?,
        Layout::EmuEdit => {
            let files = tables::files(source);
            tables::emu_edit(&mut importer, &files)?;
        }
        Layout::InstructPix2Pix => instruct_pix2pix::read(&mut importer)?,
        Layout::MmInstruct => mm_instruct::read(&mut importer)?,
        Layout::DreamBench => dreambench::read(&mut importer)?,
    }
    importer.finish()
}

/// A suite that is being made.
struct Importer {
    source: PathBuf,
    out: PathBuf,
    rows: Vec<Row>,
}

impl Importer {
    fn new(source: &Path, out: &Path) -> Result<Self> {
        let media = out.join("media");
        fs::create_dir_all(&media).map_err(EvalError::io(&media))?;
        Ok(Self { source: source.to_path_buf(), out: out.to_path_buf(), rows: Vec::new() })
    }

    /// The path of a file that the test set names, which may not leave its folder.
    fn path(&self, name: &str) -> Result<PathBuf> {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || name.is_empty() {
            return Err(EvalError::malformed(&self.source, format!("`{name}` leaves the folder")));
        }
        Ok(self.source.join(name))
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.path(name)?;
        serde_json::from_str(&text(&path)?).map_err(|e| EvalError::malformed(&path, e))
    }

    /// Puts a file into the suite under `name` with its own extension.
    fn take(&self, path: &Path, name: &str) -> Result<String> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("bin");
        let name = format!("media/{name}.{extension}");
        let into = self.out.join(&name);
        let _ = fs::remove_file(&into);
        if fs::hard_link(path, &into).is_err() {
            fs::copy(path, &into).map_err(EvalError::io(path))?;
        }
        Ok(name)
    }

    /// Puts bytes into the suite.
    fn put(&self, bytes: &[u8], name: &str) -> Result<String> {
        let name = format!("media/{name}");
        write_atomically(&self.out.join(&name), bytes)?;
        Ok(name)
    }

    fn finish(self) -> Result<usize> {
        if self.rows.is_empty() {
            return Err(EvalError::malformed(&self.source, "it has no items"));
        }
        let line = |row: &Row| serde_json::to_string(row).unwrap_or_default() + "\n";
        let text: String = self.rows.iter().map(line).collect();
        write_atomically(&self.out.join("suite.jsonl"), text.as_bytes())?;
        Ok(self.rows.len())
    }
}

fn text(path: &Path) -> Result<String> {
    let size = fs::metadata(path).map_err(EvalError::io(path))?.len();
    if size > MOST_BYTES {
        return Err(EvalError::malformed(path, format!("{size} bytes are too many")));
    }
    fs::read_to_string(path).map_err(EvalError::io(path))
}

/// An instruction in words alone, about the picture `base`. Brackets in it are text.
fn about(base: &str, words: &str) -> String {
    let segments = vec![Segment::Reference(0), Segment::Text(format!(": {}", words.trim()))];
    Instruction { segments, names: vec![base.to_string()] }.to_string()
}

/// An identifier as part of a file's name.
fn plain(id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    id.chars().map(plain).collect::<String>().trim_start_matches('.').to_string()
}

/// A field of JSON as text, whether it is written as text or as a number.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
