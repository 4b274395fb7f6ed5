//! One file from a hub to this machine: resumed where it stopped, checked before it has its name.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use crate::client::HubClient;
use crate::error::{HubError, Result};
use crate::listing::RemoteFile;
use crate::storage::{Progress, sync_folder};

/// Bytes read at once.
const CHUNK: usize = 1 << 18;

/// What is being fetched, and where to.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a HubClient,
    pub(crate) url: String,
    pub(crate) file: &'a RemoteFile,
    /// What is there so far; kept when the download stops.
    pub(crate) part: &'a Path,
    /// Where the whole file goes.
    pub(crate) target: &'a Path,
}

/// Locks `path` against everybody else until the file is dropped; the system lets go of it when
/// the process ends, however it ends.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(HubError::io(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(HubError::Locked { path: path.to_path_buf() })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(HubError::io(path)(error)),
    }
}

impl Download<'_> {
    /// Fetches the rest of the file, checks it and gives it its name.
    pub(crate) fn run(&self, progress: &mut dyn Progress) -> Result<()> {
        let io = || HubError::io(self.part);
        for path in [self.part, self.target] {
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        }
        let mut options = OpenOptions::new();
        let part = options.read(true).write(true).create(true).truncate(false).open(self.part);
        let mut part = part.map_err(io())?;
        let there = part.metadata().map_err(io())?.len();
        if there > self.file.size {
            part.set_len(0).map_err(io())?;
        }
        let (mut attempt, mut most) = (0, 0);
        loop {
            match self.rest(&mut part, progress) {
                Ok(()) => break,
                Err(error) => self.client.wait_or_give_up(error, &mut attempt)?,
            }
            // Attempts that bring a file further do not use up patience.
            let there = part.metadata().map_err(io())?.len();
            if there > most {
                (attempt, most) = (0, there);
            }
        }
        self.check(&mut part)?;
        part.sync_all().map_err(io())?;
        drop(part);
        std::fs::rename(self.part, self.target).map_err(HubError::io(self.target))?;
        sync_folder(self.target)
    }

    /// Appends what is missing to the part.
    fn rest(&self, part: &mut File, progress: &mut dyn Progress) -> Result<()> {
        let io = || HubError::io(self.part);
        let size = self.file.size;
        let mut there = part.seek(SeekFrom::End(0)).map_err(io())?;
        progress.file(&self.file.path, there, size);
        if there == size {
            return Ok(());
        }
        let mut response = self.client.get(&self.url, there, size - there)?;
        if there > 0 && !continues(&response, there, size) {
            // The server gives the whole file, or thinks that it is another one.
            part.set_len(0).map_err(io())?;
            part.seek(SeekFrom::Start(0)).map_err(io())?;
            if response.status() != 200 {
                response = self.client.get(&self.url, 0, size)?;
            }
            there = 0;
            progress.file(&self.file.path, 0, size);
        }
        if response.status() == 416 {
            return Err(HubError::malformed(&self.url, "the server refuses every range"));
        }
        self.refuse_other_content(&response)?;
        let (_, body) = response.into_parts();
        let mut body = body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            if progress.is_cancelled() {
                return Err(HubError::Stopped);
            }
            let count = match body.read(&mut buffer) {
                Ok(count) => count,
                Err(error) => return Err(HubError::connection(&self.url, error)),
            };
            if count == 0 {
                break;
            }
            there += count as u64;
            if there > size {
                part.set_len(0).map_err(io())?;
                let reason = format!("more came than the {size} bytes that were announced");
                return Err(HubError::malformed(&self.url, reason));
            }
            part.write_all(&buffer[..count]).map_err(io())?;
            progress.advance(count as u64);
        }
        if there < size {
            let reason = format!("the connection ended after {there} of {size} bytes");
            return Err(HubError::connection(&self.url, std::io::Error::other(reason)));
        }
        Ok(())
    }

    /// A server that answers for other content than was listed is refused before it is read.
    fn refuse_other_content(&self, response: &Response<Body>) -> Result<()> {
        let header = response.headers().get("x-linked-etag").and_then(|h| h.to_str().ok());
        let Some(etag) = header.map(|etag| etag.trim_start_matches("W/").trim_matches('"')) else {
            return Ok(());
        };
        if self.file.is_sha256 && etag != self.file.etag {
            return Err(HubError::WrongHash {
                path: self.file.path.clone(),
                expected: self.file.etag.clone(),
                found: etag.to_string(),
            });
        }
        Ok(())
    }

    /// Compares the whole file with its hash; what is wrong is removed, since no resuming helps.
    fn check(&self, part: &mut File) -> Result<()> {
        let found = match self.file.is_sha256 {
            true => hashed(Sha256::new(), part),
            // As git names content: with its kind and length before it.
            false => {
                let head = format!("blob {}\0", self.file.size);
                hashed(Sha1::new_with_prefix(head), part)
            }
        };
        let found = found.map_err(HubError::io(self.part))?;
        if found == self.file.etag {
            return Ok(());
        }
        std::fs::remove_file(self.part).map_err(HubError::io(self.part))?;
        Err(HubError::WrongHash {
            path: self.file.path.clone(),
            expected: self.file.etag.clone(),
            found,
        })
    }
}

/// Whether the answer begins at byte `start` of a file of `size` bytes.
fn continues(response: &Response<Body>, start: u64, size: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|h| h.to_str().ok());
    response.status() == 206
        && range.is_none_or(|range| {
            range.starts_with(&format!("bytes {start}-")) && range.ends_with(&format!("/{size}"))
        })
}

/// A file's hash in hexadecimal, after what `hash` has seen already.
fn hashed<D: Digest>(mut hash: D, file: &mut File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
