//! What the program prints, held to snapshots: errors as people read them, results and errors as
//! JSON. What differs from machine to machine, and from training to training, is blanked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use insta::Settings;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A folder with a photograph, a sound, a text file, and a picture from elsewhere.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["park.jpg", "dog.ogg"] {
        std::fs::copy(root().join("examples/media").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("note.txt"), "not a picture").unwrap();
    image::RgbImage::new(32, 32).save(folder.path().join("black.png")).unwrap();
    folder
}

fn any2pix(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_any2pix"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ANY2PIX_")
            || name.to_string_lossy().starts_with("HF_")
        {
            command.env_remove(name);
        }
    }
    let command = command.args(args).current_dir(folder);
    command.env("XDG_CONFIG_HOME", folder).env("HF_HOME", folder.join("hf")).output().unwrap()
}

/// Snapshots in `tests/snapshots/<kind>`, without the paths of this machine.
fn settings(kind: &str, folder: &Path) -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(format!("snapshots/{kind}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let escaped = |path: &Path| {
        let special = |c: char| if c.is_alphanumeric() { c.to_string() } else { format!("\\{c}") };
        path.to_string_lossy().chars().map(special).collect::<String>()
    };
    settings.add_filter(&escaped(folder), "[folder]");
    settings.add_filter(&escaped(&folder.canonicalize().unwrap()), "[folder]");
    settings.add_filter(&escaped(Path::new(folder.file_name().unwrap())), "[folder]");
    settings.add_filter(r"\(os error \d+\)", "(os error)");
    settings.add_filter(r"any2pix \d+\.\d+\.\d+", "any2pix [version]");
    settings
}

#[test]
fn errors_are_what_they_were() {
    let folder = folder();
    let long = "a".repeat(32_001);
    let cases: [(&str, &[&str]); 30] = [
        ("no_command", &[]),
        ("unknown_command", &["edti"]),
        ("unknown_flag", &["edit", "x", "--stpes", "3"]),
        ("edit_nothing", &["edit"]),
        ("edit_empty", &["edit", ""]),
        ("edit_too_long", &["edit", &long]),
        ("edit_unclosed_reference", &["edit", "add a dog to [park.jpg"]),
        ("edit_stray_bracket", &["edit", "add a ] dog"]),
        ("edit_missing_file", &["edit", "recolour [nowhere.png]"]),
        ("edit_folder", &["edit", "recolour [.]"]),
        ("edit_text_file", &["edit", "recolour [note.txt]"]),
        ("edit_unbound_image", &["edit", "recolour [image1]"]),
        ("edit_unbound_audio", &["edit", "add [audio2]", "--audio", "dog.ogg"]),
        ("edit_over_input", &["edit", "recolour [park.jpg]", "-o", "./park.jpg"]),
        ("edit_format_unknown", &["edit", "recolour [park.jpg]", "-o", "out.gif"]),
        ("edit_format_denied", &["edit", "recolour [park.jpg]", "-o", "a.png", "--format", "jpeg"]),
        ("edit_quality_of_png", &["edit", "recolour [park.jpg]", "--quality", "90"]),
        ("edit_steps", &["edit", "recolour [park.jpg]", "--steps", "0"]),
        ("edit_mix", &["edit", "recolour [park.jpg]", "--mix", "1,2"]),
        ("edit_size", &["edit", "a dog", "--size", "12xx"]),
        ("edit_device", &["edit", "recolour [park.jpg]", "--device", "cuda:0"]),
        ("edit_precision", &["edit", "recolour [park.jpg]", "--precision", "f16"]),
        ("edit_no_such_model", &["edit", "recolour [park.jpg]", "--model", "nowhere"]),
        ("edit_no_model_there", &["edit", "recolour [park.jpg]", "--model", "."]),
        ("edit_unwritable", &["edit", "add a dog to [park.jpg]", "-o", "no/such/out.png"]),
        ("replay_no_record", &["edit", "--replay", "black.png"]),
        ("replay_no_picture", &["edit", "--replay", "note.txt"]),
        ("replay_and_instruction", &["edit", "add a dog", "--replay", "black.png"]),
        ("show_no_record", &["show", "park.jpg"]),
        ("parity_no_case", &["parity", "."]),
    ];
    settings("errors", folder.path()).bind(|| {
        for (name, args) in cases {
            let output = any2pix(folder.path(), args);
            assert!(output.stdout.is_empty(), "{name}");
            let code = output.status.code().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            // Stages and their times come before; they have no place here.
            let start = text.find("error: ").or_else(|| text.find("Edits")).unwrap_or(0);
            insta::assert_snapshot!(name, format!("{}\nexit code {code}", &text[start..]));
        }
    });
}

/// Blanks what differs from machine to machine and from training to training.
fn blank(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                let blanked = match name.as_str() {
                    "seconds" => "[seconds]",
                    "resident_memory" | "peak_memory" | "peak_memory_bytes" => "[bytes]",
                    "any2pix" | "version" => "[version]",
                    "sha256" | "encoder" => "[sha256]",
                    "level" | "precision" | "cores" | "threads" | "target" => "[machine]",
                    "region" | "window" => "[rectangle]",
                    "similarity" | "max_abs" | "relative" | "cosine" => "[number]",
                    "text" | "caption" | "gallery" if value.is_string() => "[said]",
                    "weights" => {
                        let hashes = value.as_object_mut().unwrap().values_mut();
                        hashes.for_each(|hash| *hash = json!("[sha256]"));
                        continue;
                    }
                    _ => {
                        blank(value);
                        continue;
                    }
                };
                if !value.is_null() {
                    *value = json!(blanked);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(blank),
        _ => {}
    }
}

#[test]
fn documents_are_what_they_were() {
    let folder = folder();
    let goldens = root().join("tests/goldens/schedulers");
    let goldens = goldens.to_string_lossy();
    let instruction = "add [dog.ogg] to [park.jpg]";
    // In order: later ones read what earlier ones wrote.
    let cases: [(&str, &[&str]); 11] = [
        ("edit", &["edit", instruction, "-o", "out.png", "--seed", "3"]),
        ("edit_image1", &["edit", "make [image1] snowy", "--image", "park.jpg", "-o", "b.jpg"]),
        ("edit_from_nothing", &["edit", "a dog on a beach", "--size", "64x64", "-o", "c.webp"]),
        ("replay", &["edit", "--replay", "out.png"]),
        ("show", &["show", "out.png"]),
        ("error", &["edit", "add [a"]),
        ("error_of_replay", &["edit", "--replay", "out.png", "--steps", "3"]),
        ("gallery_add", &["gallery", "add", "mine", "--name", "square", "black.png"]),
        ("gallery_list", &["gallery", "list", "mine"]),
        ("doctor", &["doctor"]),
        ("models_list", &["models", "list"]),
    ];
    settings("json", folder.path()).bind(|| {
        for (name, args) in cases {
            let output = any2pix(folder.path(), &[args, &["--json"]].concat());
            let mut document: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|e| panic!("{name}: {e}: {output:?}"));
            blank(&mut document);
            let text = serde_json::to_string_pretty(&document).unwrap();
            insta::assert_snapshot!(name, format!("{text}\nexit code {:?}", output.status.code()));
        }
        let output = any2pix(folder.path(), &["parity", &goldens, "--json"]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut first = document["cases"][0].clone();
        blank(&mut first);
        first["dir"] = json!("[folder]");
        insta::assert_snapshot!("parity_case", serde_json::to_string_pretty(&first).unwrap());
    });
}

#[test]
fn show_prints_what_people_read() {
    let folder = folder();
    let made = any2pix(folder.path(), &["edit", "add [dog.ogg] to [park.jpg]", "-o", "out.png"]);
    assert!(made.status.success(), "{made:?}");
    let output = any2pix(folder.path(), &["show", "out.png"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in
        ["instruction              add [dog.ogg] to [park.jpg]", "  seed                   0"]
    {
        assert!(text.lines().any(|l| l == line), "{text}");
    }
}
