//! One recipe per stage of training.

pub mod component;
pub mod contrast;
pub mod imagebind;
pub mod judge;
pub mod locator;
pub mod targets;
