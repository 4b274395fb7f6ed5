//! Flags of what is asked of a system.

use any2pix_agent::{Decoder, SettingsPatch};
use any2pix_eval::asked::Asked;

/// The settings that reports are about.
#[derive(clap::Args)]
pub(super) struct SettingsArgs {
    /// How the painter starts: `source` or `inversion`.
    #[arg(long, value_parser = decoder)]
    decoder: Option<Decoder>,
    /// Paint the whole picture instead of a window.
    #[arg(long)]
    no_window: bool,
    /// Imagine every object that is not given as a picture.
    #[arg(long)]
    no_gallery: bool,
    /// Use the planned embedding as it is.
    #[arg(long)]
    no_prior: bool,
    /// Keep the decoder's own pixels everywhere.
    #[arg(long)]
    no_compose: bool,
    /// 1 starts from the inverted source, 0 from noise alone.
    #[arg(long)]
    alpha: Option<f64>,
    /// Denoising steps.
    #[arg(long)]
    steps: Option<usize>,
    /// Classifier-free guidance.
    #[arg(long)]
    guidance: Option<f64>,
    /// Guidance towards reference pictures, or the picture that is edited.
    #[arg(long)]
    image_guidance: Option<f64>,
    /// Added to every item's own seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Part of the noise that SDEdit puts the source under.
    #[arg(long, value_name = "PART")]
    sdedit_strength: Option<f64>,
}

fn decoder(text: &str) -> Result<Decoder, String> {
    match text {
        "source" => Ok(Decoder::Source),
        "inversion" => Ok(Decoder::Inversion),
        _ => Err("must be `source` or `inversion`".to_string()),
    }
}

impl SettingsArgs {
    /// What the flags ask of the model.
    pub(super) fn asked(&self) -> Asked {
        let off = |flag: bool| flag.then_some(false);
        let patch = SettingsPatch {
            decoder: self.decoder,
            window: off(self.no_window),
            gallery: off(self.no_gallery),
            refine: off(self.no_prior),
            compose: off(self.no_compose),
            alpha: self.alpha,
            steps: self.steps,
            guidance: self.guidance,
            image_guidance: self.image_guidance,
            seed: self.seed,
            ..SettingsPatch::default()
        };
        let asked = Asked { patch, ..Asked::default() };
        let sdedit_strength = self.sdedit_strength.unwrap_or(asked.sdedit_strength);
        Asked { sdedit_strength, ..asked }
    }
}
