//! Reading a file once, whole and bounded: the bytes that are checked are the bytes that are used.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

use crate::error::{MediaError, Stage};

/// Reads the regular file `path`, refusing more than `max_bytes` before it allocates them; a
/// directory, pipe or device is refused without being opened.
pub fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, MediaError> {
    let name = path.display().to_string();
    let unreadable = |source| MediaError::Unreadable { path: name.clone(), source };
    // `stat` does not block on a pipe; `open` would.
    regular(&name, &std::fs::metadata(path).map_err(unreadable)?)?;
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    regular(&name, &metadata)?;
    let too_big = |reason: String| MediaError::Limit {
        path: name.clone(),
        stage: Stage::Read,
        reason,
        limit: megabytes(max_bytes),
        hint: "make the file smaller",
    };
    if metadata.len() > max_bytes {
        return Err(too_big(format!("the file is {}", megabytes(metadata.len()))));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // One byte more than allowed tells a file that grew while it was read.
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_big("the file is larger".to_string()));
    }
    Ok(bytes)
}

/// `50 MB`, rounded up so that a file over the limit never reads like one at it.
pub(crate) fn megabytes(bytes: u64) -> String {
    if bytes < 1_000_000 {
        format!("{bytes} bytes")
    } else {
        format!("{} MB", bytes.div_ceil(1_000_000))
    }
}

fn regular(name: &str, metadata: &Metadata) -> Result<(), MediaError> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let kind = if kind.is_dir() { "a directory" } else { special(metadata) };
    Err(MediaError::NotAFile { path: name.to_string(), kind })
}

#[cfg(unix)]
fn special(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special(_: &Metadata) -> &'static str {
    "a special file"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_refused_by_its_kind() {
        let kind = |path: &str| match read_bounded(Path::new(path), 10) {
            Err(MediaError::NotAFile { kind, .. }) => kind,
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(kind(env!("CARGO_MANIFEST_DIR")), "a directory");
        #[cfg(unix)]
        assert_eq!(kind("/dev/zero"), "a device");
    }

    #[test]
    fn the_limit_is_checked_before_reading() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(read_bounded(&path, 1 << 20).is_ok());
        let error = read_bounded(&path, 10).unwrap_err().to_string();
        assert!(error.contains("limit 10 bytes"), "{error}");
    }
}
