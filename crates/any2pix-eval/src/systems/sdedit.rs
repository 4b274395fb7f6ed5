//! SDEdit: the source under noise, denoised under the caption of the target.

use any2pix_agent::{EditRequest, Playroom, Repaint, Silent};
use image::DynamicImage;

use super::{Edited, System};
use crate::suite::{Item, Suite};
use crate::{EvalError, Result};

/// Knows the target's caption instead of the instruction, and nothing of references.
pub struct SdEdit<'a> {
    /// Whose encoder, prior, decoder and codec are used.
    pub playroom: &'a Playroom,
    /// The items.
    pub suite: &'a Suite,
    /// Part of the noise that the source is put under.
    pub strength: f64,
}

impl System for SdEdit<'_> {
    fn edit(&self, item: &Item, request: &EditRequest) -> Result<Edited> {
        let missing = |what: &str| EvalError::inapplicable(format!("SDEdit needs a {what}"));
        let base = item.base.as_ref().ok_or_else(|| missing("source"))?;
        let caption = item.caption.as_deref().ok_or_else(|| missing("caption of the target"))?;
        let source = &self.suite.picture(base)?;
        let settings = &request.settings;
        let task = Repaint { source, caption, strength: self.strength, settings };
        let (picture, timings) = self.playroom.repaint(&task, &mut Silent)?;
        Ok(Edited { timings, ..Edited::picture(DynamicImage::ImageRgb8(picture)) })
    }
}
