//! The embedded model on a small suite: floors, ceilings, and damage that a comparison finds.
#![allow(clippy::unwrap_used, reason = "a test fails by unwrapping")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use any2pix_agent::components::Components;
use any2pix_agent::{EditRequest, Playroom};
use any2pix_eval::compare::{Comparison, Gate};
use any2pix_eval::suite::Item;
use any2pix_eval::systems::{Edited, Model, Parts, Stored, SystemName};
use any2pix_eval::{Asked, Eyes, Harness, Protocol, Result, Sample, Suite, System, report};
use serde_json::json;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn model() -> String {
    root().join("models/playroom").display().to_string()
}

struct Bench {
    suite: Suite,
    playroom: Playroom,
    eyes: Eyes,
    out: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
        let components = Arc::new(Components::open(&model()).unwrap());
        Self {
            suite: Suite::open(&suite).unwrap(),
            playroom: Playroom::open(&model(), &[]).unwrap(),
            eyes: Eyes::open(&root().join("models/playroom/judge"), components).unwrap(),
            out: tempfile::tempdir().unwrap(),
        }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.out.path().join(name)
    }

    fn run(&self, name: &str, system: &dyn System, asked: &Asked) -> Vec<Sample> {
        let settings = asked.settings(&self.playroom.components().index.settings).unwrap();
        let harness = Harness {
            suite: &self.suite,
            eyes: Some(&self.eyes),
            published: None,
            settings,
            raw: false,
        };
        let about = json!({ "system": name, "suite": { "sha256": "small" } });
        let protocol = Protocol { harness, about, eyes: None };
        protocol.run(system, &self.folder(name), false, &mut |_, _, _| true).unwrap().samples
    }

    fn named(&self, name: SystemName) -> Vec<Sample> {
        let asked = Asked { system: name, ..Asked::default() };
        let parts = Parts {
            pipeline: &self.playroom,
            playroom: Some(&self.playroom),
            instruct_pix2pix: Some(&self.playroom),
            suite: &self.suite,
            sdedit_strength: 0.6,
        };
        self.run(&name.to_string(), parts.system(name).unwrap().as_ref(), &asked)
    }
}

fn all(samples: &[Sample], figure: &str) -> f64 {
    let slices = report::slices(samples);
    slices[0].figures.get(figure).map_or(f64::NAN, |estimate| estimate.mean)
}

#[test]
fn identity_and_oracle_bound_the_model() {
    let bench = Bench::new();
    let of = |name| bench.named(name);
    let (model, nothing, truth) =
        (of(SystemName::Model), of(SystemName::Identity), of(SystemName::Oracle));
    // What the judge says of the truth is the ceiling of what it can say of any result.
    for figure in ["edit_right", "wanted_there", "unwanted_gone", "rest_there", "reference_found"] {
        let ceiling = all(&truth, &format!("judge_{figure}"));
        assert_eq!(all(&truth, figure), ceiling, "{figure}");
        assert_eq!(all(&model, &format!("judge_{figure}")), ceiling, "{figure}");
    }
    assert!(all(&truth, "edit_right") > 0.5 && all(&model, "edit_right") > 0.25);
    for figure in ["plan_right", "edit_right", "wanted_there", "locator_hit"] {
        assert!(all(&nothing, figure) < all(&model, figure), "{figure}");
        assert!(all(&model, figure) <= all(&truth, figure), "{figure}");
    }
    assert!((all(&truth, "similarity") - 1.0).abs() < 1e-6);
    assert!(all(&model, "similarity").max(all(&nothing, "similarity")) < 1.0 - 1e-3);
    for figure in ["plan_right", "locator_hit"] {
        assert_eq!((all(&nothing, figure), all(&truth, figure)), (0.0, 1.0), "{figure}");
    }
    for (figure, best) in [("l1", 0.0), ("l2", 0.0), ("psnr", 99.0), ("ssim", 1.0)] {
        for place in ["", "_inside", "_outside"] {
            let found = all(&truth, &format!("{figure}{place}"));
            assert!((found - best).abs() < 1e-9, "{figure}{place} of the truth: {found}");
        }
        assert_ne!(all(&nothing, &format!("{figure}_inside")), best, "{figure} of doing nothing");
    }
    assert_eq!(all(&nothing, "psnr_composed"), 99.0);
    assert_eq!(all(&nothing, "PlayroomCLIP_dir"), 0.0);
    assert!((all(&nothing, "PlayroomCLIP_im") - 1.0).abs() < 1e-6);
    assert!(all(&truth, "PlayroomCLIP_dir") > 0.0 && all(&truth, "PlayroomCLIP_im") < 1.0);
    assert!(all(&truth, "PlayroomCLIP_out") > all(&nothing, "PlayroomCLIP_out"));
    assert!(all(&truth, "PlayroomCLIP_sound") > all(&nothing, "PlayroomCLIP_sound"));
    assert!((all(&truth, "PlayroomCLIP_caption") - 1.0).abs() < 1e-6);
    // There is no source to copy where a picture is made from nothing.
    let failed: Vec<&str> =
        nothing.iter().filter(|s| s.error.is_some()).map(|s| s.kind.as_str()).collect();
    assert_eq!((failed, all(&truth, "failed")), (vec!["generate"], 0.0));
}

#[test]
fn stored_pictures_are_measured_as_if_they_were_made() {
    let bench = Bench::new();
    let truth = bench.named(SystemName::Oracle);
    let stored = Stored::open(&bench.folder("oracle")).unwrap();
    let again = bench.run("stored", &stored, &Asked::default());
    for figure in ["psnr", "edit_right", "PlayroomCLIP_out", "PlayroomCLIP_dir"] {
        assert_eq!(all(&truth, figure), all(&again, figure), "{figure}");
    }
    assert!(all(&again, "plan_right").is_nan(), "nobody knows what another system planned");
    std::fs::remove_file(bench.folder("oracle").join("outputs/0002.png")).unwrap();
    let one_less = bench.run("one less", &stored, &Asked::default());
    assert!(one_less[0].error.as_ref().unwrap().contains("no picture named 0002"));
    assert_eq!(all(&one_less, "failed"), 1.0 / 12.0);
}

/// The model, handed its first two pictures in the wrong order.
struct Swapped<'a>(Model<'a>);

impl System for Swapped<'_> {
    fn edit(&self, item: &Item, request: &EditRequest) -> Result<Edited> {
        let mut request = request.clone();
        let pictures: Vec<usize> = (0..request.references.len())
            .filter(|index| request.references[*index].name.ends_with(".png"))
            .collect();
        if let [first, second, ..] = pictures[..] {
            let bytes = request.references[first].bytes.clone();
            request.references[first].bytes = request.references[second].bytes.clone();
            request.references[second].bytes = bytes;
        }
        self.0.edit(item, &request)
    }
}

#[test]
fn a_swapped_base_is_found_and_nothing_is_found_where_nothing_is() {
    let bench = Bench::new();
    let model = Model(&bench.playroom);
    bench.run("model", &model, &Asked::default());
    bench.run("swapped", &Swapped(model), &Asked::default());
    let gates: Vec<Gate> = ["psnr < -1", "edit_right < -0.02", "psnr@mixed < -3"]
        .map(|gate| gate.parse().unwrap())
        .into();
    let fails = |name: &str| -> Vec<bool> {
        let comparison = Comparison::read(&bench.folder(name), &bench.folder("model")).unwrap();
        comparison.check(&gates).unwrap().iter().map(|verdict| verdict.fails).collect()
    };
    assert_eq!(fails("model"), [false; 3]);
    let swapped = fails("swapped");
    assert!(swapped[0] && swapped[2], "{swapped:?}");
}

/// References in words are understood, and SDEdit leaves the source the more, the more noise hides
/// it.
#[test]
fn baselines_make_edits_of_their_own() {
    let bench = Bench::new();
    let words = bench.named(SystemName::TextOnly);
    assert!(all(&words, "plan_right") > 0.5, "{}", all(&words, "plan_right"));
    // The model that reads words alone is told the same; here it is the same model.
    let other = bench.named(SystemName::InstructPix2Pix);
    assert_eq!(all(&other, "plan_right"), all(&words, "plan_right"));
    let at = |strength: f64| {
        let parts = Parts {
            pipeline: &bench.playroom,
            playroom: Some(&bench.playroom),
            instruct_pix2pix: None,
            suite: &bench.suite,
            sdedit_strength: strength,
        };
        let system = parts.system(SystemName::SdEdit).unwrap();
        let asked = Asked { system: SystemName::SdEdit, ..Asked::default() };
        let asked = asked.with("steps", &json!(4)).unwrap();
        bench.run(&format!("sdedit {strength}"), system.as_ref(), &asked)
    };
    let kept = [0.0, 0.5, 1.0].map(|strength| all(&at(strength), "psnr_composed"));
    assert!(kept[0] > kept[1] && kept[1] > kept[2], "{kept:?}");
}
