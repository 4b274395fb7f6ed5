//! One recipe per stage of training.

pub mod language;
pub mod tokenizer;
