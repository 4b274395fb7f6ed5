//! The recorded outputs of the official implementation.

use any2pix_llm::parity;
use any2pix_nn::golden::GoldenCase;
use any2pix_nn::ops::{Precision, PrecisionScope};

#[test]
fn the_language_model_gives_every_recorded_output() {
    let found = GoldenCase::find(crate::goldens().join("any2pix_lm")).unwrap();
    assert!(!found.is_empty());
    let both = [Precision::F32, Precision::Bf16].into_iter();
    for (precision, dir) in both.flat_map(|precision| found.iter().map(move |dir| (precision, dir)))
    {
        let _scope = PrecisionScope::new(precision);
        let case = GoldenCase::open(dir).unwrap();
        let outputs = parity::run(&case).expect("this crate's component").unwrap();
        for row in case.compare(&outputs).unwrap() {
            assert!(row.passes, "{}: {row:?}", dir.display());
        }
    }
}

#[test]
fn every_format_of_weights_gives_what_was_recorded() {
    let case = GoldenCase::open(crate::goldens().join("formats/llama")).unwrap();
    let outputs = parity::run(&case).expect("this crate's component").unwrap();
    let rows = case.compare(&outputs).unwrap();
    assert_eq!(rows.len(), case.output_names().len());
    for row in rows {
        // A dequantised number has one right value; only its last bit may differ.
        let exact = row.name.starts_with("deq.") || row.name.starts_with("kquant.");
        let ulp = row.reference_max * f64::from(f32::EPSILON);
        assert!(row.passes && (!exact || row.max_abs <= ulp), "{row:?}");
    }
}
