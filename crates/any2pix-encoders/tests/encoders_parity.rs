//! The recorded goldens of the official implementations, as tests.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::path::Path;

use any2pix_encoders::parity;
use any2pix_nn::golden::{GoldenCase, Row};
use any2pix_nn::ops::{Precision, PrecisionScope};

/// Runs every case at or below `folder` of the goldens, in f32 and with weights in bf16, and
/// returns how many there were.
fn check(folder: &str) -> usize {
    check_in(Precision::Bf16, folder);
    check_in(Precision::F32, folder)
}

fn check_in(precision: Precision, folder: &str) -> usize {
    let _scope = PrecisionScope::new(precision);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(folder);
    let cases = GoldenCase::find(&root).unwrap();
    let mut misses = Vec::new();
    for dir in &cases {
        let case = GoldenCase::open(dir).unwrap();
        let outputs = parity::run(&case)
            .unwrap_or_else(|| panic!("{}: no runner", dir.display()))
            .unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for Row { name, max_abs, reference_max, passes, note, .. } in
            case.compare(&outputs).unwrap()
        {
            if !passes {
                let case = &case.meta.case;
                misses.push(format!("{case}: {name}: {max_abs:e} of {reference_max} {note}"));
            }
        }
    }
    assert!(misses.is_empty(), "{}", misses.join("\n"));
    cases.len()
}

#[test]
fn imagebind_hears_sees_and_reads_as_the_official_code() {
    assert_eq!(check("imagebind"), 6);
}

#[test]
fn clip_text_encoders_agree() {
    assert_eq!(check("clip_text"), 2);
}

#[test]
fn pictures_are_resized_to_the_last_bit() {
    assert_eq!(check("preprocess"), 1);
}

#[test]
fn clip_tokens_are_the_same() {
    assert_eq!(check("tokenizers/clip"), 1);
}
