//! The binary from outside: what it refuses, how it says so, and with which exit code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn any2pix(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_any2pix"))
        .args(args)
        .current_dir(folder)
        .env_remove("ANY2PIX_SEED")
        .env("RUST_BACKTRACE", "1")
        .env("XDG_CONFIG_HOME", folder.join("no-config"))
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a picture, and a text file that is none.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let picture = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8, y as u8, 90]));
    picture.save(folder.path().join("park.png")).unwrap();
    std::fs::write(folder.path().join("note.txt"), "not a picture").unwrap();
    folder
}

#[test]
fn every_refusal_has_one_error_a_reason_and_exit_code_2() {
    let folder = folder();
    let long = "a".repeat(32_001);
    let cases: [(&[&str], &str); 19] = [
        (&["edit", ""], "the instruction is empty"),
        (&["edit", "[park.png]"], "the instruction is empty"),
        (&["edit", "add a dog to [park.png"], "column 14"),
        (&["edit", "add a ] dog"], "column 7"),
        (&["edit", "recolour [nowhere.png]"], "nowhere.png"),
        (&["edit", "recolour [.]"], "directory"),
        (&["edit", "recolour [image1]"], "[image1]"),
        (&["edit", "recolour [image2]", "--image", "park.png"], "[image2]"),
        (&["edit", &long], "32001"),
        (&["edit", "recolour [park.png]", "-o", "park.png"], "also an input"),
        (&["edit", "recolour [park.png]", "-o", "./out.gif"], "ends in no format"),
        (&["edit", "recolour [park.png]", "--steps", "0"], "--steps 0"),
        (&["edit", "recolour [park.png]", "--alpha", "NaN"], "--alpha NaN"),
        (&["edit", "recolour [park.png]", "--device", "cuda:0"], "--device cuda:0"),
        (&["edit", "recolour [park.png]", "--precision", "f16"], "--precision f16"),
        (&["edit", "recolour [park.png]", "--refinement", "2"], "--refinement 2"),
        (&["edit", "recolour [park.png]", "--image-scale", "9"], "--image-scale 9"),
        (&["edit", "recolour [park.png]", "--lora", "park.png:0.5"], "takes no LoRA"),
        (&["parity", "."], "meta.json"),
    ];
    for (args, words) in cases {
        let output = any2pix(folder.path(), args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.starts_with("error: "), "{args:?}: {text}");
        assert_eq!(text.matches("error: ").count(), 1, "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
        assert!(!text.contains("   0: ") && !text.contains("panicked"), "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["note.txt", "park.png"], "a refusal leaves nothing behind");
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let folder = folder();
    for args in [&["edit"][..], &["no-such-command"], &["edit", "x", "--no-such-flag"], &[]] {
        assert_eq!(any2pix(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
    for args in [&["--help"][..], &["edit", "--help"], &["--version"], &["doctor"]] {
        assert_eq!(any2pix(folder.path(), args).status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_model_that_is_none_exits_with_3() {
    let folder = folder();
    for model in ["no-such-model", "."] {
        let output = any2pix(folder.path(), &["edit", "recolour [park.png]", "--model", model]);
        assert_eq!(output.status.code(), Some(3), "{model}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: "), "{model}");
    }
}

#[test]
fn with_json_an_error_is_one_document_too() {
    let folder = folder();
    let output = any2pix(folder.path(), &["edit", "add [a", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["status"], "error");
    assert_eq!(document["exit_code"], 2);
    assert!(document["error"][0].as_str().unwrap().contains("column 5"), "{document}");
    assert!(!document["hints"].as_array().unwrap().is_empty());
}

#[test]
fn control_characters_of_a_name_never_reach_the_terminal() {
    let folder = folder();
    let output = any2pix(folder.path(), &["edit", "use [\u{1b}[31mred\u{7}.png\n]"]);
    // `[` inside a reference is an error; so is the escaped name, for another reason.
    assert_eq!(output.status.code(), Some(2));
    let output = any2pix(folder.path(), &["edit", "use [\u{1b}\\[31mred\u{7}.png\n]"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains(['\u{1b}', '\u{7}']), "{:?}", stderr(&output));
}

#[test]
fn a_full_size_model_that_lacks_a_part_names_it() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("full")).unwrap();
    let index = r#"{"_class_name": "InstructAny2PixPipeline"}"#;
    std::fs::write(folder.path().join("full/model_index.json"), index).unwrap();
    let output = any2pix(folder.path(), &["edit", "recolour [park.png]", "--model", "full"]);
    assert_eq!(output.status.code(), Some(3));
    let text = stderr(&output);
    assert!(text.contains("imagebind_huge.pth is missing"), "{text}");
    assert!(text.contains("hint: ") && text.contains("model_index.json"), "{text}");
}

#[test]
fn settings_come_from_flags_then_environment_then_files() {
    let folder = folder();
    let run = |args: &[&str], environment: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_any2pix"));
        command.args(["edit", "recolour [park.png]"]).args(args).current_dir(folder.path());
        command.env("XDG_CONFIG_HOME", folder.path().join("config"));
        if let Some(steps) = environment {
            command.env("ANY2PIX_STEPS", steps);
        }
        stderr(&command.output().unwrap())
    };
    // Wrong values tell which one was taken.
    std::fs::create_dir_all(folder.path().join("config/any2pix")).unwrap();
    std::fs::write(folder.path().join("config/any2pix/config.toml"), "steps = 5001").unwrap();
    assert!(run(&[], None).contains("--steps 5001"));
    std::fs::write(folder.path().join("any2pix.toml"), "steps = 5002").unwrap();
    assert!(run(&[], None).contains("--steps 5002"));
    assert!(run(&[], Some("5003")).contains("--steps 5003"));
    assert!(run(&["--steps", "5004"], Some("5003")).contains("--steps 5004"));
    std::fs::write(folder.path().join("other.toml"), "\nstep = 1").unwrap();
    let text = run(&["--config", "other.toml"], None);
    assert!(text.contains("other.toml:2") && text.contains("step"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_any2pix"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}
