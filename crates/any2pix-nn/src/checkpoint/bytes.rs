//! The bytes of a file: mapped or in memory, shared by all tensors that lie in them.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::error::{CheckpointError, Fault, malformed};

enum Place {
    Mapped(Mmap),
    Memory(Vec<u8>),
}

/// Bytes that many tensors share.
#[derive(Clone)]
pub(super) struct Bytes(Arc<Place>);

impl Bytes {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Place::Memory(bytes)))
    }

    /// Maps a regular file; pipes and devices are refused without being opened.
    #[allow(unsafe_code)]
    pub(super) fn map(path: &Path) -> Result<Self, CheckpointError> {
        let origin = path.display().to_string();
        let unreadable = |source| CheckpointError::Unreadable { path: path.to_path_buf(), source };
        let about = std::fs::metadata(path).map_err(unreadable)?;
        let refuse = |reason: &str| Err(Fault::Malformed(reason.to_string()).at(&origin));
        if about.is_dir() {
            return refuse("it is a folder");
        }
        if !about.is_file() {
            return refuse("it is not a regular file");
        }
        if about.len() == 0 {
            return refuse("it is empty");
        }
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: who opens a model's file leaves it alone while it is used, as
        // `Checkpoint::open` says.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok(Self(Arc::new(Place::Mapped(map))))
    }

    /// Gives the memory of these pages of a mapped file back to the system, which reads them again
    /// if they are wanted again: a file of weights is read once, and would count as ours for long.
    #[allow(unsafe_code)]
    pub(super) fn forget(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Place::Mapped(map) = &*self.0 {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and never written to, so that its pages come back as
            // they were. That the system may not follow the advice does no harm.
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Place::Mapped(map) => map,
            Place::Memory(bytes) => bytes,
        }
    }
}

/// Reads little-endian numbers one after another and never beyond the end.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// From `at` on, which may lie behind the end: then nothing is left.
    pub(super) fn starting(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        if count > self.left() {
            let (at, left) = (self.at, self.left());
            return malformed(format!("{count} bytes are needed at {at}, {left} are left"));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length or an offset, which must fit into memory's.
    pub(super) fn size(&mut self) -> Result<usize, Fault> {
        let size = self.u64()?;
        match usize::try_from(size) {
            Ok(size) => Ok(size),
            Err(_) => malformed(format!("a length of {size} bytes")),
        }
    }

    /// Up to the next line feed, which is taken too.
    pub(super) fn line(&mut self) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        match rest.iter().take(MAX_LINE).position(|b| *b == b'\n') {
            Some(length) => {
                self.at += length + 1;
                Ok(&rest[..length])
            }
            None => malformed(format!("a line without an end at {}", self.at)),
        }
    }
}

/// Longest line of text in a pickle.
const MAX_LINE: usize = 1024;
