//! The Playroom: a small world of things, their pictures and sounds, with exact truth for edits.

pub mod audio;
pub mod backgrounds;
pub mod catalogue;
pub mod error;
pub mod packages;
pub mod prepare;
pub mod raster;
pub mod sounds;
pub mod sprites;
pub mod store;
pub mod synth;

pub use error::{PlayroomError, Result};
pub use prepare::prepare;
