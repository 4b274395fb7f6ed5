//! Tests of the planner, one binary.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod generation;
mod gguf;
mod goldens;
mod plan;
mod tokenizer;

use std::path::PathBuf;

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}
