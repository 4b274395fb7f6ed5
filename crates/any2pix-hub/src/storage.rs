//! Durable files and folders: whole under their name or not at all, and room for them before.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{HubError, Result};

/// Told what is going on, and asked whether to go on.
pub trait Progress {
    /// A file of that many bytes is begun, of which `done` are there already.
    fn file(&mut self, name: &str, done: u64, bytes: u64);
    /// That many more bytes of it are there.
    fn advance(&mut self, bytes: u64);
    /// Something that deserves attention.
    fn warning(&mut self, message: &str);
    /// Whether to stop here.
    fn is_cancelled(&self) -> bool;
}

/// Progress that nobody watches.
pub struct Silent;

impl Progress for Silent {
    fn file(&mut self, _: &str, _: u64, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn warning(&mut self, _: &str) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// The folder that a file is in; the current one of a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file that appears under its name when it is finished, and leaves nothing when it is not.
pub(crate) struct Pending {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
}

impl Pending {
    /// Begins `path`; the folders above it are made.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&temporary);
        let file = Some(file.map_err(HubError::io(&temporary))?);
        Ok(Self { path: path.to_path_buf(), temporary, file })
    }

    /// The file to write to, under a name of its own.
    pub(crate) fn file(&self) -> Result<File> {
        match &self.file {
            Some(file) => file.try_clone().map_err(HubError::io(&self.temporary)),
            None => Err(HubError::malformed(self.path.display(), "was finished before")),
        }
    }

    /// Makes it durable and gives it its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(HubError::io(&self.temporary))?;
        }
        std::fs::rename(&self.temporary, &self.path).map_err(HubError::io(&self.path))?;
        sync_folder(&self.path)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a finish there is nothing under this name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Makes a rename in the folder of `path` durable; not every system can open a folder.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    match cfg!(unix) {
        true => File::open(folder).and_then(|f| f.sync_all()).map_err(HubError::io(folder)),
        false => Ok(()),
    }
}

/// Writes a small file whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let pending = Pending::create(path)?;
    pending.file()?.write_all(bytes).map_err(HubError::io(path))?;
    pending.finish()
}

/// An error unless `bytes` more fit where `folder` is, or will be.
pub(crate) fn require_room(folder: &Path, bytes: u64) -> Result<()> {
    match free_bytes(folder) {
        Some(free) if free < bytes => {
            Err(HubError::NoRoom { path: folder.to_path_buf(), needed: bytes, free })
        }
        _ => Ok(()),
    }
}

/// Bytes that may still be written below `folder`, or below the nearest folder above that exists;
/// `None` where the system does not say.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let existing = std::path::absolute(folder).ok()?;
    let existing = existing.ancestors().find(|path| path.exists())?;
    let status = rustix::fs::statvfs(existing).ok()?;
    Some(status.f_bavail.saturating_mul(status.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Bytes as people read them.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/model.bin");
        let pending = Pending::create(&path).unwrap();
        pending.file().unwrap().write_all(b"half").unwrap();
        drop(pending);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        write_whole(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_bare_name_is_in_the_current_folder() {
        assert_eq!(folder_of(Path::new("model.bin")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/model.bin")), Path::new("a"));
        sync_folder(Path::new("model.bin")).unwrap();
    }

    #[test]
    fn more_than_there_is_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        require_room(&folder.path().join("not/there/yet"), 1).unwrap();
        if cfg!(unix) {
            let error = require_room(folder.path(), u64::MAX).unwrap_err().to_string();
            assert!(error.contains("free"), "{error}");
        }
        assert_eq!(human_bytes(13_602_850_816), "13.6 GB");
    }
}
