//! What judges said, a file each, named by the hash of what they were asked.
//!
//! The address of the endpoint is no part of it: the same model under another address says the
//! same.

use std::fs;
use std::path::{Path, PathBuf};

use any2pix_agent::outcome::sha256;
use any2pix_agent::storage::write_atomically;
use serde::{Deserialize, Serialize};

use super::request::Question;
use super::verdict::Verdict;
use crate::Result;

#[derive(Serialize, Deserialize)]
struct Kept {
    model: String,
    said: String,
}

/// The file of a question.
pub(super) fn path(folder: &Path, question: &Question) -> PathBuf {
    folder.join(format!("{}.json", sha256(&question.body())))
}

/// The verdict in a file; whatever else is in it counts as nothing.
pub(super) fn read(path: &Path) -> Option<Verdict> {
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Verdict::parse(&kept.said).ok()
}

/// Keeps what was said.
pub(super) fn write(path: &Path, model: &str, said: &str) -> Result<()> {
    let kept = Kept { model: model.to_string(), said: said.to_string() };
    let text = serde_json::to_vec_pretty(&kept).unwrap_or_default();
    Ok(write_atomically(path, &text)?)
}
