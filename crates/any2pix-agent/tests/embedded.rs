//! The model that the program carries: every part has its weights, and the first edit of the
//! README does what it says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail loudly")]

use std::path::{Path, PathBuf};

use any2pix_agent::request::Bindings;
use any2pix_agent::{EditRequest, EditSettings, Pipeline, Playroom, Silent};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_part_of_the_default_way_has_weights() {
    for part in ["imagebind", "llm", "locator", "prior", "vae", "unet"] {
        let file = root().join("models/playroom").join(part).join("model.safetensors");
        assert!(file.is_file(), "{}: is missing", file.display());
    }
}

#[test]
fn the_first_edit_adds_what_is_heard() {
    let playroom = Playroom::open("playroom", &[]).unwrap();
    let mut settings = EditSettings::default();
    playroom.components().index.settings.apply(&mut settings);
    let media = root().join("examples/media");
    let (images, audios) = (vec![media.join("park.jpg")], vec![media.join("dog.ogg")]);
    let bindings = Bindings { images, audios };
    let request = EditRequest::parse("add [audio1] to [image1]", &bindings, settings).unwrap();
    let outcome = playroom.edit(&request, &mut Silent).unwrap();
    assert_eq!(
        (outcome.plan.base.as_deref(), outcome.plan.operation.as_str()),
        (Some("image1"), "add")
    );
    let names: Vec<&str> = outcome.plan.subjects.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["dog"]);
    let source = image::open(media.join("park.jpg")).unwrap().to_rgb8();
    let result = outcome.image.to_rgb8();
    assert_eq!(source.dimensions(), result.dimensions());
    let changed = source.pixels().zip(result.pixels()).filter(|(a, b)| a != b).count();
    let share = changed as f64 / (source.width() * source.height()) as f64;
    assert!((0.005..0.5).contains(&share), "{share} of the picture changed");
}
