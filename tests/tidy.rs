//! The house: arrows between crates, sizes, first lines, literals, the README's tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use any2pix_tests::{project_files, root};

/// Which crate may stand on which. A new arrow is a change here and in ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("any2pix-kernels", &[]),
    ("any2pix-nn", &["kernels"]),
    ("any2pix-hub", &["nn"]),
    ("any2pix-encoders", &["nn"]),
    ("any2pix-llm", &["nn"]),
    ("any2pix-diffusion", &["nn"]),
    ("any2pix-agent", &["nn", "encoders", "llm", "diffusion"]),
    ("any2pix-train", &["nn", "encoders", "llm", "diffusion"]),
    ("any2pix-eval", &["nn", "agent", "encoders"]),
    ("any2pix-bench", &["nn", "encoders", "llm", "diffusion", "agent", "train"]),
    ("any2pix-cli", &["nn", "hub", "agent", "bench", "eval", "train"]),
];

/// Where `unsafe` may be allowed: vector instructions, and the memory map of a checkpoint.
const UNSAFE: &[&str] =
    &["crates/any2pix-kernels/src", "crates/any2pix-nn/src/checkpoint/bytes.rs"];

/// Words that no file may hold: unfinished work, and paths of somebody's machine.
const FORBIDDEN: &[&str] =
    &["TODO", "FIXME", "todo!(", "unimplemented!(", "dbg!(", "/home/", "/root/", "/Users/"];

const MOST_LINES: usize = 800;
const LONGEST_LITERAL: usize = 120;

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let rust = |path: &PathBuf| path.extension().is_some_and(|e| e == "rs");
    let files: Vec<_> = project_files().into_iter().filter(rust).collect();
    assert!(files.len() > 30, "only {} Rust files were found", files.len());
    files.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn crates_stand_only_on_what_they_may() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap().flatten() {
        let folder = entry.file_name().into_string().unwrap();
        let text = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap();
        let manifest: toml::Table = toml::from_str(&text).unwrap();
        if manifest["package"]["name"].as_str() != Some(&folder) {
            faults.push(format!("{folder}: the package has another name"));
        }
        if manifest["lints"]["workspace"].as_bool() != Some(true) {
            faults.push(format!("{folder}: does not take the workspace's lints"));
        }
        let Some(allowed) = arrows.get(folder.as_str()) else {
            faults.push(format!("{folder}: is not in ARROWS"));
            continue;
        };
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = manifest.get(table).and_then(|t| t.as_table());
            for name in names.into_iter().flat_map(toml::Table::keys) {
                match name.strip_prefix("any2pix-") {
                    Some(room) if !allowed.contains(&room) => {
                        faults.push(format!("{folder} -> {name}: is not in ARROWS"));
                    }
                    _ => {}
                }
            }
        }
        seen.insert(folder);
    }
    for (name, _) in ARROWS {
        if !seen.contains(*name) {
            faults.push(format!("{name}: is in ARROWS and not in crates/"));
        }
    }
    assert_none(&faults);
}

#[test]
fn every_file_says_what_lives_there_and_stays_short() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let shown = path.display();
        if !text.starts_with("//! ") {
            faults.push(format!("{shown}: the first line is not a `//!` line"));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            faults.push(format!("{shown}: {lines} lines, {MOST_LINES} is the most"));
        }
        let unsafe_allowed = UNSAFE.iter().any(|place| path.starts_with(place));
        if text.contains("allow(unsafe_code") && !unsafe_allowed && !path.ends_with("tidy.rs") {
            faults.push(format!("{shown}: allows unsafe code"));
        }
    }
    assert_none(&faults);
}

#[test]
fn what_a_model_reads_lives_in_prompts() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        if path.starts_with("tests") || path.components().any(|c| c.as_os_str() == "tests") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (line, literal) in literals(code) {
            let length = literal.chars().count();
            if length > LONGEST_LITERAL {
                faults.push(format!("{}:{line}: a literal of {length} characters", path.display()));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn nothing_is_left_undone_or_tied_to_a_machine() {
    let mut faults = Vec::new();
    let text_file = |path: &PathBuf| {
        let name = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        ["rs", "toml", "md", "txt", "sh"].contains(&name) && !path.ends_with("tidy.rs")
    };
    for path in project_files().into_iter().filter(text_file) {
        for (number, line) in read(&path).lines().enumerate() {
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}:{}: `{word}`", path.display(), number + 1));
            }
        }
    }
    assert_none(&faults);
}

/// The tree in the README: lines such as `crates/any2pix-nn/   the ground`, indented by level.
fn readme_tree(text: &str) -> Vec<String> {
    let block = text.split("```").find(|block| block.starts_with("text\n") && block.contains("/ "));
    let mut stack: Vec<(usize, String)> = Vec::new();
    let mut tree = Vec::new();
    for line in block.unwrap_or_default().lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let indent = line.len() - line.trim_start().len();
        let name = line.split_whitespace().next().unwrap_or_default();
        stack.retain(|(level, _)| *level < indent);
        let parents: String = stack.iter().map(|(_, name)| name.as_str()).collect();
        tree.push(format!("{parents}{name}"));
        stack.push((indent, name.to_string()));
    }
    tree
}

#[test]
fn the_tree_in_the_readme_is_the_tree() {
    let tree: BTreeSet<String> = readme_tree(&read(Path::new("README.md"))).into_iter().collect();
    assert!(tree.len() > 10, "README.md has no tree: a ```text block with `crates/` in it");
    let mut real = BTreeSet::new();
    for path in project_files() {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        match parts.as_slice() {
            [file] => real.insert(file.to_string()),
            [top, second, ..] if parts.len() > 2 && (top == "crates" || top == "models") => {
                real.insert(format!("{top}/"));
                real.insert(format!("{top}/{second}/"))
            }
            [top, ..] => real.insert(format!("{top}/")),
            [] => false,
        };
    }
    let missing = real.difference(&tree).map(|path| format!("{path}: is not in README's tree"));
    let gone = tree
        .iter()
        .filter(|path| !root().join(path.as_str()).exists())
        .map(|path| format!("{path}: is in README's tree and nowhere else"));
    assert_none(&missing.chain(gone).collect::<Vec<_>>());
}

/// The string literals of Rust source with their lines; escapes count as written, a line that is
/// continued with a backslash counts without its break and indent.
fn literals(source: &str) -> Vec<(usize, String)> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &source[at..];
        let (length, literal) = token(rest, at > 0 && is_word(bytes[at - 1]));
        if let Some(literal) = literal {
            found.push((line, literal));
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The length of what `rest` begins with, and its content when it is a string literal.
fn token(rest: &str, inside_word: bool) -> (usize, Option<String>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (rest.find("*/").map_or(rest.len(), |end| end + 2), None);
    }
    if rest.starts_with('"') {
        return quoted(rest);
    }
    if rest.starts_with('r') && !inside_word {
        let hashes = rest[1..].bytes().take_while(|b| *b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            let start = 2 + hashes;
            let close = format!("\"{}", "#".repeat(hashes));
            let end = rest[start..].find(&close).map_or(rest.len(), |end| start + end);
            let length = (end + close.len()).min(rest.len());
            return (length, Some(rest[start..end].to_string()));
        }
    }
    if let Some(character) = rest.strip_prefix('\'') {
        // A character, not a lifetime, when a quote closes it.
        let mut characters = character.char_indices();
        let first = characters.next().map_or(' ', |(_, c)| c);
        let second = characters.next();
        if first == '\\' {
            return (character[2..].find('\'').map_or(rest.len(), |end| end + 4), None);
        }
        if let Some((end, '\'')) = second {
            return (end + 2, None);
        }
    }
    (rest.chars().next().map_or(1, char::len_utf8), None)
}

fn quoted(rest: &str) -> (usize, Option<String>) {
    let mut content = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (at + 1, Some(content)),
            '\\' => match characters.next() {
                Some((_, '\n')) => {
                    while characters.next_if(|(_, c)| c.is_whitespace()).is_some() {}
                }
                Some((_, escaped)) => content.extend(['\\', escaped]),
                None => break,
            },
            other => content.push(other),
        }
    }
    (rest.len(), Some(content))
}

#[test]
fn literals_are_found_and_nothing_else() {
    let source = "// \"no\"\nlet a = 'x'; let q = '\"'; f::<'a>(\"one\\\"\");\nr#\"two\"\"#;\n\
                  let e = '\\n'; \"thr\\\n    ee\" /* \"no\" */ b\"four\"";
    let found: Vec<_> = literals(source);
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["one\\\"", "two\"", "three", "four"]);
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 5]);
}
