//! One recipe per stage.

pub mod align;
mod codes;
pub mod component;
pub mod contrast;
mod cut;
pub mod decoder;
pub mod embedder;
pub mod generate;
pub mod imagebind;
pub mod instruct;
pub mod ip2p;
pub mod judge;
pub mod language;
pub mod locator;
mod noising;
pub mod pictures;
mod plan_score;
mod planner_stage;
pub mod prior;
mod queries;
pub mod rehearse;
mod scenes;
pub mod targets;
pub mod tokenizer;
mod unknown;
pub mod vae;
pub mod windows;
