//! `TextToImage`: a model that paints pairs of captions, a Stable Diffusion or an InstructPix2Pix
//! whose source is left out; the pairs that InstructPix2Pix is trained on are painted so.

use any2pix_diffusion::denoise::Flow;
use any2pix_diffusion::instruct_pix2pix::reference_scheduler;
use any2pix_diffusion::prompt_to_prompt::{Draw, PromptToPrompt, Ranges};
use any2pix_diffusion::schedulers::{self, Scheduler, SchedulerConfig};
use any2pix_diffusion::{Autoencoder, UNet2DConditionModel};
use any2pix_nn::Generator;
use any2pix_nn::ops::{Precision, PrecisionScope};
use candle_core::Tensor;
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::parts::{Layout, Parts, layout};
use super::{WORDS, Words};
use crate::error::AgentError;
use crate::full_size::{finite, misfit, to_pixels};
use crate::progress::Stage;
use crate::settings::Sampler;
use crate::store::ModelStore;

/// What the published program draws from.
const PUBLISHED: Ranges = Ranges { threshold: [0.1, 0.9], guidance: [7.5, 15.0] };

/// How pairs are painted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairSettings {
    /// Denoising steps.
    pub steps: usize,
    /// Width and height.
    pub size: [u32; 2],
    /// How steps are taken.
    pub sampler: Sampler,
    /// For how much of the steps attention is shared is drawn between these.
    pub threshold: [f32; 2],
    /// The guidance is drawn between these.
    pub guidance: [f32; 2],
    /// Whether attention to the captions is shared, too.
    pub cross_attention: bool,
}

/// What a model says of them in `model_index.json`, under `pairs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PairsPatch {
    steps: Option<usize>,
    size: Option<[u32; 2]>,
    sampler: Option<Sampler>,
    threshold: Option<[f32; 2]>,
    guidance: Option<[f32; 2]>,
}

impl PairSettings {
    /// An error for the first setting that is out of its range.
    pub fn validate(&self) -> Result<(), AgentError> {
        let refused =
            |name, value: String, reason: String| Err(AgentError::Setting { name, value, reason });
        if !(1..=1000).contains(&self.steps) {
            return refused("--steps", self.steps.to_string(), "must be 1 to 1000".into());
        }
        if let Some(side) = self.size.iter().find(|side| !(16..=4096).contains(*side)) {
            return refused("--size", side.to_string(), "must be 16 to 4096".into());
        }
        let ranges = [("--p2p", self.threshold, 2.0), ("--guidance", self.guidance, 50.0)];
        for (name, [low, high], most) in ranges {
            // A NaN is outside, too.
            let is_right = (0.0..=most).contains(&low) && (low..=most).contains(&high);
            if !is_right {
                let reason = format!("must be two numbers from 0 to {most}, the lower first");
                return refused(name, format!("{low},{high}"), reason);
            }
        }
        Ok(())
    }

    fn ranges(&self) -> Ranges {
        Ranges { threshold: self.threshold, guidance: self.guidance }
    }
}

/// A model that paints pairs; none of its parts is held.
pub struct TextToImage {
    parts: Parts,
    words: Words,
}

/// Two captions as the UNet reads them.
pub struct PairCaptions {
    negative: Tensor,
    captions: [Tensor; 2],
}

/// Two pictures of one noise.
pub struct PaintedPair {
    /// Of the first caption and of the second.
    pub pictures: [RgbImage; 2],
    /// For how much of the steps they shared their attention.
    pub threshold: f32,
    /// Their guidance.
    pub guidance: f32,
}

impl TextToImage {
    /// A model by name, or in a folder as diffusers lays it out (`unet`, `vae`, `text_encoder`,
    /// `tokenizer`, `scheduler`), or an InstructPix2Pix in one file. Every part is looked for; no
    /// weights are read yet.
    pub fn open(model: &str, max_memory: Option<u64>) -> Result<Self, AgentError> {
        let store = ModelStore::open(model)?;
        let words = serde_json::from_str(WORDS).map_err(|e| store.bad("prompts.json", &e))?;
        let layout = layout(&store)?.unwrap_or(Layout::Folders);
        Ok(Self { parts: Parts::open(store, layout, max_memory)?, words })
    }

    /// What the model wants; what it does not say is the published program's.
    pub fn settings(&self) -> PairSettings {
        let (edits, pairs) = (&self.parts.settings, self.parts.pairs());
        PairSettings {
            steps: pairs.steps.or(edits.steps).unwrap_or(100),
            size: pairs.size.or(edits.size).unwrap_or([512; 2]),
            sampler: pairs.sampler.or(edits.sampler).unwrap_or(Sampler::EulerAncestral),
            threshold: pairs.threshold.unwrap_or(PUBLISHED.threshold),
            guidance: pairs.guidance.unwrap_or(PUBLISHED.guidance),
            cross_attention: false,
        }
    }

    /// What the model is, to the last weight.
    pub fn identity(&self) -> Result<Value, AgentError> {
        let store = &self.parts.store;
        Ok(json!({ "name": store.name(), "files": store.fingerprint()? }))
    }

    /// Two captions through the text encoder, which is dropped.
    pub fn read(&self, captions: [&str; 2]) -> Result<PairCaptions, AgentError> {
        let said = self.parts.said(&[&self.words.negative, captions[0], captions[1]])?;
        let said = said.last_hidden_state;
        let row = |i: usize| said.narrow(0, i, 1)?.contiguous();
        let split = || -> candle_core::Result<PairCaptions> {
            Ok(PairCaptions { negative: row(0)?, captions: [row(1)?, row(2)?] })
        };
        split().map_err(AgentError::compute(Stage::Prompt))
    }

    /// UNet and codec, ready to paint.
    pub fn load(&self, settings: &PairSettings) -> Result<PairPainter, AgentError> {
        settings.validate()?;
        let unet = self.parts.text_to_image_unet()?;
        let codec = self.parts.codec()?;
        let depth = unet.config().block_out_channels.len().saturating_sub(1) as u32;
        let multiple = (codec.spatial_factor() as u32) << depth.min(8);
        if let Some(side) = settings.size.iter().find(|side| **side % multiple != 0) {
            let (name, value) = ("--size", side.to_string());
            let reason = format!("sides of this model are multiples of {multiple}");
            return Err(AgentError::Setting { name, value, reason });
        }
        let config = reference_scheduler(self.parts.scheduler()?);
        let class_name = Some(settings.sampler.class_name().to_string());
        let config = SchedulerConfig { class_name, ..config };
        let scheduler =
            schedulers::from_config(&config, settings.steps).map_err(misfit("scheduler"))?;
        Ok(PairPainter { unet, codec, scheduler, settings: settings.clone() })
    }
}

/// A loaded model.
pub struct PairPainter {
    unet: UNet2DConditionModel,
    codec: Box<dyn Autoencoder>,
    scheduler: Box<dyn Scheduler>,
    settings: PairSettings,
}

impl PairPainter {
    /// The pair of one seed; `is_stopped` is asked at every step.
    pub fn paint(
        &self,
        read: &PairCaptions,
        seed: u64,
        is_stopped: &mut dyn FnMut() -> bool,
    ) -> Result<PaintedPair, AgentError> {
        let mut generator = Generator::new(seed);
        let draw = self.draw(&mut generator)?;
        let painter = PromptToPrompt {
            unet: &self.unet,
            scheduler: &*self.scheduler,
            negative: &read.negative,
            cross_attention: self.settings.cross_attention,
        };
        let captions = [&read.captions[0], &read.captions[1]];
        let latents = painter.paint(captions, &draw, &mut generator, |_| match is_stopped() {
            true => Flow::Stop,
            false => Flow::Continue,
        });
        let latents = latents.map_err(AgentError::compute(Stage::Denoise))?;
        if is_stopped() {
            return Err(AgentError::Cancelled { stage: Stage::Decode });
        }
        let latents = finite(latents, Stage::Denoise)?;
        Ok(PaintedPair {
            pictures: [self.decode(&latents, 0)?, self.decode(&latents, 1)?],
            threshold: draw.threshold,
            guidance: draw.guidance_scale,
        })
    }

    /// Threshold and guidance of a seed: [`Self::paint`] draws the same.
    pub fn drawn(&self, seed: u64) -> Result<(f32, f32), AgentError> {
        let draw = self.draw(&mut Generator::new(seed))?;
        Ok((draw.threshold, draw.guidance_scale))
    }

    fn draw(&self, generator: &mut Generator) -> Result<Draw, AgentError> {
        let side = |i: usize| self.settings.size[i] as usize / self.codec.spatial_factor();
        let shape = (self.codec.latent_channels(), side(1), side(0));
        let draw = Draw::new(generator, shape, &self.settings.ranges());
        draw.map_err(AgentError::compute(Stage::Denoise))
    }

    fn decode(&self, latents: &Tensor, which: usize) -> Result<RgbImage, AgentError> {
        let _exact = PrecisionScope::new(Precision::F32);
        let one = latents.narrow(0, which, 1).and_then(|one| one.contiguous());
        let one = one.map_err(AgentError::compute(Stage::Decode))?;
        Ok(to_pixels(&*self.codec, &one, Stage::Decode)?.to_rgb())
    }
}
