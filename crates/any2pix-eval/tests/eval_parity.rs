//! The published metrics against what their official implementations recorded.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use any2pix_encoders::clip_vision::ClipImageProcessor;
use any2pix_encoders::dino::{Dino, DinoConfig};
use any2pix_eval::parity;
use any2pix_nn::golden::{GoldenCase, Row};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/metrics").join(name)
}

fn check(name: &str) {
    let case = GoldenCase::open(folder(name)).unwrap();
    let outputs = parity::run(&case).expect("a case of this crate").unwrap();
    let rows = case.compare(&outputs).unwrap();
    assert!(!rows.is_empty());
    let misses: Vec<String> = rows
        .into_iter()
        .filter(|row| !row.passes)
        .map(|Row { name, max_abs, reference_max, note, .. }| {
            format!("{name}: {max_abs:e} of {reference_max} {note}")
        })
        .collect();
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

#[test]
fn pixels_are_as_far_apart_as_magicbrush_says() {
    check("pixel");
}

#[test]
fn clip_sees_reads_and_prefers_as_the_official_code() {
    check("clip");
}

#[test]
fn dino_tells_likeness_as_the_official_code() {
    check("dino");
}

#[test]
fn the_aesthetic_predictor_scores_as_the_official_code() {
    check("aesthetic");
}

fn open(folder: &Path, name: &str) -> RgbImage {
    image::open(folder.join(name)).unwrap().to_rgb8()
}

fn furthest(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Resizing is exact to the bit, so that only the last rounding of floats may differ.
#[test]
fn pictures_reach_the_encoders_as_in_the_official_code() {
    let clip = folder("clip");
    let json = std::fs::read_to_string(clip.join("preprocessor_config.json")).unwrap();
    let processor = ClipImageProcessor::from_json(&json).unwrap();
    let input = |name: &str| processor.apply(&open(&clip, name)).unwrap();
    let ours = Tensor::stack(&[input("before.png"), input("after.png")], 0).unwrap();
    let theirs = GoldenCase::open(&clip).unwrap().input("pixel_values").unwrap();
    assert!(furthest(&ours, &theirs) < 1e-5, "{}", furthest(&ours, &theirs));

    let case = GoldenCase::open(folder("dino")).unwrap();
    let config: DinoConfig = serde_json::from_value(case.config.clone()).unwrap();
    let weights = case.weights().unwrap();
    let dino = Dino::load(weights.builder(DType::F32, &Device::Cpu), &config).unwrap();
    for name in ["before", "after"] {
        let ours = dino.input(&open(&case.dir, &format!("{name}.png"))).unwrap();
        let theirs = case.input(&format!("pixel_values_{name}")).unwrap();
        assert!(furthest(&ours, &theirs) < 1e-5, "{name}: {}", furthest(&ours, &theirs));
    }
}
