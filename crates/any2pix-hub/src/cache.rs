//! `Cache`: the folder that Hugging Face's own tools keep, so that nothing is fetched twice.
//!
//! `models--org--name/` holds `blobs/<hash>`, `refs/<revision>` with a commit in it, and
//! `snapshots/<commit>/<path>`, which are links to blobs.

use std::path::{Path, PathBuf};

use crate::error::{HubError, Result};
use crate::storage::write_whole;

/// The cache's folder; it need not exist.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A commit of a repository, as far as it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// `organisation/name`.
    pub id: String,
    /// The commit.
    pub commit: String,
    /// Names that stand for it: `main`, for example.
    pub refs: Vec<String>,
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of the files in it.
    pub bytes: u64,
}

impl Cache {
    /// The cache at `root`, which is `~/.cache/huggingface/hub` unless the environment says otherwise.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn folder_name(id: &str) -> String {
        format!("models--{}", id.replace('/', "--"))
    }

    /// The folder of a repository.
    pub(crate) fn repository(&self, id: &str) -> PathBuf {
        self.root.join(Self::folder_name(id))
    }

    /// The file that holds content of that hash.
    pub(crate) fn blob(&self, id: &str, etag: &str) -> PathBuf {
        self.repository(id).join("blobs").join(etag)
    }

    /// The file that is locked while content of that hash is fetched.
    pub(crate) fn lock(&self, id: &str, etag: &str) -> PathBuf {
        self.root.join(".locks").join(Self::folder_name(id)).join(format!("{etag}.lock"))
    }

    /// The folder of a commit.
    pub(crate) fn snapshot_folder(&self, id: &str, commit: &str) -> PathBuf {
        self.repository(id).join("snapshots").join(commit)
    }

    /// The commit that is on this machine for `revision`, which may be a commit itself.
    pub fn snapshot(&self, id: &str, revision: &str) -> Option<PathBuf> {
        let named = self.repository(id).join("refs").join(revision);
        let commit = std::fs::read_to_string(named).ok();
        let folder = self.snapshot_folder(id, commit.as_deref().unwrap_or(revision).trim());
        folder.is_dir().then_some(folder)
    }

    /// Remembers which commit `revision` stands for.
    pub(crate) fn remember(&self, id: &str, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        write_whole(&self.repository(id).join("refs").join(revision), commit.as_bytes())
    }

    /// Lets `path` of a commit be the blob of that hash.
    pub(crate) fn link(&self, id: &str, commit: &str, path: &str, etag: &str) -> Result<()> {
        let link = self.snapshot_folder(id, commit).join(path);
        let folder = link.parent().unwrap_or(&link);
        std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        // From the snapshot's folder up to the repository's: two levels, and those of the path.
        let up = "../".repeat(2 + path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if std::fs::read_link(&link).is_ok_and(|known| known == target) {
            return Ok(());
        }
        replace_link(&target, &self.blob(id, etag), &link)
    }

    /// Every commit that is on this machine, sorted by repository.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut found = Vec::new();
        for name in folder_names(&self.root) {
            let Some(id) = name.strip_prefix("models--") else { continue };
            let id = id.replacen("--", "/", 1);
            let repository = self.root.join(&name);
            let refs = refs(&repository.join("refs"), "");
            for commit in folder_names(&repository.join("snapshots")) {
                let folder = repository.join("snapshots").join(&commit);
                let bytes = bytes_below(&folder);
                let named = |(name, c): &(String, String)| (*c == commit).then(|| name.clone());
                let refs = refs.iter().filter_map(named).collect();
                found.push(Snapshot { id: id.clone(), commit, refs, folder, bytes });
            }
        }
        found
    }
}

/// Lets `link` stand for `target`, whatever was there before.
#[cfg(unix)]
pub(crate) fn replace_link(target: &Path, _: &Path, link: &Path) -> Result<()> {
    let temporary = link.with_file_name(format!(".link.{}.tmp", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary).map_err(HubError::io(&temporary))?;
    std::fs::rename(&temporary, link).map_err(HubError::io(link))
}

/// Where links need rights that few have, the file itself is put there under a second name.
#[cfg(not(unix))]
pub(crate) fn replace_link(_: &Path, blob: &Path, link: &Path) -> Result<()> {
    let _ = std::fs::remove_file(link);
    std::fs::hard_link(blob, link)
        .or_else(|_| std::fs::copy(blob, link).map(drop))
        .map_err(HubError::io(link))
}

/// Names in a folder, sorted; none when it cannot be read.
fn folder_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Names of revisions, which may lie in folders (`refs/pr/1`), and their commits.
fn refs(folder: &Path, prefix: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in folder_names(folder) {
        let path = folder.join(&name);
        let full = format!("{prefix}{name}");
        if path.is_dir() {
            found.extend(refs(&path, &format!("{full}/")));
        } else if let Ok(commit) = std::fs::read_to_string(path) {
            found.push((full, commit.trim().to_string()));
        }
    }
    found
}

/// Paths of all files below a folder, sorted in every folder.
pub(crate) fn files_below(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in folder_names(folder) {
        let path = folder.join(&name);
        match std::fs::symlink_metadata(&path) {
            Ok(data) if data.is_dir() => {
                found.extend(files_below(&path, &format!("{prefix}{name}/")))
            }
            Ok(_) if path.is_file() => found.push(format!("{prefix}{name}")),
            _ => {}
        }
    }
    found
}

/// Bytes of all files below a folder, links followed to files.
fn bytes_below(folder: &Path) -> u64 {
    let size = |name: &String| std::fs::metadata(folder.join(name)).map_or(0, |data| data.len());
    files_below(folder, "").iter().map(size).sum()
}
