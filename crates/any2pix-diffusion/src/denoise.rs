//! The denoising loop, over any predictor and any scheduler.

use any2pix_nn::Generator;
use candle_core::{Result, Tensor};

use crate::schedulers::Scheduler;

/// What a loop asks at every step.
pub trait NoisePredictor {
    /// The network's output for `sample` at `timestep`, of the type the scheduler was told.
    ///
    /// # Shapes
    /// `sample` `(b, c, h, w)` → the same.
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor>;
}

impl<P: NoisePredictor + ?Sized> NoisePredictor for &P {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        (**self).predict(sample, timestep)
    }
}

impl<P: NoisePredictor + ?Sized> NoisePredictor for Box<P> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        (**self).predict(sample, timestep)
    }
}

/// Where the noise comes from that some steps add.
pub trait NoiseSource {
    /// Standard normal noise for the next step that adds some.
    ///
    /// # Shapes
    /// As `sample`.
    fn next_like(&mut self, sample: &Tensor) -> Result<Tensor>;
}

impl NoiseSource for Generator {
    fn next_like(&mut self, sample: &Tensor) -> Result<Tensor> {
        self.randn_like(sample)?.to_dtype(sample.dtype())
    }
}

impl<N: NoiseSource + ?Sized> NoiseSource for &mut N {
    fn next_like(&mut self, sample: &Tensor) -> Result<Tensor> {
        (**self).next_like(sample)
    }
}

/// What the loop shows after each step.
pub struct Progress<'a> {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub steps: usize,
    /// The sample after this step.
    pub sample: &'a Tensor,
    /// The original sample as this step predicted it.
    pub pred_original_sample: &'a Tensor,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Take the next step.
    Continue,
    /// Return the sample as it is.
    Stop,
}

/// Denoises `latents` from step `start` on; steps that add noise take it from `noise`.
///
/// # Shapes
/// `latents` `(b, c, h, w)`, already at the noise level of step `start` → the same.
pub fn denoise(
    predictor: &impl NoisePredictor,
    scheduler: &dyn Scheduler,
    latents: Tensor,
    start: usize,
    noise: &mut impl NoiseSource,
    mut watch: impl FnMut(Progress) -> Flow,
) -> Result<Tensor> {
    let steps = scheduler.timesteps().len();
    let mut sample = latents;
    for (index, &timestep) in scheduler.timesteps().iter().enumerate().skip(start) {
        let input = scheduler.scale_model_input(&sample, index)?;
        let model_output = predictor.predict(&input, timestep)?;
        let fresh = match scheduler.uses_noise(index) {
            true => Some(noise.next_like(&sample)?),
            false => None,
        };
        let output = scheduler.step(&model_output, index, &sample, fresh.as_ref())?;
        sample = output.prev_sample;
        let progress = Progress {
            done: index + 1,
            steps,
            sample: &sample,
            pred_original_sample: &output.pred_original_sample,
        };
        if watch(progress) == Flow::Stop {
            break;
        }
    }
    Ok(sample)
}

/// A start in the middle, as image-to-image does: the index of the first step kept when only
/// `strength` of all steps are taken.
pub fn first_step(steps: usize, strength: f64) -> usize {
    steps - ((steps as f64 * strength.clamp(0.0, 1.0)) as usize).min(steps)
}

/// Image to image: `latents` are noised to the level of the first of the last `strength` of all
/// steps, and denoised from there. With a strength of less than one step they come back as they
/// are.
///
/// # Shapes
/// `latents`, `noise` `(b, c, h, w)` → the same.
pub fn image_to_image(
    predictor: &impl NoisePredictor,
    scheduler: &dyn Scheduler,
    (latents, noise): (&Tensor, &Tensor),
    strength: f64,
    generator: &mut Generator,
    watch: impl FnMut(Progress) -> Flow,
) -> Result<Tensor> {
    let steps = scheduler.timesteps().len();
    let start = first_step(steps, strength);
    if start == steps {
        return Ok(latents.clone());
    }
    let noised = scheduler.add_noise(latents, noise, start)?;
    denoise(predictor, scheduler, noised, start, generator, watch)
}
