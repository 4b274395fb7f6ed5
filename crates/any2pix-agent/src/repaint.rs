//! SDEdit: the source under noise, denoised under the caption of what it shall be. A baseline for
//! evaluation: no plan, no region, nothing is kept.

use any2pix_encoders::resize::{self, Filter};
use any2pix_nn::Generator;
use image::RgbImage;

use crate::conditioning;
use crate::edit::Playroom;
use crate::error::AgentError;
use crate::locate;
use crate::outcome::{Rect, StageTime};
use crate::planes::Pixels;
use crate::progress::{Progress, Stage};
use crate::run::Run;
use crate::settings::{Decoder, EditSettings};

/// What SDEdit is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Repaint<'a> {
    /// The picture that is edited.
    pub source: &'a RgbImage,
    /// What it shall be, in words.
    pub caption: &'a str,
    /// Part of the noise that the source is put under: 0 leaves it, 1 hides it.
    pub strength: f64,
    /// Seed, steps, guidance, and how the caption becomes a condition.
    pub settings: &'a EditSettings,
}

impl Playroom {
    /// The whole source at the painter's resolution, noised, denoised by the decoder that knows
    /// nothing of a source, and brought back to the source's size.
    pub fn repaint(
        &self,
        task: &Repaint<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(RgbImage, Vec<StageTime>), AgentError> {
        let Repaint { source, caption, strength, settings } = *task;
        settings.validate()?;
        if !(0.0..=1.0).contains(&strength) {
            let reason = "must be 0 to 1".to_string();
            let value = strength.to_string();
            return Err(AgentError::Setting { name: "--sdedit-strength", value, reason });
        }
        let mut run = Run::new(progress);
        let components = self.components();
        let spoken = run.stage(Stage::Encode, |_| components.spoken(&[caption]))?;
        let refined = run.stage(Stage::Refine, |_| components.refined(&spoken, settings))?;
        let condition = run.stage(Stage::Condition, |_| {
            let mixed = conditioning::mix(None, &spoken, &refined, settings);
            mixed.map_err(AgentError::compute(Stage::Condition))
        })?;
        let painter = components.painter(Decoder::Inversion)?;
        let side = components.index.window_size;
        let pixels = Pixels::from_rgb(&locate::cut(source, Rect::whole(source), side));
        let mut generator = Generator::new(settings.seed).fork("repaint");
        let painted = painter
            .paint_noised((&pixels, &condition, strength), settings, &mut generator, &mut run)?
            .to_rgb();
        Ok((resize::resize(&painted, source.dimensions(), Filter::Bicubic), run.timings))
    }
}
