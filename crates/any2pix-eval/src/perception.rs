//! `Perception`: who looks at the results; the judge and the encoder, apart from the model.

use std::path::Path;

use image::RgbImage;

use crate::Result;

/// Who looks at the results.
pub trait Perception: Sync {
    /// The concept that each crop shows; none for "nothing that I know".
    fn name(&self, crops: &[RgbImage]) -> Result<Vec<Option<String>>>;

    /// Whether it could name this concept.
    fn knows(&self, concept: &str) -> bool;

    /// What each picture shows as a vector that is near to those of other pictures of the same
    /// thing; at least one picture.
    fn recognise(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>>;

    /// What each picture means as a whole, as a vector.
    fn embed(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>>;

    /// What words mean, in the same space; nothing from one who cannot read.
    fn embed_text(&self, text: &str) -> Result<Option<Vec<f32>>>;

    /// What a sound file means, in the same space; nothing from one who cannot hear, or when the
    /// file is no sound.
    fn hear(&self, file: &Path) -> Result<Option<Vec<f32>>>;
}
