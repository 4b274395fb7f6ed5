//! Compiles the files that `models/playroom/embedded.txt` lists into the library.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

fn main() -> io::Result<()> {
    // Of the run, not of the compilation: a cached script may serve another checkout.
    let folder = |name| std::env::var_os(name).map(PathBuf::from).unwrap_or_default();
    let model = folder("CARGO_MANIFEST_DIR").join("../../models/playroom");
    let out = folder("OUT_DIR");
    let mut table = String::from("&[\n");
    if std::env::var_os("CARGO_FEATURE_EMBEDDED").is_some() {
        let list = model.join("embedded.txt");
        println!("cargo::rerun-if-changed={}", list.display());
        let text = fs::read_to_string(&list)?;
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            for file in expand(&model, line)? {
                let path = model.join(&file).canonicalize()?;
                println!("cargo::rerun-if-changed={}", path.display());
                writeln!(table, "    ({file:?}, include_bytes!({path:?})),")
                    .map_err(io::Error::other)?;
            }
        }
    }
    table.push_str("]\n");
    fs::write(out.join("embedded.rs"), table)
}

/// A line is a file, or with a slash at its end all files of a folder.
fn expand(model: &Path, line: &str) -> io::Result<Vec<String>> {
    let Some(folder) = line.strip_suffix('/') else {
        return Ok(vec![line.to_string()]);
    };
    println!("cargo::rerun-if-changed={}", model.join(folder).display());
    let mut files = Vec::new();
    for entry in fs::read_dir(model.join(folder))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    files.sort();
    Ok(files)
}
