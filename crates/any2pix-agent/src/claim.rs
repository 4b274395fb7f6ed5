//! Folders of work that goes on after a crash: who may write where, what makes what lies there,
//! and what a process left that was killed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

use crate::error::AgentError;
use crate::storage::write_atomically;

/// Largest document that says what makes the results, in bytes.
const MAX_IDENTITY: u64 = 1 << 20;

fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> AgentError + '_ {
    |source| AgentError::Unwritable { path: path.to_path_buf(), source }
}

/// Keys of a document that says what makes the results in a folder, with what to call them.
pub type Parts = &'static [(&'static str, &'static str)];

/// What is not the same in two documents, in words.
pub fn difference(a: &Value, b: &Value, parts: Parts) -> Option<&'static str> {
    let differs = |key: &str| a.get(key) != b.get(key);
    parts.iter().find(|(key, _)| differs(key)).map(|(_, words)| *words)
}

/// The document called `name` in `folder`; `None` where there is none.
///
/// # Errors
/// [`AgentError::OtherBatch`] when it lacks one of `parts`.
pub fn pinned(folder: &Path, name: &str, parts: Parts) -> Result<Option<Value>, AgentError> {
    let path = folder.join(name);
    let unreadable = |source| AgentError::Unreadable { path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(unreadable)?,
    };
    let mut text = String::new();
    file.take(MAX_IDENTITY).read_to_string(&mut text).map_err(unreadable)?;
    let document: Option<Value> = serde_json::from_str(&text).ok();
    let document = document.filter(|d| parts.iter().all(|(key, _)| d.get(key).is_some()));
    let foreign = || AgentError::OtherBatch { path: path.clone(), what: "something else" };
    document.ok_or_else(foreign).map(Some)
}

/// Writes what makes the results in `folder` under `name`, or compares it with what is there.
/// Several processes may begin at the same time.
///
/// # Errors
/// [`AgentError::OtherBatch`] when the folder holds results that were made otherwise, or one of
/// `ours` and nothing that says what made it.
pub fn pin(
    folder: &Path,
    name: &str,
    document: &Value,
    parts: Parts,
    ours: &[&str],
) -> Result<(), AgentError> {
    std::fs::create_dir_all(folder).map_err(unwritable(folder))?;
    let other = |what| AgentError::OtherBatch { path: folder.to_path_buf(), what };
    // One writes, the others wait and compare.
    let _lock = wait_for(&folder.join(format!(".{name}.lock")))?;
    sweep(folder, |owner| owner == name)?;
    if let Some(found) = pinned(folder, name, parts)? {
        return difference(&found, document, parts).map_or(Ok(()), |what| Err(other(what)));
    }
    if ours.iter().any(|name| folder.join(name).exists()) {
        return Err(other("something else"));
    }
    write_atomically(&folder.join(name), format!("{document:#}\n").as_bytes())
}

/// The document as it will be read again: two readings of one text are equal, whatever their
/// numbers.
pub fn as_read(document: &Value) -> Value {
    serde_json::from_str(&document.to_string()).unwrap_or_else(|_| document.clone())
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Waits for a lock; it is given back when the file is closed, however the process ends.
pub(crate) fn wait_for(path: &Path) -> Result<File, AgentError> {
    let lock = open_lock(path).map_err(unwritable(path))?;
    lock.lock().map_err(unwritable(path))?;
    Ok(lock)
}

/// The place called `stem` in `folder`, which is nobody else's until the file is closed, however
/// the process ends.
///
/// # Errors
/// [`AgentError::Locked`] when another process has it.
pub fn lock(folder: &Path, stem: &str) -> Result<File, AgentError> {
    let path = folder.join(format!(".{stem}.lock"));
    let mut file = open_lock(&path).map_err(unwritable(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.take(32).read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(AgentError::Locked { path: folder.to_path_buf(), pid });
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

/// Whose temporary file `.<name>.<pid>.tmp` is: that is how atomic writes call them.
fn owner(name: &str) -> Option<&str> {
    Some(name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?.0)
}

/// Removes what killed processes left in `folder` under temporary names of files that are ours.
pub fn sweep(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), AgentError> {
    for entry in std::fs::read_dir(folder).map_err(unwritable(folder))?.flatten() {
        if entry.file_name().to_str().and_then(owner).is_some_and(&is_ours) {
            std::fs::remove_file(entry.path()).map_err(unwritable(&entry.path()))?;
        }
    }
    Ok(())
}
