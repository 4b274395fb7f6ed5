//! `BatchFolder`: the folder of a batch; who may write into it, and what belongs to whom.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::identity::{Identity, PARTS};
use super::shards::Shard;
use crate::claim;
use crate::error::AgentError;
use crate::storage::sync_folder;

const IDENTITY: &str = "batch.json";
const OUTPUTS: &str = "outputs";
pub(super) const RESULTS: &str = "results.jsonl";
pub(super) const REPORT: &str = "report.json";

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
        let Some(document) = claim::pinned(&self.path, IDENTITY, PARTS)? else { return Ok(None) };
        let path = self.path.join(IDENTITY);
        let foreign = || AgentError::OtherBatch { path, what: "something else" };
        Identity::of(document).ok_or_else(foreign).map(Some)
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
        let lock = claim::lock(&self.path, &shard.stem())?;
        let ours = [OUTPUTS, RESULTS, REPORT];
        claim::pin(&self.path, IDENTITY, identity.document(), PARTS, &ours)?;
        if !resume && self.journal(shard).exists() {
            return Err(AgentError::Unfinished { path: self.journal(shard) });
        }
        let outputs = self.path.join(OUTPUTS);
        std::fs::create_dir_all(&outputs).map_err(unwritable(&outputs))?;
        sync_folder(&self.path).map_err(unwritable(&self.path))?;
        Ok(Claim { folder: self.clone(), shard, _lock: lock })
    }

    /// Waits until nobody else merges, and removes what a merge that was killed left.
    pub(super) fn claim_merge(&self) -> Result<File, AgentError> {
        let lock = claim::wait_for(&self.path.join(".merge.lock"))?;
        claim::sweep(&self.path, |owner| matches!(owner, RESULTS | REPORT))?;
        Ok(lock)
    }
}

impl Claim {
    /// Removes what a killed process left under temporary names of files that belong to the shard:
    /// its journal's, and the pictures called `stems`.
    pub(super) fn sweep(&self, stems: &BTreeSet<&str>) -> Result<(), AgentError> {
        let part = self.shard.stem();
        let is_ours = |owner: &str| owner.strip_suffix(".png").is_some_and(|s| stems.contains(s));
        claim::sweep(self.folder.path(), |owner| owner.starts_with(&part))?;
        claim::sweep(&self.folder.join(OUTPUTS), is_ours)
    }
}
