//! Which format bytes are in, told by what they begin with.

use std::collections::BTreeMap;
use std::path::Path;

use super::bytes::Bytes;
use super::error::{CheckpointError, Fault};
use super::stored::Stored;
use super::{gguf, index, safetensors, torch};

/// Most tensors of one file.
pub(super) const MAX_TENSORS: usize = 200_000;

/// Longest name of a tensor.
pub(super) const MAX_NAME: usize = 1024;

/// What a file holds: tensors, and what it says besides them.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, Stored>,
    pub(super) metadata: BTreeMap<String, String>,
}

const NOT_WEIGHTS: &str =
    "weights are read from safetensors, GGUF, PyTorch files and their indices";

/// Bytes of other kinds that are met where weights should be.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (
        b"version https://git-lfs",
        "it is a pointer of Git LFS, not the file that it points at",
        "run `git lfs pull` in its folder, or download the file itself",
    ),
    (b"<!DOCTYPE", "it is a web page", "download the file itself, not the page about it"),
    (b"<html", "it is a web page", "download the file itself, not the page about it"),
    (b"\x1f\x8b", "it is compressed", "unpack it with gunzip"),
    (b"\x93NUMPY", "it is an array of NumPy", NOT_WEIGHTS),
    (b"FUGG", "it is a GGUF file of the other byte order", "convert it on a little-endian machine"),
];

/// Whether bytes are the JSON of an index. A safetensors file begins with the length of its
/// header, of which these bytes would make an absurd one.
fn is_index(bytes: &[u8]) -> bool {
    let head: String = bytes.iter().take(64).map(|b| char::from(*b)).collect();
    let mut visible = head.chars().filter(|c| !c.is_whitespace());
    visible.next() == Some('{') && visible.next() == Some('"') && bytes.get(8) != Some(&b'{')
}

/// Reads the directory of a file that holds tensors itself.
pub(super) fn read(bytes: &Bytes) -> Result<Contents, Fault> {
    for (start, reason, hint) in OTHERS {
        if bytes.starts_with(start) {
            return Err(Fault::Refused((*reason).to_string(), hint));
        }
    }
    if bytes.starts_with(b"GGUF") {
        return gguf::read(bytes);
    }
    if bytes.starts_with(b"PK") {
        return torch::read_zip(bytes);
    }
    if bytes.starts_with(torch::LEGACY_MAGIC) {
        return torch::read_legacy(bytes);
    }
    if bytes.starts_with(b"\x80") && bytes.get(1).is_some_and(|version| *version < 6) {
        let reason = "it is a pickle, but not one that torch.save writes".to_string();
        return Err(Fault::Refused(reason, torch::CONVERT));
    }
    safetensors::read(bytes)
}

/// Reads the directory of the file at `path`, or of all files that it lists.
pub(super) fn open(path: &Path) -> Result<Contents, CheckpointError> {
    let bytes = Bytes::map(path)?;
    if is_index(&bytes) {
        return index::read(path, &bytes);
    }
    read(&bytes).map_err(|fault| fault.at(&path.display().to_string()))
}
