//! Tests of the planner, one binary.

mod generation;
mod goldens;
mod plan;
mod tokenizer;

use std::path::PathBuf;

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}
