//! `Listing`: what a hub says that a repository holds, checked before a path is used.

use std::path::{Component, Path};

use crate::error::{HubError, Result};
use crate::glob;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// What the cache calls its content: the SHA-256 of a large file, git's hash of a small one.
    pub etag: String,
    /// Whether `etag` is the SHA-256 of the content, not git's SHA-1.
    pub is_sha256: bool,
}

/// A repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit's hash.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

impl Listing {
    /// An answer of a hub, refused when a name in it could lead out of the folder it is meant for.
    pub(crate) fn checked(id: &str, commit: String, files: Vec<RemoteFile>) -> Result<Self> {
        if !is_hash(&commit) {
            return Err(HubError::malformed(
                id,
                format!("`{}` is no commit", commit.escape_debug()),
            ));
        }
        for file in &files {
            if !is_safe(&file.path) {
                return Err(HubError::UnsafePath { origin: id.into(), path: file.path.clone() });
            }
            let length = if file.is_sha256 { 64 } else { 40 };
            if !is_hash(&file.etag) || file.etag.len() != length {
                let reason = format!("`{}` has no proper hash", file.path);
                return Err(HubError::malformed(id, reason));
            }
        }
        Ok(Self { commit, files })
    }

    /// The files that are wanted, sorted by path. No pattern at all takes every file.
    pub fn select(&self, include: &[String], exclude: &[String]) -> Vec<&RemoteFile> {
        let any = |patterns: &[String], path: &str| patterns.iter().any(|p| glob::matches(p, path));
        let wanted = |file: &&RemoteFile| {
            (include.is_empty() || any(include, &file.path)) && !any(exclude, &file.path)
        };
        let mut files: Vec<&RemoteFile> = self.files.iter().filter(wanted).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }
}

fn is_hash(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a path stays below the folder it is joined to, on every system.
pub(crate) fn is_safe(path: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && Path::new(path).components().all(plain)
}

/// Refuses what is no `organisation/name`.
pub(crate) fn check_repository(id: &str) -> Result<()> {
    let word = |part: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(good) && part.trim_matches('.') == part
    };
    match id.split('/').collect::<Vec<_>>().as_slice() {
        [organisation, name] if word(organisation) && word(name) => Ok(()),
        _ => Err(HubError::NotARepository { id: id.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_are_unsafe() {
        for path in ["a.bin", "unet/config.json", ".gitattributes", "a..b/c"] {
            assert!(is_safe(path), "{path}");
        }
        for path in
            ["", "/etc/passwd", "../a", "a/../../b", "a//b", "C:\\a", "a\\..\\b", "./a", "a\n"]
        {
            assert!(!is_safe(path), "{path:?}");
        }
        check_repository("h94/IP-Adapter").unwrap();
        for id in ["gpt2", "a/b/c", "../x", "a/", "a b/c", "a/.."] {
            assert!(check_repository(id).is_err(), "{id}");
        }
    }
}
