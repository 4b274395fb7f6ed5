//! One recipe per stage.

pub mod align;
mod codes;
pub mod component;
pub mod decoder;
pub mod embedder;
pub mod generate;
pub mod instruct;
pub mod language;
pub mod pictures;
mod plan_score;
mod planner_stage;
pub mod prior;
pub mod rehearse;
pub mod tokenizer;
mod unknown;
pub mod vae;
pub mod windows;
