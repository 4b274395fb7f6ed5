//! What the integration tests share: the project's own files.

use std::path::{Path, PathBuf};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files that belong to the project, relative to the root and sorted: neither hidden ones,
/// nor what `.gitignore` names at the top.
pub fn project_files() -> Vec<PathBuf> {
    let ignored = std::fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    let ignored: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
    let mut found = Vec::new();
    walk(Path::new(""), &ignored, &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, ignored: &[&str], found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten().flatten();
    for entry in entries {
        let path = folder.join(entry.file_name());
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || ignored.iter().any(|name| path == Path::new(name.trim_end_matches('/'))) {
            continue;
        }
        if entry.path().is_dir() {
            walk(&path, ignored, found);
        } else {
            found.push(path);
        }
    }
}
