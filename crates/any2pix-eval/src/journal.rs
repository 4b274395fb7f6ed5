//! `Journal`: what of a run is durable. Its first file says which run it is, its rows which items
//! are done; a run that was killed goes on from there.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use any2pix_agent::outcome::sha256_of_file;
use any2pix_agent::storage::write_atomically;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::Sample;
use crate::{EvalError, Result};

/// Which run a folder holds.
pub const RUN: &str = "run.json";
/// A row for each item that is done, in the order in which they were done.
pub const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = ".lock";

/// What an item took; these differ from run to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds of wall time of the edit.
    pub seconds: f64,
    /// Seconds by stage.
    #[serde(default)]
    pub stages: BTreeMap<String, f64>,
    /// Largest resident memory of the process so far, in bytes, where the system tells it.
    #[serde(default)]
    pub peak_memory: Option<u64>,
}

/// A row of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What was measured.
    pub sample: Sample,
    /// SHA-256 of the picture, when there is one.
    #[serde(default)]
    pub picture: Option<String>,
    /// What it took.
    pub cost: Cost,
}

/// The journal of one run; nobody else writes to its folder while it is open.
pub struct Journal {
    folder: PathBuf,
    file: Mutex<File>,
    done: BTreeMap<String, Entry>,
    _lock: File,
}

impl Journal {
    /// Begins the run that `run` describes in `folder`, or, if `resume`, goes on with it.
    ///
    /// # Errors
    /// [`EvalError::Taken`] when there is a run that shall not be resumed,
    /// [`EvalError::AnotherRun`] when it is another one, [`EvalError::Busy`] when it is under way.
    pub fn open(folder: &Path, run: &Value, resume: bool) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(EvalError::io(folder))?;
        let lock = lock(folder)?;
        let path = folder.join(RUN);
        let is_there = path.exists() || folder.join(crate::report::SAMPLES).exists();
        // A report without its run cannot be told from another one's.
        if is_there && !(resume && path.exists()) {
            return Err(EvalError::Taken { folder: folder.to_path_buf() });
        }
        if is_there {
            let text = std::fs::read_to_string(&path).map_err(EvalError::io(&path))?;
            let there: Value =
                serde_json::from_str(&text).map_err(|e| EvalError::malformed(&path, e))?;
            if let Some((field, there, here)) = difference(&there, run, String::new()) {
                let folder = folder.to_path_buf();
                return Err(EvalError::AnotherRun { folder, field, there, here });
            }
        } else {
            write_atomically(&path, &pretty(run))?;
        }
        let path = folder.join(JOURNAL);
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(EvalError::io(&path))?;
        let done = rows(&path, &file)?;
        Ok(Self { folder: folder.to_path_buf(), file: Mutex::new(file), done, _lock: lock })
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The row of an item that was done when the journal was opened, and whose picture is there.
    pub fn done(&self, id: &str) -> Option<&Entry> {
        let entry = self.done.get(id)?;
        let is_whole = match &entry.picture {
            None => true,
            Some(hash) => sha256_of_file(&output_path(&self.folder, id)).is_ok_and(|h| h == *hash),
        };
        is_whole.then_some(entry)
    }

    /// Adds a row; when this returns, it is on the disk. What it tells of must be there already.
    pub fn append(&self, entry: &Entry) -> Result<()> {
        let path = self.folder.join(JOURNAL);
        let mut line = serde_json::to_vec(entry).map_err(|e| EvalError::malformed(&path, e))?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(EvalError::io(&path))
    }
}

/// The file of an item's result.
pub fn output_path(folder: &Path, id: &str) -> PathBuf {
    folder.join("outputs").join(format!("{id}.png"))
}

/// A document as it stands in a file.
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(EvalError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EvalError::Busy { folder: folder.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(EvalError::Io { path, source }),
    }
}

/// The rows of a journal, the last of each item. A last row that was not written whole is cut off:
/// its item was not done.
fn rows(path: &Path, file: &File) -> Result<BTreeMap<String, Entry>> {
    let bytes = std::fs::read(path).map_err(EvalError::io(path))?;
    let mut done = BTreeMap::new();
    let mut good = 0;
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let entry = line.ends_with(b"\n").then(|| serde_json::from_slice::<Entry>(line));
        match entry {
            Some(Ok(entry)) => {
                done.insert(entry.sample.id.clone(), entry);
                good += line.len();
            }
            _ if good + line.len() == bytes.len() => {}
            Some(Err(error)) => {
                return Err(EvalError::malformed(path, format!("line {}: {error}", number + 1)));
            }
            None => {}
        }
    }
    if good < bytes.len() {
        file.set_len(good as u64).and_then(|()| file.sync_data()).map_err(EvalError::io(path))?;
    }
    Ok(done)
}

/// The first thing in which two documents differ: where, and what they say there.
fn difference(there: &Value, here: &Value, at: String) -> Option<(String, String, String)> {
    if let (Value::Object(a), Value::Object(b)) = (there, here) {
        let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
        return names.into_iter().find_map(|name| {
            let dot = if at.is_empty() { "" } else { "." };
            let nothing = Value::Null;
            let (a, b) = (a.get(name).unwrap_or(&nothing), b.get(name).unwrap_or(&nothing));
            difference(a, b, format!("{at}{dot}{name}"))
        });
    }
    (there != here).then(|| (at, there.to_string(), here.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(id: &str, value: f64) -> Entry {
        let sample = Sample::of_figures(id, [("edit_right", value)]);
        Entry { sample, picture: None, cost: Cost { seconds: 0.5, ..Cost::default() } }
    }

    #[test]
    fn a_torn_last_row_is_dropped_and_its_item_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let run = json!({"system": "model"});
        let journal = Journal::open(folder.path(), &run, false).unwrap();
        journal.append(&entry("a", 1.0)).unwrap();
        journal.append(&entry("b", 0.25)).unwrap();
        drop(journal);
        let path = folder.path().join(JOURNAL);
        let whole = std::fs::read(&path).unwrap();
        for cut in [1, 2, 20] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let journal = Journal::open(folder.path(), &run, true).unwrap();
            assert_eq!(journal.done("a"), Some(&entry("a", 1.0)));
            assert_eq!(journal.done("b"), None);
            journal.append(&entry("b", 0.25)).unwrap();
            drop(journal);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        let mut broken = whole.clone();
        broken[3] = b'{';
        std::fs::write(&path, &broken).unwrap();
        let error = Journal::open(folder.path(), &run, true).err().unwrap().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn only_the_same_run_is_resumed_and_only_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let run = json!({"settings": {"alpha": 0.5}, "suite": {"sha256": "x"}});
        let open = |run: &Value, resume| Journal::open(folder.path(), run, resume);
        let first = open(&run, true).unwrap();
        assert!(matches!(open(&run, true), Err(EvalError::Busy { .. })));
        drop(first);
        assert!(matches!(open(&run, false), Err(EvalError::Taken { .. })));
        let other = json!({"settings": {"alpha": 0.6}, "suite": {"sha256": "x"}});
        let error = open(&other, true).err().unwrap().to_string();
        assert!(error.contains("`settings.alpha`: 0.5, not 0.6"), "{error}");
        open(&run, true).unwrap();
    }

    #[test]
    fn a_row_whose_picture_is_not_the_one_it_tells_of_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let run = json!({});
        let journal = Journal::open(folder.path(), &run, false).unwrap();
        let picture = Some(any2pix_agent::outcome::sha256(b"picture"));
        journal.append(&Entry { picture, ..entry("a", 1.0) }).unwrap();
        drop(journal);
        let done = || Journal::open(folder.path(), &run, true).unwrap().done("a").is_some();
        assert!(!done());
        std::fs::create_dir(folder.path().join("outputs")).unwrap();
        std::fs::write(output_path(folder.path(), "a"), b"picture").unwrap();
        assert!(done());
    }
}
