//! The long stages: from the source's latents to noise, from noise to a picture, and once more
//! over the picture.

use any2pix_diffusion::denoise::{Flow, NoisePredictor, denoise, first_step, image_to_image};
use any2pix_diffusion::guidance::ClassifierFreeGuidance;
use any2pix_diffusion::inversion::invert;
use any2pix_diffusion::ip_adapter::AdaptedUNet;
use any2pix_diffusion::latents::polar_interpolate;
use any2pix_diffusion::schedulers::{self, DDIMInverseScheduler, Scheduler, SchedulerConfig};
use any2pix_diffusion::sdxl::{
    ImageCondition, TimeIds, guided_conditions, inversion_conditions, plain_conditions,
    refiner_conditions,
};
use any2pix_diffusion::unet::ConditionedUNet;
use any2pix_diffusion::{Autoencoder, TokenMode};
use any2pix_nn::Generator;
use any2pix_nn::ops::{Precision, PrecisionScope};
use candle_core::{Device, Result as TensorResult, Tensor};
use image::RgbImage;

use super::canvas::Canvas;
use super::compat::Quirks;
use super::parts::Parts;
use super::prompt::Prompts;
use crate::error::AgentError;
use crate::full_size::{finite, misfit, to_pixels};
use crate::painter::flow;
use crate::planes::Pixels;
use crate::progress::Stage;
use crate::run::Run;
use crate::settings::{EditSettings, Sampler};

type Result<T> = std::result::Result<T, AgentError>;

/// Scale at which a fresh published program has its adapter while it inverts.
const SCALE_IN_INVERSION: f64 = 1.0;
/// Steps up to noise that a distilled model's few steps down start from, at least.
const LEAST_INVERSION: usize = 10;

/// What is painted, and how.
pub(super) struct Painting<'a> {
    pub(super) parts: &'a Parts,
    pub(super) settings: &'a EditSettings,
    pub(super) quirks: Quirks,
    pub(super) canvas: Canvas,
    pub(super) prompts: &'a Prompts,
    /// `(1, e)`.
    pub(super) condition: &'a Tensor,
}

impl Painting<'_> {
    /// Chance for one purpose; none depends on what was drawn for another.
    fn chance(&self, purpose: &str) -> Generator {
        Generator::new(self.settings.seed).fork(purpose)
    }

    fn ids(&self) -> TimeIds {
        TimeIds { size: self.canvas.height_and_width(), aesthetic_score: None }
    }

    /// Shape of the latents.
    fn shape(&self) -> Result<(usize, usize, usize, usize)> {
        let (channels, factor) = self.parts.latent_shape()?;
        let (height, width) = self.canvas.height_and_width();
        Ok((1, channels, height / factor, width / factor))
    }

    /// The UNet's latents of a picture of the canvas' size; the codec is dropped.
    fn latents(&self, picture: &RgbImage, refiner: bool, stage: Stage) -> Result<Tensor> {
        let _exact = PrecisionScope::new(Precision::F32);
        let codec = self.parts.codec(refiner)?;
        let encode = || -> TensorResult<Tensor> {
            let image = Pixels::from_rgb(picture).tensor(&Device::Cpu)?;
            let distribution = codec.encode(&image)?;
            let latents = match self.quirks.sampled_posterior {
                true => {
                    let purpose = if refiner { "refiner posterior" } else { "posterior" };
                    let noise = self.chance(purpose).randn_like(&distribution.mean)?;
                    distribution.sample(&noise)?
                }
                false => distribution.mean,
            };
            (latents - codec.shift_factor())? * codec.scaling_factor()
        };
        encode().map_err(AgentError::compute(stage))
    }

    /// The picture of latents; the codec is dropped.
    pub(super) fn decode(&self, latents: &Tensor, refiner: bool, stage: Stage) -> Result<RgbImage> {
        let _exact = PrecisionScope::new(Precision::F32);
        let codec = self.parts.codec(refiner)?;
        Ok(to_pixels(&codec, latents, stage)?.to_rgb())
    }

    /// The source's latents; `None` when nothing of them would be seen.
    pub(super) fn source_latents(&self, source: Option<&RgbImage>) -> Result<Option<Tensor>> {
        let seen = source.filter(|_| self.settings.alpha() > 0.0);
        seen.map(|s| self.latents(&self.canvas.take(s), false, Stage::Invert)).transpose()
    }

    /// The noise that denoises into `latents`.
    pub(super) fn invert(
        &self,
        unet: &AdaptedUNet,
        latents: &Tensor,
        run: &mut Run,
    ) -> Result<Tensor> {
        let steps = match self.settings.sampler {
            Sampler::Lcm => self.settings.steps.max(LEAST_INVERSION),
            _ => self.settings.steps,
        };
        let config = self.parts.scheduler(false)?;
        let inverse = DDIMInverseScheduler::new(&config, steps).map_err(misfit("scheduler"))?;
        let tokens = unet.image_proj.tokens_per_embedding();
        let quirk = self.quirks.image_tokens_in_inversion.then_some((tokens, SCALE_IN_INVERSION));
        let mut invert_all = || {
            let conditions = inversion_conditions(&self.prompts.empty, self.ids(), quirk)?;
            let predictor = ConditionedUNet { unet: &unet.unet, conditions };
            invert(&predictor, &inverse, latents, self.settings.inversion(), |done, _| {
                run.step(done, steps);
                flow(run)
            })
        };
        let inverted = invert_all().map_err(AgentError::compute(Stage::Invert))?;
        run.continue_or_stop(Stage::Mix)?;
        finite(inverted, Stage::Invert)
    }

    /// Inverted latents and noise; noise alone where there is no source.
    pub(super) fn mix(&self, inverted: Option<Tensor>) -> Result<Tensor> {
        let mix = |shape| -> TensorResult<Tensor> {
            let noise = self.chance("noise").randn(shape, &Device::Cpu)?;
            match &inverted {
                Some(inverted) => polar_interpolate(inverted, &noise, self.settings.alpha()),
                None => Ok(noise),
            }
        };
        mix(self.shape()?).map_err(AgentError::compute(Stage::Mix))
    }

    /// Denoises `start` under prompt and condition.
    pub(super) fn denoise(
        &self,
        unet: &AdaptedUNet,
        start: &Tensor,
        run: &mut Run,
    ) -> Result<Tensor> {
        let class_name = Some(self.settings.sampler.class_name().to_string());
        let config = SchedulerConfig { class_name, ..self.parts.scheduler(false)? };
        let scheduler =
            schedulers::from_config(&config, self.settings.steps).map_err(misfit("scheduler"))?;
        let mut work = || -> TensorResult<Tensor> {
            let predictor = self.predictor(unet)?;
            let start = (start * scheduler.init_noise_sigma())?;
            let mut chance = self.chance("steps");
            denoise(&predictor, &*scheduler, start, 0, &mut chance, |progress| {
                run.step(progress.done, progress.steps);
                flow(run)
            })
        };
        let latents = work().map_err(AgentError::compute(Stage::Denoise))?;
        run.continue_or_stop(Stage::Decode)?;
        finite(latents, Stage::Denoise)
    }

    /// The UNet under prompt and condition, guided unless the guidance is 1.
    fn predictor<'u>(&self, unet: &'u AdaptedUNet) -> TensorResult<Box<dyn NoisePredictor + 'u>> {
        let nobody = self.condition.zeros_like()?;
        let image = Some(ImageCondition {
            projection: &unet.image_proj,
            global: self.condition,
            local: &nobody,
            mode: TokenMode::Global,
            local_scale: 0.5,
            scale: self.settings.image_scale,
        });
        let Prompts { negative, positive, .. } = self.prompts;
        let unet = &unet.unet;
        if self.settings.guidance == 1.0 {
            let conditions = plain_conditions(positive, self.ids(), image.as_ref())?;
            return Ok(Box::new(ConditionedUNet { unet, conditions }));
        }
        let ids = [self.ids(); 2];
        let conditions = guided_conditions(negative, positive, ids, image.as_ref())?;
        Ok(Box::new(ClassifierFreeGuidance {
            predictor: ConditionedUNet { unet, conditions },
            guidance_scale: self.settings.guidance,
            guidance_rescale: 0.0,
        }))
    }

    /// Whether the refiner would take a step.
    pub(super) fn wants_polish(&self) -> bool {
        let steps = self.parts.index.refiner.steps;
        first_step(steps, self.settings.refinement) < steps
    }

    /// The refiner's picture of a picture: noised a little, and denoised by another UNet.
    pub(super) fn polish(&self, picture: &RgbImage, run: &mut Run) -> Result<RgbImage> {
        let latents = self.latents(picture, true, Stage::Polish)?;
        let class_name = Some(Sampler::Euler.class_name().to_string());
        let config = SchedulerConfig { class_name, ..self.parts.scheduler(true)? };
        let used = self.parts.index.refiner;
        let scheduler =
            schedulers::from_config(&config, used.steps).map_err(misfit("scheduler"))?;
        let refined = self.refine(&latents, &*scheduler, run)?;
        run.continue_or_stop(Stage::Compose)?;
        self.decode(&finite(refined, Stage::Polish)?, true, Stage::Polish)
    }

    fn refine(&self, latents: &Tensor, scheduler: &dyn Scheduler, run: &mut Run) -> Result<Tensor> {
        let unet = self.parts.refiner()?;
        let strength = self.settings.refinement;
        let first = first_step(scheduler.timesteps().len(), strength);
        let [nothing, prompt] = &self.prompts.refiner;
        let mut work = || -> TensorResult<Tensor> {
            let size = self.canvas.height_and_width();
            let guided = ClassifierFreeGuidance {
                predictor: ConditionedUNet {
                    unet: &unet,
                    conditions: refiner_conditions(nothing, prompt, size)?,
                },
                guidance_scale: self.parts.index.refiner.guidance,
                guidance_rescale: 0.0,
            };
            let noise = self.chance("refiner noise").randn_like(latents)?;
            let mut chance = self.chance("refiner steps");
            let watch = |progress: any2pix_diffusion::denoise::Progress| -> Flow {
                run.step(progress.done - first, progress.steps - first);
                flow(run)
            };
            image_to_image(&guided, scheduler, (latents, &noise), strength, &mut chance, watch)
        };
        work().map_err(AgentError::compute(Stage::Polish))
    }
}
