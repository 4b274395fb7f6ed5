//! `any2pix chat` from outside: through a pipe, and at a real pseudo-terminal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A folder with photos and sounds.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/media");
    for name in ["park.jpg", "dog.ogg", "trumpet.png"] {
        std::fs::copy(media.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// `any2pix chat` that knows nothing of the machine it runs on; results go to `out`.
fn chat(folder: &Path, out: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_any2pix"));
    command.args(["chat", "--out", out, "--steps", "4"]).args(args).current_dir(folder);
    for name in ["ANY2PIX_SEED", "KITTY_WINDOW_ID", "TERM_PROGRAM", "TMUX", "NO_COLOR", "COLORTERM"]
    {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color").env("XDG_STATE_HOME", folder.join("state"));
    command.env("XDG_CONFIG_HOME", folder.join("config"));
    command
}

/// What `chat` says to lines that are piped in.
fn piped(folder: &Path, out: &str, args: &[&str], lines: &str) -> Output {
    let mut child = chat(folder, out, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn lines_from_a_pipe_give_plain_results_and_a_failed_one_does_not_stop_the_rest() {
    let folder = folder();
    let output = piped(
        folder.path(),
        "out",
        &["park.jpg"],
        "add [dog.ogg] on the left\nadd a zeppelin\nadd [no\u{1b}file.png]\n/nothing\n\
         make it night\n/compare",
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[..2], ["out/001.png", "out/002.png"], "{stdout}");
    assert!(lines[2].starts_with("001.png → 002.png: "), "{stdout}");
    assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 3, "{stderr}");
    assert!(stderr.contains("does not know `zeppelin`; the nearest it knows:"), "{stderr}");
    assert!(stderr.contains("hint: give a picture of it"), "{stderr}");
    assert!(stderr.contains("no\u{fffd}file.png"), "{stderr}");
    assert!(stderr.contains("last       001.png"), "{stderr}");

    let output = piped(folder.path(), "out", &["--json"], "add a dog to [park.jpg]\n/quit\n/undo");
    assert_eq!(output.status.code(), Some(0));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["output"], "out/003.png", "earlier results stay");
}

#[cfg(unix)]
mod terminal {
    use rexpect::process::WaitStatus;
    use rexpect::reader::Options;
    use rexpect::session::{PtySession, spawn_with_options};

    use super::*;

    const LONGEST: u64 = 120_000;

    fn start(folder: &Path, args: &[&str]) -> PtySession {
        let options = Options::new().timeout_ms(Some(LONGEST));
        spawn_with_options(chat(folder, "out", args), options).unwrap()
    }

    /// Types keys, without Return.
    fn keys(terminal: &mut PtySession, keys: &str) {
        terminal.send(keys).unwrap();
        terminal.flush().unwrap();
    }

    /// Types a line, and waits for what it shall bring and for the next prompt.
    fn say(terminal: &mut PtySession, line: &str, answer: &str, prompt: &str) {
        terminal.send_line(line).unwrap();
        terminal.exp_string(answer).unwrap();
        terminal.exp_string(prompt).unwrap();
    }

    fn exit_code(terminal: &mut PtySession) -> i32 {
        terminal.exp_eof().unwrap();
        match terminal.process().wait().unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn three_turns_undo_a_setting_and_an_export_that_repeats_to_the_same_bytes() {
        let folder = folder();
        let mut terminal = start(folder.path(), &["park.jpg", "--no-preview"]);
        terminal.exp_string("park.jpg> ").unwrap();
        say(&mut terminal, "add [dog.ogg] on the left", "out/001.png\r\n", "001.png> ");
        say(&mut terminal, "put trumpet.png on the right", "out/002.png\r\n", "002.png> ");
        say(&mut terminal, "make it night", "out/003.png\r\n", "003.png> ");
        say(&mut terminal, "/undo", "goes on from 002.png", "002.png> ");
        say(&mut terminal, "/set steps 6", "\n", "002.png> ");
        say(&mut terminal, "/show", "steps                  6", "002.png> ");
        say(&mut terminal, "make it snow", "out/004.png\r\n", "004.png> ");
        say(&mut terminal, "/save best.png", "best.png\r\n", "004.png> ");
        say(&mut terminal, "/export talk.jsonl", "3 turns", "004.png> ");
        terminal.send_control('d').unwrap();
        assert_eq!(exit_code(&mut terminal), 0);

        let bytes = |file: &str| std::fs::read(folder.path().join(file)).unwrap();
        assert!(bytes("best.png") == bytes("out/004.png"));
        let history = std::fs::read_to_string(folder.path().join("state/any2pix/chat_history"));
        assert!(history.unwrap().contains("put trumpet.png on the right"));
        let turns = ["001", "002", "004"].map(|name| bytes(&format!("out/{name}.png")));
        let output = piped(folder.path(), "again", &[], "/load talk.jsonl\n");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let again: Vec<&str> = stdout.lines().collect();
        assert_eq!(again, ["again/001.png", "again/002.png", "again/003.png"]);
        assert!(again.iter().map(|file| bytes(file)).eq(turns.iter().cloned()));

        let batch = Command::new(env!("CARGO_BIN_EXE_any2pix"))
            .args(["batch", "talk.jsonl", "--out", "batch", "--quiet"])
            .current_dir(folder.path())
            .env("XDG_CONFIG_HOME", folder.path().join("config"))
            .output()
            .unwrap();
        assert!(batch.status.success(), "{}", String::from_utf8_lossy(&batch.stderr));
        for (index, turn) in turns.iter().enumerate() {
            let picture = format!("batch/outputs/out-{}.png", index + 1);
            assert!(bytes(&picture) == *turn, "{picture}");
        }
    }

    #[test]
    fn tab_completes_an_open_bracket_goes_on_and_ctrl_c_keeps_the_conversation() {
        let folder = folder();
        let mut terminal = start(folder.path(), &["--no-preview"]);
        terminal.exp_string("any2pix> ").unwrap();
        keys(&mut terminal, "/und\t");
        terminal.exp_string("/undo").unwrap();
        terminal.send_line("").unwrap();
        terminal.exp_string("nothing to undo").unwrap();
        keys(&mut terminal, "add [do\t to [pa\t");
        terminal.exp_string("park.jpg").unwrap();
        terminal.send_control('c').unwrap();
        terminal.exp_string("Ctrl-C again leaves").unwrap();
        terminal.exp_string("any2pix> ").unwrap();
        terminal.send_line("add [dog.").unwrap();
        say(&mut terminal, "ogg] to [pa\t", "out/001.png\r\n", "001.png> ");

        say(&mut terminal, "/set steps 1000", "\n", "001.png> ");
        terminal.send_line("make it night").unwrap();
        terminal.exp_string("operation  look").unwrap();
        terminal.send_control('c').unwrap();
        terminal.exp_string("the conversation is as it was").unwrap();
        terminal.exp_string("001.png> ").unwrap();
        say(&mut terminal, "/set steps 4", "\n", "001.png> ");
        say(&mut terminal, "make it night", "out/002.png\r\n", "002.png> ");
        terminal.send_control('c').unwrap();
        terminal.exp_string("Ctrl-C again leaves").unwrap();
        terminal.exp_string("002.png> ").unwrap();
        terminal.send_control('c').unwrap();
        assert_eq!(exit_code(&mut terminal), 130);
    }

    #[test]
    fn a_termination_at_the_prompt_ends_it() {
        let folder = folder();
        let mut terminal = start(folder.path(), &[]);
        terminal.exp_string("any2pix> ").unwrap();
        const SIGTERM: i32 = 15;
        terminal.process_mut().signal(SIGTERM.try_into().unwrap()).unwrap();
        assert_eq!(exit_code(&mut terminal), 143);
    }

    #[test]
    fn pictures_are_shown_as_the_terminal_can() {
        let folder = folder();
        for (name, value, mark) in [
            ("TERM", "xterm-256color", "\u{1b}[48;5;"),
            ("TERM_PROGRAM", "iTerm.app", "\u{1b}]1337;File="),
            ("TERM", "foot", "\u{1b}P"),
        ] {
            let mut command = chat(folder.path(), "out", &["park.jpg"]);
            command.env(name, value);
            let options = Options::new().timeout_ms(Some(LONGEST));
            let mut terminal = spawn_with_options(command, options).unwrap();
            if value == "foot" {
                // The terminal says that it knows sixels.
                terminal.exp_string("\u{1b}[c").unwrap();
                keys(&mut terminal, "\u{1b}[?62;4c");
            }
            terminal.exp_string(mark).unwrap();
            terminal.exp_string("park.jpg> ").unwrap();
            terminal.send_line("/quit").unwrap();
            assert_eq!(exit_code(&mut terminal), 0);
        }
        let mut command = chat(folder.path(), "out", &["park.jpg"]);
        command.env("TERM", "dumb");
        let options = Options::new().timeout_ms(Some(LONGEST));
        let mut terminal = spawn_with_options(command, options).unwrap();
        let before = terminal.exp_string("park.jpg> ").unwrap();
        assert!(!before.contains('\u{1b}'), "{before:?}");
    }
}
