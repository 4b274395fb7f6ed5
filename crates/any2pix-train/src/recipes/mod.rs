//! One recipe per stage of training.

pub mod align;
mod codes;
pub mod embedder;
pub mod generate;
pub mod instruct;
pub mod language;
mod plan_score;
mod planner_stage;
pub mod rehearse;
pub mod tokenizer;
mod unknown;
