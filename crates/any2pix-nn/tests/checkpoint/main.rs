//! Tests of reading weights: every format, files that lie, files that are damaged. One binary.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod damaged;
mod formats;
mod gguf;
mod make;
mod names;
mod pickles;
mod safetensors;
mod zips;

use std::path::PathBuf;

use any2pix_nn::{Checkpoint, Hint};

/// The small model that is recorded in every format.
fn llama() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/formats/llama")
}

/// The error of bytes that must be refused; it names them, gives a hint, and says `reason`.
#[track_caller]
fn refused(bytes: &[u8], reason: &str) {
    match Checkpoint::from_bytes("file.bin", bytes) {
        Ok(checkpoint) => panic!("was read as {:?}", checkpoint.entries()),
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("file.bin: ") && text.contains(reason), "{text}");
            assert!(!error.hints().is_empty() && text.len() < 600, "{text}");
        }
    }
}

/// Reads bytes that must be read, and every tensor in them.
#[track_caller]
fn read(bytes: &[u8]) -> Checkpoint {
    let checkpoint = Checkpoint::from_bytes("file.bin", bytes).unwrap();
    for entry in checkpoint.entries() {
        assert_eq!(checkpoint.tensor(&entry.name).unwrap().dims(), entry.shape);
    }
    checkpoint
}

/// The numbers of a tensor, one row after the other.
#[track_caller]
fn numbers(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    let tensor = checkpoint.tensor(name).unwrap().to_dtype(candle_core::DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
