//! `EulerAncestralDiscreteScheduler`: Euler steps that overshoot, then add fresh noise.

use candle_core::{Result, Tensor};

use super::euler_discrete::Sigmas;
use super::{PredictionType, Scheduler, SchedulerConfig, SchedulerOutput, lerp};
use crate::DiffusionError;

/// InstructPix2Pix' own sampler.
#[derive(Clone, Debug)]
pub struct EulerAncestralDiscreteScheduler {
    sigmas: Sigmas,
}

impl EulerAncestralDiscreteScheduler {
    /// With `steps` steps.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        Ok(Self { sigmas: Sigmas::new(config, steps)? })
    }

    /// σ at every step, and the final 0.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas.sigmas
    }
}

impl Scheduler for EulerAncestralDiscreteScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.sigmas.timesteps
    }

    fn prediction_type(&self) -> PredictionType {
        self.sigmas.prediction_type
    }

    fn init_noise_sigma(&self) -> f64 {
        self.sigmas.init_noise_sigma
    }

    fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        self.sigmas.scale(sample, index)
    }

    fn uses_noise(&self, index: usize) -> bool {
        self.sigmas.pair(index).1 > 0.0
    }

    fn step(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<SchedulerOutput> {
        let (from, to) = self.sigmas.pair(index);
        let original = self.sigmas.original(model_output, index, sample)?;
        let variance =
            if from > 0.0 { to * to * (from * from - to * to) / (from * from) } else { 0.0 };
        let down = (to * to - variance).max(0.0).sqrt();
        let ratio = if from > 0.0 { down / from } else { 0.0 };
        let mut prev_sample = lerp(sample, ratio, &original, 1.0 - ratio)?;
        if let (Some(noise), true) = (noise, variance > 0.0) {
            prev_sample = (prev_sample + (noise * variance.sqrt())?)?;
        }
        Ok(SchedulerOutput { prev_sample, pred_original_sample: original })
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        lerp(original, 1.0, noise, self.sigmas.pair(index).0)
    }
}
