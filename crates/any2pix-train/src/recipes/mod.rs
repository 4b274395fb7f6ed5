//! One recipe per stage.

pub mod component;
pub mod contrast;
pub mod decoder;
pub mod imagebind;
pub mod judge;
pub mod locator;
pub mod pictures;
pub mod prior;
pub mod targets;
pub mod vae;
pub mod windows;
