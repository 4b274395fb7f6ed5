//! `Job`: what a cluster shall do, and in which words.

use std::path::{Path, PathBuf};

use super::template::shell;
use crate::diagnostics::Failure;

/// What a cluster shall do. Paths are absolute: the same on every node.
pub(super) struct Job {
    /// The program.
    pub(super) any2pix: String,
    pub(super) manifest: String,
    pub(super) out: String,
    pub(super) shards: usize,
    /// Shards at the same time.
    pub(super) workers: usize,
    /// Processors of each.
    pub(super) cpus: usize,
    /// Graphics processors of each.
    pub(super) gpus: usize,
    /// Flags of model, settings and computing.
    pub(super) flags: Vec<String>,
    pub(super) allow_outside: bool,
    /// The result of a merge as JSON.
    pub(super) json: bool,
}

/// The text of a path that scripts can repeat.
pub(super) fn path_text(path: &Path) -> Result<String, Failure> {
    let failed = |reason: &str| Failure::refused(format!("{}: {reason}", path.display()));
    let path = std::path::absolute(path).map_err(|error| failed(&error.to_string()))?;
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Ok(text.to_string()),
        _ => Err(failed("such a path cannot stand in a script")),
    }
}

impl Job {
    /// The command of one shard, whose index the scheduler says.
    pub(super) fn batch(&self) -> Vec<&str> {
        let mut words = vec![&*self.any2pix, "batch", &self.manifest, "--out", &self.out];
        words.push("--resume");
        if self.allow_outside {
            words.push("--allow-outside");
        }
        words.extend(self.flags.iter().map(String::as_str));
        words
    }

    /// The command that follows when all have ended.
    pub(super) fn merge(&self) -> Vec<&str> {
        vec![&self.any2pix, "merge", &self.out]
    }

    /// Where what starts the job, and what it says, is kept.
    pub(super) fn folder(&self) -> PathBuf {
        Path::new(&self.out).join("cluster")
    }

    /// That folder as a shell reads it, with `change` made.
    pub(super) fn shell_folder(
        &self,
        change: impl Fn(String) -> String,
    ) -> Result<String, Failure> {
        shell([&*change(path_text(&self.folder())?)])
    }
}
