//! One edit with any2pix as a library: `cargo run --release -p any2pix-examples --example edit_one`.

use std::path::{Path, PathBuf};

use any2pix_agent::request::Bindings;
use any2pix_agent::{EditRequest, EditSettings, Pipeline, Playroom, Silent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("media");
    // 1. a model, and the settings it likes
    let pipeline = Playroom::open("playroom", &[])?;
    let mut settings = EditSettings { seed: 7, ..EditSettings::default() };
    pipeline.components().index.settings.apply(&mut settings);
    // 2. an instruction, in which names stand for files
    let bindings =
        Bindings { images: vec![media.join("park.jpg")], audios: vec![media.join("dog.ogg")] };
    let request = EditRequest::parse("add [audio1] to [image1]", &bindings, settings)?;
    // 3. the edit: the plan, the picture, and how it came to be
    let outcome = pipeline.edit(&request, &mut Silent)?;
    let output = PathBuf::from("out.png");
    outcome.save(&output, &bindings.images)?;
    eprint(&format!("{}: {}", output.display(), outcome.plan.caption));
    Ok(())
}

#[allow(clippy::print_stderr, reason = "an example may say what it did")]
fn eprint(line: &str) {
    eprintln!("{line}");
}
