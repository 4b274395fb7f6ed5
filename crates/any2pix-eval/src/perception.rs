//! `Perception`: who looks at the results; the judge and the encoder, apart from the model.

use image::RgbImage;

use crate::Result;

/// Who looks at the results.
pub trait Perception: Sync {
    /// The concept that each crop shows; none for "nothing that I know".
    fn name(&self, crops: &[RgbImage]) -> Result<Vec<Option<String>>>;

    /// Whether it could name this concept.
    fn knows(&self, concept: &str) -> bool;

    /// An embedding of each picture.
    fn embed(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>>;
}
