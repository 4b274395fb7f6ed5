//! The data that an InstructPix2Pix is trained on (Brooks et al. 2023, section 3.1), in three
//! stages: triplets of words, pairs of pictures, and which of the pairs are kept.
//!
//! ```text
//! TRIPLETS/triplets.jsonl                 {"caption", "edit", "output", "url"} a line
//! PAIRS/0000012/prompt.json               the triplet of that line
//! PAIRS/0000012/<seed>_0.jpg, _1.jpg      caption and output, of one noise; as many as were asked
//! PAIRS/0000012/metadata.jsonl            a row a pair; there when the folder is complete
//! DATA/0000012/…                          the same of the pairs that are kept, with their scores
//! DATA/seeds.json, DATA/contact_sheet.png there when every folder is complete
//! ```
//!
//! Each folder says in `stage.json` what makes what lies in it. Files appear whole under their
//! names or not at all, and what a stage has yet to do follows from the files that are there.

mod ask;
mod filter;
mod pairs;
mod score;
mod triplets;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use any2pix_agent::AgentError;
use any2pix_agent::batch::Shard;
use any2pix_agent::bounded_lines::{BoundedLines, Line};
use any2pix_agent::claim::{self, Parts};
use any2pix_agent::outcome::sha256;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{EvalError, Result};

pub use filter::{Filter, Filtered};
pub use pairs::{Painted, Pairs};
pub use score::{Encoder, Thresholds};
pub use triplets::{Caption, Captions, TRIPLETS, Written, WrittenBy, keep};

const STAGE: &str = "stage.json";
const PROMPT: &str = "prompt.json";
/// Written last: a folder that has it is complete.
const METADATA: &str = "metadata.jsonl";

/// Is told how much is done, and of how much; says whether to go on.
pub type Tell<'a> = dyn FnMut(usize, usize) -> bool + Send + 'a;

/// An edit in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Triplet {
    /// The picture before.
    #[serde(alias = "input")]
    pub caption: String,
    /// The instruction.
    pub edit: String,
    /// The picture after.
    pub output: String,
    /// Where the caption is from.
    #[serde(default)]
    pub url: Option<String>,
}

/// A list of triplets.
#[derive(Clone, Debug)]
pub struct Triplets {
    list: Vec<Triplet>,
    /// SHA-256 of them all.
    hash: String,
}

impl Triplets {
    /// Reads a file of a JSON object a line.
    ///
    /// # Errors
    /// The first line that is no triplet; a file without any.
    pub fn open(path: &Path) -> Result<Self> {
        let mut list: Vec<Triplet> = Vec::new();
        for (number, line) in lines(path)? {
            let triplet = serde_json::from_str(&line)
                .map_err(|e| wrong(path, format!("line {number}: {e}")))?;
            list.push(triplet);
        }
        if list.is_empty() {
            return Err(wrong(path, "there is no triplet in it"));
        }
        let hash = sha256(text_of(&list).as_bytes());
        Ok(Self { list, hash })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// The lines of a file that are not blank, numbered from 1.
fn lines(path: &Path) -> Result<Vec<(usize, String)>> {
    let file = File::open(path).map_err(EvalError::io(path))?;
    let mut reader = BoundedLines::new(BufReader::new(file));
    let mut found = Vec::new();
    for number in 1.. {
        let reason = match reader.next_line().map_err(EvalError::io(path))? {
            None => break,
            Some(Line::Text(text)) => {
                if !text.trim().is_empty() {
                    found.push((number, text));
                }
                continue;
            }
            Some(Line::TooLong) => "is too long",
            Some(Line::Invalid { .. }) => "is no UTF-8",
        };
        return Err(wrong(path, format!("line {number} {reason}")));
    }
    Ok(found)
}

fn text_of(triplets: &[Triplet]) -> String {
    triplets.iter().map(|triplet| format!("{}\n", json!(triplet))).collect()
}

/// The folder of a stage, where nobody else does the same shard while this lives.
struct Place {
    path: PathBuf,
    /// A hash of what makes what lies in it.
    digest: String,
    _lock: File,
}

impl Place {
    /// Takes the shard's place in `path`, which is made if it is not there; `document` says what
    /// will lie in it.
    ///
    /// # Errors
    /// When somebody else is at it, the folder holds something else, or the shard was begun and
    /// `resume` was not asked for.
    fn claim(
        path: &Path,
        document: &Value,
        parts: Parts,
        shard: Shard,
        resume: bool,
    ) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(EvalError::io(path))?;
        let stem = shard.stem();
        let was_begun = path.join(format!(".{stem}.lock")).exists();
        let lock = claim::lock(path, &stem)?;
        let document = claim::as_read(document);
        claim::pin(path, STAGE, &document, parts, &[])?;
        if was_begun && !resume {
            return Err(AgentError::Unfinished { path: path.to_path_buf() }.into());
        }
        let digest = sha256(document.to_string().as_bytes());
        Ok(Self { path: path.to_path_buf(), digest, _lock: lock })
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder of a prompt, without what a killed process left in it.
    fn prompt(&self, index: usize) -> Result<PathBuf> {
        let folder = self.path.join(name_of(index));
        std::fs::create_dir_all(&folder).map_err(EvalError::io(&folder))?;
        claim::sweep(&folder, |_| true)?;
        Ok(folder)
    }
}

/// The prompts of a shard: of all, every `count`th.
fn ours(shard: Shard, prompts: usize) -> Vec<usize> {
    (shard.index..prompts).step_by(shard.count.max(1)).collect()
}

/// An error about a file that somebody gave.
fn wrong(path: &Path, reason: impl ToString) -> EvalError {
    EvalError::syntax(path.display(), reason)
}

/// The published name of a prompt's folder.
fn name_of(index: usize) -> String {
    format!("{index:07}")
}

/// One of the two files of a pair.
fn picture_name(seed: u32, which: usize) -> String {
    format!("{seed}_{which}.jpg")
}

/// The version of this program, which is a part of what makes everything.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
