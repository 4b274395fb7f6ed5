//! `BatchFolder`: the folder of a batch; who may write into it, and what belongs to whom.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::identity::Identity;
use super::shards::Shard;
use crate::error::AgentError;
use crate::storage::{sync_folder, write_atomically};

const IDENTITY: &str = "batch.json";
const OUTPUTS: &str = "outputs";
pub(super) const RESULTS: &str = "results.jsonl";
pub(super) const REPORT: &str = "report.json";
/// Largest identity that is read, in bytes.
const MAX_IDENTITY: u64 = 1 << 20;

/// The folder of a batch.
#[derive(Clone, Debug)]
pub(super) struct BatchFolder {
    path: PathBuf,
}

/// A shard's place in a folder, which is nobody else's while this lives.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) folder: BatchFolder,
    pub(super) shard: Shard,
    /// Unlocked by the system when it is closed, however the process ends.
    _lock: File,
}

fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> AgentError + '_ {
    |source| AgentError::Unwritable { path: path.to_path_buf(), source }
}

/// How many shards the batch has that was begun in `out`, if one was.
///
/// # Errors
/// When the folder holds something else, or cannot be read.
pub fn begun_shards(out: &Path) -> Result<Option<usize>, AgentError> {
    Ok(BatchFolder::new(out).identity()?.map(|identity| identity.shards()))
}

impl BatchFolder {
    /// The folder at `path`, which need not be there yet.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The picture called `stem`, relative to the folder.
    pub(super) fn output_name(stem: &str) -> String {
        format!("{OUTPUTS}/{stem}.png")
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn journal(&self, shard: Shard) -> PathBuf {
        self.path.join(format!("{}.jsonl", shard.stem()))
    }

    pub(super) fn done(&self, shard: Shard) -> PathBuf {
        self.path.join(format!("{}.done", shard.stem()))
    }

    /// What makes the results in the folder; `None` where there are none.
    pub(super) fn identity(&self) -> Result<Option<Identity>, AgentError> {
        let path = self.path.join(IDENTITY);
        let unreadable = |source| AgentError::Unreadable { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(unreadable)?,
        };
        let mut text = String::new();
        file.take(MAX_IDENTITY).read_to_string(&mut text).map_err(unreadable)?;
        let foreign = || AgentError::OtherBatch { path: path.clone(), what: "something else" };
        Identity::parse(&text).ok_or_else(foreign).map(Some)
    }

    /// Takes the place of `shard` in the folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`AgentError::Locked`] when another process has it, [`AgentError::OtherBatch`] when the
    /// folder holds results of another identity, [`AgentError::Unfinished`] when the shard was
    /// begun and `resume` was not asked for.
    pub(super) fn claim(
        &self,
        identity: &Identity,
        shard: Shard,
        resume: bool,
    ) -> Result<Claim, AgentError> {
        std::fs::create_dir_all(&self.path).map_err(unwritable(&self.path))?;
        let lock = self.lock(&shard.stem())?;
        self.pin(identity)?;
        if !resume && self.journal(shard).exists() {
            return Err(AgentError::Unfinished { path: self.journal(shard) });
        }
        let outputs = self.path.join(OUTPUTS);
        std::fs::create_dir_all(&outputs).map_err(unwritable(&outputs))?;
        sync_folder(&self.path).map_err(unwritable(&self.path))?;
        Ok(Claim { folder: self.clone(), shard, _lock: lock })
    }

    /// Writes the identity, or compares it with the one that is there.
    fn pin(&self, identity: &Identity) -> Result<(), AgentError> {
        let other = |what| AgentError::OtherBatch { path: self.path.clone(), what };
        // Shards may begin at the same time: one writes, the others wait and compare.
        let path = self.path.join(format!(".{IDENTITY}.lock"));
        let _lock = self.wait_for(&path)?;
        remove(&self.path, |name| owner(name) == Some(IDENTITY))?;
        if let Some(found) = self.identity()? {
            return found.difference(identity).map_or(Ok(()), |what| Err(other(what)));
        }
        let ours = [OUTPUTS, RESULTS, REPORT];
        if ours.iter().any(|name| self.path.join(name).exists()) {
            return Err(other("something else"));
        }
        write_atomically(&self.path.join(IDENTITY), identity.text().as_bytes())
    }

    /// Waits until nobody else merges, and removes what a merge that was killed left.
    pub(super) fn claim_merge(&self) -> Result<File, AgentError> {
        let lock = self.wait_for(&self.path.join(".merge.lock"))?;
        remove(&self.path, |name| matches!(owner(name), Some(RESULTS | REPORT)))?;
        Ok(lock)
    }

    fn wait_for(&self, path: &Path) -> Result<File, AgentError> {
        let lock = open_lock(path).map_err(unwritable(path))?;
        lock.lock().map_err(unwritable(path))?;
        Ok(lock)
    }

    fn lock(&self, stem: &str) -> Result<File, AgentError> {
        let path = self.path.join(format!(".{stem}.lock"));
        let mut file = open_lock(&path).map_err(unwritable(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.take(32).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(AgentError::Locked { path: self.path.clone(), pid });
            }
            Err(TryLockError::Error(source)) => {
                return Err(AgentError::Unwritable { path, source });
            }
        }
        // For whoever finds it locked; nothing else depends on it.
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(unwritable(&path))?;
        Ok(file)
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

impl Claim {
    /// Removes what a killed process left under temporary names of files that belong to the shard:
    /// its journal's, and the pictures called `stems`.
    pub(super) fn sweep(&self, stems: &BTreeSet<&str>) -> Result<(), AgentError> {
        let part = self.shard.stem();
        let in_folder = |name: &str| owner(name).is_some_and(|n| n.starts_with(&part));
        let in_outputs = |name: &str| {
            owner(name).is_some_and(|n| n.strip_suffix(".png").is_some_and(|s| stems.contains(s)))
        };
        remove(self.folder.path(), in_folder)?;
        remove(&self.folder.join(OUTPUTS), in_outputs)
    }
}

/// Whose temporary file `.<name>.<pid>.tmp` is: that is how atomic writes call them.
fn owner(name: &str) -> Option<&str> {
    Some(name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?.0)
}

fn remove(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), AgentError> {
    for entry in std::fs::read_dir(folder).map_err(unwritable(folder))?.flatten() {
        if entry.file_name().to_str().is_some_and(&is_ours) {
            std::fs::remove_file(entry.path()).map_err(unwritable(&entry.path()))?;
        }
    }
    Ok(())
}
