//! Durable writes: a file appears whole under its name, or not at all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::AgentError;

/// Writes `bytes` to `path`: a temporary file beside it, fsync, rename, fsync of the folder.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), AgentError> {
    let unwritable = |source| AgentError::Unwritable { path: path.to_path_buf(), source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name() else {
        return Err(unwritable(std::io::Error::other("the path names no file")));
    };
    if path.is_dir() {
        return Err(unwritable(std::io::Error::other("is a directory")));
    }
    let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_folder(folder)
    };
    write().map_err(|source| {
        // What is left under the temporary name is nobody's; a failure to remove it adds nothing.
        let _ = std::fs::remove_file(&temporary);
        unwritable(source)
    })
}

/// Makes the rename itself durable; not every system can open a folder.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// An error when writing `output` would replace one of `inputs`, under any of its names.
pub fn refuse_inputs(output: &Path, inputs: &[PathBuf]) -> Result<(), AgentError> {
    let Ok(real) = output.canonicalize() else { return Ok(()) };
    let same =
        |input: &PathBuf| input.canonicalize().is_ok_and(|input| is_same_file(&input, &real));
    if inputs.iter().any(same) {
        return Err(AgentError::OutputIsInput { path: output.to_path_buf() });
    }
    Ok(())
}

#[cfg(unix)]
fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
    a == b || identity(a).is_some_and(|id| Some(id) == identity(b))
}

#[cfg(not(unix))]
fn is_same_file(a: &Path, b: &Path) -> bool {
    a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.png");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let message = write_atomically(&path, b"x").unwrap_err().to_string();
        assert!(message.contains("taken"), "{message}");
        assert!(write_atomically(&folder.path().join("no/such/out.png"), b"x").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_input_is_never_an_output_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.png");
        std::fs::write(&input, b"x").unwrap();
        let other = folder.path().join("other.png");
        refuse_inputs(&other, std::slice::from_ref(&input)).unwrap();
        let roundabout = folder.path().join(".").join("in.png");
        assert!(refuse_inputs(&roundabout, std::slice::from_ref(&input)).is_err());
        #[cfg(unix)]
        {
            std::fs::hard_link(&input, &other).unwrap();
            assert!(refuse_inputs(&other, std::slice::from_ref(&input)).is_err());
        }
    }
}
