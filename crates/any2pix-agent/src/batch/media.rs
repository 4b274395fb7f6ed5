//! Where a manifest's references lead: inside the manifest's folder, unless more is allowed.

use std::path::{Component, Path, PathBuf};

use crate::error::AgentError;
use crate::request::Reference;

/// The folder that a manifest's paths are relative to.
#[derive(Clone, Debug)]
pub(super) struct MediaFolder {
    folder: PathBuf,
    /// The same without links.
    real: PathBuf,
    allow_outside: bool,
}

impl MediaFolder {
    /// The folder of the manifest at `path`.
    pub(super) fn of(path: &Path, allow_outside: bool) -> Result<Self, AgentError> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let real = folder.canonicalize();
        let real =
            real.map_err(|source| AgentError::Unreadable { path: folder.clone(), source })?;
        Ok(Self { folder, real, allow_outside })
    }

    /// The file that `text` means, without links.
    pub(super) fn find(&self, text: &str) -> Result<PathBuf, AgentError> {
        let refused = |reason: &str| {
            Err(AgentError::Unusable { path: text.into(), reason: reason.to_string() })
        };
        if has_scheme(text) {
            return refused("is a URL; batches read files");
        }
        let path = Path::new(text);
        if !self.allow_outside {
            if path.has_root() || path.is_absolute() {
                return refused("is an absolute path (--allow-outside allows it)");
            }
            if climbs_out(path) {
                return refused(OUTSIDE);
            }
        }
        let real = self.folder.join(path).canonicalize();
        let real = real.map_err(|source| AgentError::Unreadable { path: path.into(), source })?;
        if !self.allow_outside && !real.starts_with(&self.real) {
            return refused(OUTSIDE);
        }
        Ok(real)
    }

    /// Reads the file that `text` means as the reference called `name`. Its path stays out of what
    /// decoders say: results are the same wherever the manifest lies.
    pub(super) fn open(&self, name: &str, text: &str) -> Result<(Reference, PathBuf), AgentError> {
        let unusable = |reason| AgentError::Unusable { path: text.into(), reason };
        let path = self.find(text)?;
        let read = Reference::open(name, &path).map_err(|error| match error {
            AgentError::Unusable { reason, .. } => unusable(reason),
            AgentError::Unreadable { source, .. } => {
                AgentError::Unreadable { path: text.into(), source }
            }
            other => other,
        })?;
        Ok((Reference { path: None, ..read }, path))
    }
}

const OUTSIDE: &str = "leaves the manifest's folder (--allow-outside allows it)";

/// True for `http://…`, `file:…`, `data:…`.
fn has_scheme(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let known = ["file", "data", "http", "https", "ftp"];
    rest.starts_with("//") || known.iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// True when the parents that a path asks for are more than the folders that it entered.
fn climbs_out(path: &Path) -> bool {
    let mut depth = 0usize;
    for component in path.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, MediaFolder) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir_all(inside.join("deep")).unwrap();
        std::fs::write(inside.join("a.png"), "x").unwrap();
        std::fs::write(dir.path().join("secret.png"), "x").unwrap();
        let media = MediaFolder::of(&inside.join("manifest.jsonl"), false).unwrap();
        (dir, media)
    }

    #[test]
    fn paths_stay_inside() {
        let (dir, media) = folder();
        for inside in ["a.png", "./a.png", "deep/../a.png"] {
            assert!(media.find(inside).is_ok(), "{inside}");
        }
        let secret = dir.path().join("secret.png").display().to_string();
        let cases = [
            ("../secret.png", "leaves"),
            ("deep/../../secret.png", "leaves"),
            ("../../etc/passwd", "leaves"),
            (secret.as_str(), "absolute"),
            ("/proc/self/environ", "absolute"),
            ("file:a.png", "URL"),
            ("file:///etc/passwd", "URL"),
            ("http://169.254.169.254/latest", "URL"),
            ("HTTPS://example.org/a.png", "URL"),
            ("..\\secret.png", ""),
            ("nowhere.png", "No such file"),
            ("a\0.png", ""),
        ];
        for (path, words) in cases {
            let reason = media.find(path).unwrap_err().line();
            assert!(reason.contains(words), "{path}: {reason}");
        }
        let allowed = MediaFolder { allow_outside: true, ..media };
        assert!(allowed.find("../secret.png").is_ok());
        assert!(allowed.find(&secret).is_ok());
        assert!(allowed.find("file:///etc/passwd").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out_and_do_not_turn_in_circles() {
        use std::os::unix::fs::symlink;
        let (dir, media) = folder();
        let inside = dir.path().join("in");
        symlink("../secret.png", inside.join("link.png")).unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("loop.png", inside.join("loop.png")).unwrap();
        symlink("a.png", inside.join("b.png")).unwrap();
        assert!(media.find("link.png").unwrap_err().line().contains("leaves"));
        assert!(media.find("up/secret.png").unwrap_err().line().contains("leaves"));
        assert!(media.find("loop.png").is_err());
        assert!(media.find("b.png").is_ok());
    }
}
