//! `any2pix edit --replay`: the same bytes again, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn any2pix(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_any2pix"));
    command.args(args).current_dir(folder).env_remove("ANY2PIX_SEED").env_remove("ANY2PIX_MODEL");
    command.env("XDG_CONFIG_HOME", folder.join("no-config")).output().unwrap()
}

fn done(folder: &Path, args: &[&str]) -> String {
    let output = any2pix(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_string()
}

fn refused(folder: &Path, args: &[&str], code: i32, words: &[&str]) {
    let output = any2pix(folder, args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert!(words.iter().all(|word| text.contains(word)), "{args:?}: {text}");
    assert!(text.contains("hint: "), "{args:?}: {text}");
}

/// A folder with a photograph and a sound.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["park.jpg", "dog.ogg"] {
        std::fs::copy(root().join("examples/media").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

const EDIT: &str = "add [dog.ogg] to [park.jpg]";

#[test]
fn every_format_is_repeated_byte_for_byte_from_anywhere() {
    let folder = folder();
    let elsewhere = tempfile::tempdir().unwrap();
    let settings = ["--seed", "3", "--guidance", "2.3", "--strength", "0.7", "--quality", "80"];
    for name in ["out.png", "out.jpg", "out.webp"] {
        let settings = if name == "out.jpg" { &settings[..] } else { &settings[..6] };
        done(folder.path(), &[&["edit", EDIT, "-o", name], settings].concat());
        let file = folder.path().join(name);
        let again =
            done(elsewhere.path(), &["edit", "--replay", file.to_str().unwrap(), "--threads", "1"]);
        let again = std::fs::read(elsewhere.path().join(again)).unwrap();
        assert!(again == std::fs::read(&file).unwrap(), "{name}");
    }
    // Once more, beside the first: no file is written over.
    let file = folder.path().join("out.png");
    let args = ["edit", "--replay", file.to_str().unwrap()];
    assert_eq!(done(elsewhere.path(), &args), "out-replayed-2.png");
}

#[test]
fn a_file_tells_nothing_of_the_machine_and_its_inputs_may_be_given_under_any_name() {
    let folder = folder();
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join("park.jpg"), other.path().join("photo.jpg")).unwrap();
    let absolute = folder.path().join("dog.ogg");
    let edit = format!("add [{}] to [image1]", absolute.display());
    let photo = other.path().join("photo.jpg");
    done(other.path(), &["edit", &edit, "--image", photo.to_str().unwrap(), "-o", "out.jpg"]);
    let bytes = std::fs::read(other.path().join("out.jpg")).unwrap();
    let path = folder.path().to_string_lossy().into_owned();
    let wide: Vec<u8> = path.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for trace in [path.as_bytes(), &wide] {
        assert!(!bytes.windows(trace.len()).any(|window| window == trace));
    }
    let shown = done(other.path(), &["show", "out.jpg"]);
    assert!(shown.contains("add [dog.ogg] to [image1]"), "{shown}");
    // The photograph lies beside; the sound does not.
    refused(other.path(), &["edit", "--replay", "out.jpg"], 2, &["[dog.ogg]", "not found"]);
    std::fs::rename(&absolute, other.path().join("sound")).unwrap();
    let args = ["edit", "--replay", "out.jpg", "--audio", "sound", "-o", "again.jpg"];
    done(other.path(), &args);
    assert!(std::fs::read(other.path().join("again.jpg")).unwrap() == bytes);
}

#[test]
fn what_would_make_another_picture_is_refused_by_name() {
    let folder = folder();
    done(folder.path(), &["edit", EDIT, "-o", "out.png"]);
    let replay = |more: &[&'static str]| [&["edit", "--replay", "out.png"], more].concat();
    let cases: [(&[&str], &str); 9] = [
        (&["--seed", "4"], "--seed"),
        (&["--no-window"], "--no-window"),
        (&["--llm-quant", "q8_0"], "--llm-quant"),
        (&["--strip"], "--strip"),
        (&["--format", "webp"], "--format"),
        (&["-o", "again.jpg"], "PNG"),
        (&["-o", "out.png"], "also an input"),
        (&["--image", "out.png"], "no input of the edit"),
        (&["--lora", "x.safetensors"], "lora/x.safetensors"),
    ];
    for (more, words) in cases {
        refused(folder.path(), &replay(more), 2, &[words]);
    }
    std::fs::write(folder.path().join("park.jpg"), b"another picture").unwrap();
    refused(folder.path(), &replay(&[]), 2, &["[park.jpg]", "another file"]);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dog.ogg", "out.png", "park.jpg"], "a refusal leaves nothing behind");
}

/// The embedded model as a folder, without one part.
#[cfg(unix)]
fn model_without(part: &str, folder: &Path) -> PathBuf {
    let copy = folder.join("playroom");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(root().join("models/playroom")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != part {
            let original = entry.path().canonicalize().unwrap();
            std::os::unix::fs::symlink(original, copy.join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[cfg(unix)]
#[test]
fn other_weights_are_refused_by_name_and_the_same_ones_serve_from_a_folder() {
    let folder = folder();
    done(folder.path(), &["edit", EDIT, "-o", "out.png"]);
    let original = root().join("models/playroom");
    let args = ["edit", "--replay", "out.png", "-o", "again.png", "--model"];
    done(folder.path(), &[&args[..], &[original.to_str().unwrap()]].concat());
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("again.png") == bytes("out.png"));

    let changed = model_without("prior", folder.path());
    std::fs::create_dir(changed.join("prior")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let mut bytes = std::fs::read(original.join("prior").join(name)).unwrap();
        if name == "model.safetensors" {
            *bytes.last_mut().unwrap() ^= 1;
        }
        std::fs::write(changed.join("prior").join(name), bytes).unwrap();
    }
    let args = ["edit", "--replay", "out.png", "--model", "playroom"];
    let expected = ["prior/model.safetensors", "not those of the edit"];
    // `playroom` is the embedded model's name; a path tells the folder apart.
    done(folder.path(), &args);
    let args = ["edit", "--replay", "out.png", "--model", "./playroom"];
    refused(folder.path(), &args, 3, &expected);
}

#[test]
fn without_a_name_the_output_is_named_after_the_picture_and_nothing_is_written_over() {
    let folder = folder();
    let edit = ["edit", "make [park.jpg] snowy"];
    assert_eq!(done(folder.path(), &edit), "park-edited.png");
    assert_eq!(done(folder.path(), &[&edit[..], &["--format", "jpg"]].concat()), "park-edited.jpg");
    assert_eq!(done(folder.path(), &edit), "park-edited-2.png");
    let size = |name: &str| image::image_dimensions(folder.path().join(name)).unwrap();
    assert_eq!(size("park-edited.png"), size("park.jpg"));
    assert_eq!(done(folder.path(), &["edit", "a dog", "--size", "64x48"]), "picture.png");
    assert_eq!(size("picture.png"), (64, 48));
}
