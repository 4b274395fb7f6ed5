//! One recipe per stage.

pub mod component;
pub mod decoder;
pub mod pictures;
pub mod prior;
pub mod vae;
pub mod windows;
