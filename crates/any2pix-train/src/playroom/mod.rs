//! The Playroom: a small world of things, their pictures and sounds, with exact truth for edits.

pub mod audio;
pub mod augment;
pub mod backgrounds;
pub mod catalogue;
pub mod colour;
mod compose;
pub mod error;
pub mod gallery;
pub mod instruction;
pub mod looks;
pub mod packages;
pub mod place;
pub mod prepare;
pub mod quality;
pub mod raster;
pub mod recipe;
pub mod sample;
pub mod scene;
pub mod sounds;
pub mod splits;
pub mod sprites;
pub mod store;
pub mod suite;
pub mod synth;
#[cfg(test)]
mod tests;
pub mod world;

pub use compose::{Manner, SQUARE, square_of};
pub use error::{PlayroomError, Result};
pub use place::Place;
pub use prepare::prepare;
pub use sample::{
    AnswerPiece, Familiarity, Kind, Media, Modality, ObjectSlot, Piece, Present, Sample, SlotTarget,
};
pub use scene::{BBox, SCENE_SIDE};
pub use splits::{Split, Splits};
pub use world::{Clip, ConceptEntry, Sprite, World};
