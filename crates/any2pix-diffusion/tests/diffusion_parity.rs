//! Every recorded case of this crate's components, within its tolerance.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod clip_text;

use any2pix_diffusion::parity;
use any2pix_nn::golden::GoldenCase;
use any2pix_nn::ops::{Precision, PrecisionScope};

#[test]
fn every_recorded_case_is_reproduced() {
    check(Precision::F32);
}

#[test]
fn every_recorded_case_is_reproduced_with_weights_in_bf16() {
    check(Precision::Bf16);
}

fn check(precision: Precision) {
    let _scope = PrecisionScope::new(precision);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens");
    let (mut cases, mut failures) = (0, Vec::new());
    for dir in GoldenCase::find(root).unwrap() {
        let case = GoldenCase::open(&dir).unwrap();
        let Some(outputs) = parity::run(&case, &clip_text::encode) else { continue };
        cases += 1;
        let name = format!("{}/{}", case.meta.component, case.meta.case);
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        for row in case.compare(&outputs).unwrap().into_iter().filter(|row| !row.passes) {
            failures.push(format!("{name}: {row:?}"));
        }
    }
    assert!(cases >= 18, "only {cases} cases were found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
