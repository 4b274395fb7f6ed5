//! The recorded outputs of the official implementation.

use any2pix_llm::parity;
use any2pix_nn::golden::GoldenCase;

#[test]
fn the_language_model_gives_every_recorded_output() {
    let found = GoldenCase::find(crate::goldens().join("any2pix_lm")).unwrap();
    assert!(!found.is_empty());
    for dir in found {
        let case = GoldenCase::open(&dir).unwrap();
        let outputs = parity::run(&case).expect("this crate's component").unwrap();
        for row in case.compare(&outputs).unwrap() {
            assert!(row.passes, "{}: {row:?}", dir.display());
        }
    }
}
