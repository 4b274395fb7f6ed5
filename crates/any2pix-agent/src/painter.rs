//! `Painter`: a window's pixels to latents, denoised under a condition, and back to pixels.

use any2pix_diffusion::denoise::{Flow, NoisePredictor, denoise, first_step};
use any2pix_diffusion::draft::to_latent_mask;
use any2pix_diffusion::guidance::ClassifierFreeGuidance;
use any2pix_diffusion::inversion::invert;
use any2pix_diffusion::ip_adapter::AdaptedUNet;
use any2pix_diffusion::latents::polar_interpolate;
use any2pix_diffusion::schedulers::{self, DDIMInverseScheduler, Scheduler, SchedulerConfig};
use any2pix_diffusion::source_decoder::{PriorDeviations, SourceDecoder, SourceWindow};
use any2pix_diffusion::unet::{ConditionedUNet, UNetConditions};
use any2pix_diffusion::{Autoencoder, DiffusionError};
use any2pix_nn::Generator;
use candle_core::{D, DType, Device, Result, Tensor};

use crate::conditioning::Condition;
use crate::error::AgentError;
use crate::planes::{Pixels, Plane};
use crate::progress::Stage;
use crate::run::Run;
use crate::settings::{Decoder, EditSettings};

/// The parts that paint.
pub struct Painter {
    /// Pixels to latents and back.
    pub vae: Box<dyn Autoencoder + Send + Sync>,
    /// What denoises, with source channels or without, and its adapter.
    pub model: AdaptedUNet,
    /// The noise schedule.
    pub scheduler: SchedulerConfig,
}

/// What to paint.
pub struct Brief {
    /// What is there, at the painter's resolution.
    pub source: Pixels,
    /// What an edit without any network would look like: a hole filled, a reference laid. The
    /// source itself when nothing is known.
    pub draft: Pixels,
    /// Where the draft shows something that the source does not, 0 to 1.
    pub drafted: Plane,
    /// Where something may change, 0 to 1.
    pub region: Plane,
    /// How sure the draft is.
    pub deviations: PriorDeviations,
    /// What the picture and the object shall be.
    pub condition: Condition,
}

/// What was painted.
pub struct Painting {
    /// The draft, through the codec.
    pub draft: Pixels,
    /// The result.
    pub result: Pixels,
}

impl Painter {
    /// The UNet's latents of pixels.
    ///
    /// # Shapes
    /// → `(1, c, h/f, w/f)`.
    fn latents(&self, pixels: &Pixels) -> Result<Tensor> {
        self.vae.image_to_latents(&pixels.tensor(&Device::Cpu)?, None)
    }

    fn pixels(&self, latents: &Tensor) -> Result<Pixels> {
        Pixels::from_tensor(&self.vae.latents_to_image(latents)?)
    }

    /// Conditions of `[unconditional, conditional]`, or of the conditional alone.
    fn conditions(
        &self,
        Condition { picture, subject }: &Condition,
        guided: bool,
        side: usize,
    ) -> Result<UNetConditions> {
        let size = (side, side);
        if guided {
            self.model.guided_conditions(picture, subject, size, 1.0)
        } else {
            self.model.conditions(picture, subject, size, 1.0)
        }
    }

    /// Paints a window.
    pub fn paint(
        &self,
        brief: &Brief,
        settings: &EditSettings,
        generator: &mut Generator,
        run: &mut Run,
    ) -> std::result::Result<Painting, AgentError> {
        let scheduler = schedulers::from_config(&self.scheduler, settings.steps)
            .map_err(|error| self.misfit(error))?;
        let (source, draft) = run.stage(Stage::Invert, |_| {
            let latents = || Ok((self.latents(&brief.source)?, self.latents(&brief.draft)?));
            latents().map_err(AgentError::compute(Stage::Invert))
        })?;
        let latents = match settings.decoder {
            Decoder::Source => {
                let start = (source.clone(), draft.clone());
                self.paint_over(brief, start, scheduler.as_ref(), settings, generator, run)?
            }
            Decoder::Inversion => {
                self.paint_inverted(brief, &source, scheduler.as_ref(), settings, generator, run)?
            }
        };
        run.stage(Stage::Decode, |_| {
            let decode =
                || Ok(Painting { draft: self.pixels(&draft)?, result: self.pixels(&latents)? });
            let painting: Painting = decode().map_err(AgentError::compute(Stage::Decode))?;
            if painting.result.is_finite() {
                Ok(painting)
            } else {
                Err(AgentError::NotFinite { stage: Stage::Decode })
            }
        })
    }

    /// The source stands in extra channels; the draft is where the UNet's answer starts from.
    fn paint_over(
        &self,
        brief: &Brief,
        (source, draft): (Tensor, Tensor),
        scheduler: &dyn Scheduler,
        settings: &EditSettings,
        generator: &mut Generator,
        run: &mut Run,
    ) -> std::result::Result<Tensor, AgentError> {
        let guided = settings.guidance != 1.0;
        let factor = self.vae.spatial_factor();
        let mut prepare = || {
            let mask = |plane: &Plane| to_latent_mask(&plane.tensor(&Device::Cpu)?, factor);
            let drafted = mask(&brief.drafted)?;
            let reference = draft.broadcast_mul(&drafted.gt(0.0)?.to_dtype(DType::F32)?)?;
            let region = mask(&brief.region)?;
            let window =
                SourceWindow::new(source.clone(), reference, region, drafted, &[brief.deviations])?;
            let noise = generator.randn_like(&source)?;
            let start = first_step(settings.steps, 1.0 - settings.alpha());
            let latents = match start {
                0 => noise,
                _ => scheduler.add_noise(&window.mean()?, &noise, start.min(settings.steps - 1))?,
            };
            let window = if guided { window.repeat(2)? } else { window };
            let conditions = self.conditions(&brief.condition, guided, brief.source.0[0].width)?;
            Ok((window, conditions, latents, start.min(settings.steps - 1)))
        };
        let (window, conditions, latents, start) =
            prepare().map_err(AgentError::compute(Stage::Denoise))?;
        let alphas_cumprod = self.scheduler.alphas_cumprod();
        let decoder = SourceDecoder { unet: &self.model.unet, conditions, window, alphas_cumprod };
        let mut task = Denoising { scheduler, start, generator, run };
        task.guide(decoder, settings.guidance, latents)
    }

    /// The published method: the source is inverted under no condition, mixed with noise, and
    /// denoised under the condition.
    fn paint_inverted(
        &self,
        brief: &Brief,
        source: &Tensor,
        scheduler: &dyn Scheduler,
        settings: &EditSettings,
        generator: &mut Generator,
        run: &mut Run,
    ) -> std::result::Result<Tensor, AgentError> {
        let guided = settings.guidance != 1.0;
        let side = brief.source.0[0].width;
        let inverted = run.stage(Stage::Invert, |run| {
            let inverse = DDIMInverseScheduler::new(&self.scheduler, settings.steps)
                .map_err(|error| self.misfit(error))?;
            let mut invert_all = || {
                let zero = brief.condition.picture.zeros_like()?;
                let nothing = Condition { subject: zero.clone(), picture: zero };
                let conditions = self.conditions(&nothing, false, side)?;
                let predictor = ConditionedUNet { unet: &self.model.unet, conditions };
                invert(&predictor, &inverse, source, settings.inversion(), |done, _| {
                    run.step(done, settings.steps);
                    flow(run)
                })
            };
            invert_all().map_err(AgentError::compute(Stage::Invert))
        })?;
        let mut prepare = || {
            let noise = generator.randn_like(source)?;
            let latents = polar_interpolate(&inverted, &noise, settings.alpha())?;
            Ok((latents, self.conditions(&brief.condition, guided, side)?))
        };
        let (latents, conditions) = prepare().map_err(AgentError::compute(Stage::Denoise))?;
        let predictor = ConditionedUNet { unet: &self.model.unet, conditions };
        let mut task = Denoising { scheduler, start: 0, generator, run };
        task.guide(predictor, settings.guidance, latents)
    }

    /// SDEdit: the source under `strength` of the noise, denoised under a condition; nothing but
    /// that noise hides the source.
    pub fn paint_noised(
        &self,
        (source, condition, strength): (&Pixels, &Condition, f64),
        settings: &EditSettings,
        generator: &mut Generator,
        run: &mut Run,
    ) -> std::result::Result<Pixels, AgentError> {
        let scheduler = schedulers::from_config(&self.scheduler, settings.steps)
            .map_err(|error| self.misfit(error))?;
        let start = first_step(settings.steps, strength);
        let prepare = |generator: &mut Generator| {
            let latents = self.latents(source)?;
            let noise = generator.randn_like(&latents)?;
            if start == settings.steps {
                return Ok(latents);
            }
            scheduler.add_noise(&latents, &noise, start)
        };
        let latents = run.stage(Stage::Invert, |_| {
            prepare(generator).map_err(AgentError::compute(Stage::Invert))
        })?;
        let guided = settings.guidance != 1.0;
        let conditions = self
            .conditions(condition, guided, source.0[0].width)
            .map_err(AgentError::compute(Stage::Denoise))?;
        let predictor = ConditionedUNet { unet: &self.model.unet, conditions };
        let mut task = Denoising { scheduler: scheduler.as_ref(), start, generator, run };
        let latents = task.guide(predictor, settings.guidance, latents)?;
        run.stage(Stage::Decode, |_| {
            self.pixels(&latents).map_err(AgentError::compute(Stage::Decode))
        })
    }

    fn misfit(&self, error: DiffusionError) -> AgentError {
        AgentError::Weights { component: "scheduler".to_string(), error: Box::new(error) }
    }
}

/// Whether a loop goes on.
pub(crate) fn flow(run: &Run) -> Flow {
    if run.is_cancelled() { Flow::Stop } else { Flow::Continue }
}

/// A denoising loop that is about to begin.
struct Denoising<'a, 'b> {
    scheduler: &'a dyn Scheduler,
    start: usize,
    generator: &'a mut Generator,
    run: &'a mut Run<'b>,
}

impl Denoising<'_, '_> {
    /// [`Denoising::finish`] under classifier-free guidance, for which `predictor` has a batch of
    /// two; a scale of 1 is no guidance.
    fn guide(
        &mut self,
        predictor: impl NoisePredictor,
        guidance_scale: f64,
        latents: Tensor,
    ) -> std::result::Result<Tensor, AgentError> {
        if guidance_scale == 1.0 {
            return self.finish(&predictor, latents);
        }
        let guided = ClassifierFreeGuidance { predictor, guidance_scale, guidance_rescale: 0.0 };
        self.finish(&guided, latents)
    }

    fn finish(
        &mut self,
        predictor: &impl NoisePredictor,
        latents: Tensor,
    ) -> std::result::Result<Tensor, AgentError> {
        let Self { scheduler, start, generator, run } = self;
        let latents = run.stage(Stage::Denoise, |run| {
            denoise(predictor, *scheduler, latents, *start, generator, |progress| {
                run.step(progress.done, progress.steps);
                flow(run)
            })
            .map_err(AgentError::compute(Stage::Denoise))
        })?;
        run.continue_or_stop(Stage::Decode)?;
        let largest = latents.abs().and_then(|t| t.flatten_all()?.max(D::Minus1)?.to_scalar());
        let largest: f32 = largest.map_err(AgentError::compute(Stage::Denoise))?;
        if largest.is_finite() {
            Ok(latents)
        } else {
            Err(AgentError::NotFinite { stage: Stage::Denoise })
        }
    }
}
