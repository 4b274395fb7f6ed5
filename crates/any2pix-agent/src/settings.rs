//! `EditSettings`: every number a user may choose, with its default and its range.

use any2pix_diffusion::inversion::InversionConfig;
use any2pix_llm::Sampling;
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::instructany2pix::Compat;

/// How the painter starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// The source window's latents stand in extra channels of the UNet.
    #[default]
    Source,
    /// The published method: DDIM inversion of the source, no extra channels.
    Inversion,
}

/// How a full-size model's denoising steps are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// The inversion's own steps, backwards.
    #[default]
    Ddim,
    /// SDXL's own.
    Euler,
    /// InstructPix2Pix' own, which adds fresh noise at each step.
    #[serde(rename = "euler_ancestral")]
    EulerAncestral,
    /// Few steps, for models distilled to take them (an LCM-LoRA).
    Lcm,
}

impl Sampler {
    /// The scheduler's class.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Lcm => "LCMScheduler",
        }
    }
}

/// The numbers that steer an edit. Threads are not among them: no result depends on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditSettings {
    /// Chooses the noise.
    pub seed: u64,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Guidance towards the reference pictures, or the picture that is edited; 1 is none.
    pub image_guidance: f64,
    /// 1 starts from the source (inverted, or noised as the decoder has it), 0 from noise alone;
    /// `None` is the decoder's own habit.
    pub alpha: Option<f64>,
    /// Weights of the base, the generated and the refined embedding in the condition.
    pub mix: [f64; 3],
    /// Norm of the condition.
    pub norm: f64,
    /// How firmly a reference picture is followed; 0 leaves the object to imagination.
    pub strength: f64,
    /// Width and height of a picture that is made from nothing.
    pub size: [u32; 2],
    /// How the painter starts.
    pub decoder: Decoder,
    /// The prior refines the target.
    pub refine: bool,
    /// Objects in words or sounds find a reference picture in the gallery.
    pub gallery: bool,
    /// A local edit is painted in a window around its region.
    pub window: bool,
    /// Untouched pixels come from the source.
    pub compose: bool,
    /// Go on with the nearest known object.
    pub force: bool,
    /// How a full-size model's steps are taken.
    pub sampler: Sampler,
    /// Part of its steps that a full-size model's refiner repaints the result with; 0 is none.
    pub refinement: f64,
    /// How loud the condition is beside the prompt in a full-size model; 0 is the prompt alone.
    pub image_scale: f64,
    /// Whether the published program's slips are kept.
    pub compat: Compat,
    /// Also say what the language model would say if its answer were not bound to be a plan.
    pub show_text: bool,
    /// How often each step of the inversion is repeated at its own result; 0 is the published
    /// method.
    pub inversion_refinement: usize,
    /// How freely a full-size model's plan is drawn; 0 takes the best token.
    pub temperature: f32,
    /// So many of the best tokens are drawn from; 0 is all.
    pub top_k: usize,
    /// Only the best tokens that together are so probable are drawn from; 1 is all.
    pub top_p: f32,
}

impl Default for EditSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 20,
            guidance: 2.0,
            image_guidance: 1.0,
            alpha: None,
            mix: [0.0, 0.4, 1.0],
            norm: 20.0,
            strength: 1.0,
            size: [512, 512],
            decoder: Decoder::Source,
            refine: true,
            gallery: true,
            window: true,
            compose: true,
            force: false,
            sampler: Sampler::Ddim,
            refinement: 0.0,
            image_scale: 1.0,
            compat: Compat::Repaired,
            show_text: false,
            inversion_refinement: 0,
            temperature: Sampling::GREEDY.temperature,
            top_k: Sampling::GREEDY.top_k,
            top_p: Sampling::GREEDY.top_p,
        }
    }
}

/// Settings of which only some are given: flags, a settings file, a model's own defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of EditSettings")]
pub struct SettingsPatch {
    pub seed: Option<u64>,
    pub steps: Option<usize>,
    pub guidance: Option<f64>,
    pub image_guidance: Option<f64>,
    pub alpha: Option<f64>,
    pub mix: Option<[f64; 3]>,
    pub norm: Option<f64>,
    pub strength: Option<f64>,
    pub size: Option<[u32; 2]>,
    pub decoder: Option<Decoder>,
    pub refine: Option<bool>,
    pub gallery: Option<bool>,
    pub window: Option<bool>,
    pub compose: Option<bool>,
    pub force: Option<bool>,
    pub sampler: Option<Sampler>,
    pub refinement: Option<f64>,
    pub image_scale: Option<f64>,
    pub compat: Option<Compat>,
    pub show_text: Option<bool>,
    pub inversion_refinement: Option<usize>,
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
}

impl SettingsPatch {
    /// Puts what is given over `settings`.
    pub fn apply(&self, settings: &mut EditSettings) {
        fn put<T: Clone>(slot: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        }
        put(&mut settings.seed, &self.seed);
        put(&mut settings.steps, &self.steps);
        put(&mut settings.guidance, &self.guidance);
        put(&mut settings.image_guidance, &self.image_guidance);
        settings.alpha = self.alpha.or(settings.alpha);
        put(&mut settings.mix, &self.mix);
        put(&mut settings.norm, &self.norm);
        put(&mut settings.strength, &self.strength);
        put(&mut settings.size, &self.size);
        put(&mut settings.decoder, &self.decoder);
        put(&mut settings.refine, &self.refine);
        put(&mut settings.gallery, &self.gallery);
        put(&mut settings.window, &self.window);
        put(&mut settings.compose, &self.compose);
        put(&mut settings.force, &self.force);
        put(&mut settings.sampler, &self.sampler);
        put(&mut settings.refinement, &self.refinement);
        put(&mut settings.image_scale, &self.image_scale);
        put(&mut settings.compat, &self.compat);
        put(&mut settings.show_text, &self.show_text);
        put(&mut settings.inversion_refinement, &self.inversion_refinement);
        put(&mut settings.temperature, &self.temperature);
        put(&mut settings.top_k, &self.top_k);
        put(&mut settings.top_p, &self.top_p);
    }
}

impl EditSettings {
    /// The alpha that is in force.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(match self.decoder {
            Decoder::Source => 0.0,
            Decoder::Inversion => 0.7,
        })
    }

    /// How the inversion's steps are taken.
    pub fn inversion(&self) -> InversionConfig {
        InversionConfig { fixed_point_iterations: self.inversion_refinement }
    }

    /// How a full-size model's language model draws tokens.
    pub fn sampling(&self) -> Sampling {
        let Self { temperature, top_k, top_p, .. } = *self;
        Sampling { temperature, top_k, top_p }
    }

    /// An error for the first setting that is out of its range.
    pub fn validate(&self) -> Result<(), AgentError> {
        let within = |name: &'static str, value: f64, low: f64, high: f64| {
            // A NaN is outside too.
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let reason = format!("must be {low} to {high}");
            Err(AgentError::Setting { name, value: value.to_string(), reason })
        };
        within("--steps", self.steps as f64, 1.0, 1000.0)?;
        within("--guidance", self.guidance, 0.0, 50.0)?;
        within("--image-guidance", self.image_guidance, 0.0, 50.0)?;
        within("--alpha", self.alpha(), 0.0, 1.0)?;
        for weight in self.mix {
            within("--mix", weight, -10.0, 10.0)?;
        }
        if self.mix[1] == 0.0 && self.mix[2] == 0.0 {
            let reason = "the weights of the target must not both be 0".to_string();
            return Err(AgentError::Setting {
                name: "--mix",
                value: format!("{:?}", self.mix),
                reason,
            });
        }
        within("--norm", self.norm, 0.1, 200.0)?;
        within("--strength", self.strength, 0.0, 1.0)?;
        within("--refinement", self.refinement, 0.0, 1.0)?;
        within("--image-scale", self.image_scale, 0.0, 4.0)?;
        within("--inversion-refinement", self.inversion_refinement as f64, 0.0, 20.0)?;
        within("--temperature", self.temperature.into(), 0.0, 10.0)?;
        within("--top-p", self.top_p.into(), 0.01, 1.0)?;
        for side in self.size {
            within("--size", f64::from(side), 16.0, 4096.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_each_limit_is_named() {
        EditSettings::default().validate().unwrap();
        type Change = fn(&mut EditSettings);
        let wrong: [(&str, Change); 13] = [
            ("--steps", |s| s.steps = 0),
            ("--guidance", |s| s.guidance = f64::NAN),
            ("--alpha", |s| s.alpha = Some(1.01)),
            ("--mix", |s| s.mix = [1.0, 0.0, 0.0]),
            ("--mix", |s| s.mix[2] = f64::INFINITY),
            ("--norm", |s| s.norm = 0.0),
            ("--strength", |s| s.strength = -0.1),
            ("--size", |s| s.size = [512, 0]),
            ("--refinement", |s| s.refinement = 1.5),
            ("--image-scale", |s| s.image_scale = -1.0),
            ("--inversion-refinement", |s| s.inversion_refinement = 21),
            ("--temperature", |s| s.temperature = f32::NAN),
            ("--top-p", |s| s.top_p = 0.0),
        ];
        for (name, change) in wrong {
            let mut settings = EditSettings::default();
            change(&mut settings);
            let message = settings.validate().unwrap_err().to_string();
            assert!(message.starts_with(name), "{message}");
        }
    }

    #[test]
    fn a_patch_changes_what_it_gives_and_nothing_else() {
        let patch: SettingsPatch =
            serde_json::from_str(r#"{"alpha": 0.5, "decoder": "inversion"}"#).unwrap();
        let mut settings = EditSettings::default();
        patch.apply(&mut settings);
        let expected = EditSettings {
            alpha: Some(0.5),
            decoder: Decoder::Inversion,
            ..EditSettings::default()
        };
        assert_eq!(settings, expected);
        assert!(serde_json::from_str::<SettingsPatch>(r#"{"alpa": 1}"#).is_err());
    }
}
