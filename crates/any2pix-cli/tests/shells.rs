//! Completions and manual pages, as shells and `man` take them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::{Command, Output};

fn any2pix(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_any2pix")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

/// Commands and flags that any completion must know.
const KNOWN: [&str; 5] = ["edit", "gallery", "replay", "quality", "completions"];

#[test]
fn every_shell_gets_a_script_that_knows_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = String::from_utf8(any2pix(&["completions", shell]).stdout).unwrap();
        for word in KNOWN {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

/// What each shell says of the script; a shell that is not installed says nothing.
#[test]
fn the_scripts_are_ones_that_their_shells_read() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, args) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = folder.path().join(shell);
        std::fs::write(&script, any2pix(&["completions", shell]).stdout).unwrap();
        if let Ok(output) = Command::new(shell).args(args).arg(&script).output() {
            assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
        }
    }
}

/// What bash offers after `words`.
fn offered(words: &[&str]) -> Option<String> {
    let script = String::from_utf8(any2pix(&["completions", "bash"]).stdout).unwrap();
    let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (line, at) = (line.join(" "), words.len() - 1);
    let last = words[at];
    let before = words[at - 1];
    let ask = format!(
        "{script}\nCOMP_WORDS=({line}); COMP_CWORD={at}\n_any2pix any2pix '{last}' '{before}'\n\
         echo \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().ok()?;
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let Some(commands) = offered(&["any2pix", "e"]) else { return };
    assert_eq!(commands.split_whitespace().collect::<Vec<_>>(), ["edit", "eval"]);
    assert!(offered(&["any2pix", "edit", "--re"]).unwrap().contains("--replay"));
    let formats = offered(&["any2pix", "edit", "--format", ""]).unwrap();
    assert_eq!(formats.split_whitespace().collect::<Vec<_>>(), ["png", "jpeg", "webp"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    any2pix(&["man", "--out", out.to_str().unwrap()]);
    for name in ["any2pix", "any2pix-edit", "any2pix-models-pull", "any2pix-gallery-add"] {
        let page = std::fs::read_to_string(out.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".TH ") && page.contains(".SH NAME"), "{name}: {page}");
    }
    let edit = std::fs::read_to_string(out.join("any2pix-edit.1")).unwrap();
    assert!(edit.contains("replay") && edit.contains("byte for byte"), "{edit}");
    assert!(edit.contains("any2pix edit"), "the synopsis says the whole command: {edit}");
    let alone = any2pix(&["man"]).stdout;
    assert_eq!(
        alone.trim_ascii_end(),
        std::fs::read(out.join("any2pix.1")).unwrap().trim_ascii_end()
    );
}
