//! `DDIMScheduler`: denoising diffusion implicit models (Song et al. 2021).

use candle_core::{Result, Tensor};

use super::config::TimestepSpacing;
use super::{
    AlphaBars, Prediction, PredictionType, Scheduler, SchedulerConfig, SchedulerOutput, clip,
    mix_noise, split_prediction,
};
use crate::DiffusionError;

/// Deterministic with η = 0, the default.
#[derive(Clone, Debug)]
pub struct DDIMScheduler {
    config: SchedulerConfig,
    alphas: AlphaBars,
    timesteps: Vec<f64>,
    stride: usize,
    eta: f64,
}

impl DDIMScheduler {
    /// With `steps` steps.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        config.check(steps)?;
        let timesteps = config.timesteps(steps, TimestepSpacing::Leading);
        Ok(Self {
            alphas: AlphaBars::new(config),
            timesteps: timesteps.into_iter().map(f64::round_ties_even).collect(),
            stride: config.num_train_timesteps / steps,
            config: config.clone(),
            eta: 0.0,
        })
    }

    /// η > 0 adds noise at every step; 1 is ancestral sampling.
    pub fn with_eta(mut self, eta: f64) -> Self {
        self.eta = eta;
        self
    }

    /// ᾱ at step `index`, and at the one after it.
    pub fn alpha_bars(&self, index: usize) -> (f64, f64) {
        let timestep = self.timesteps.get(index).copied().unwrap_or_default();
        (self.alphas.at(timestep), self.alphas.at(timestep - self.stride as f64))
    }
}

impl Scheduler for DDIMScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn prediction_type(&self) -> PredictionType {
        self.config.prediction_type
    }

    fn uses_noise(&self, _index: usize) -> bool {
        self.eta > 0.0
    }

    fn step(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<SchedulerOutput> {
        let (alpha, alpha_prev) = self.alpha_bars(index);
        let Prediction { original, epsilon } =
            split_prediction(self.config.prediction_type, model_output, sample, alpha)?;
        let original = clip(&self.config, original)?;
        // formulas (12) and (16) of the paper
        let variance = (1.0 - alpha_prev) / (1.0 - alpha) * (1.0 - alpha / alpha_prev);
        let deviation = self.eta * variance.max(0.0).sqrt();
        let towards = (1.0 - alpha_prev - deviation * deviation).max(0.0).sqrt();
        let mut prev_sample = super::lerp(&original, alpha_prev.sqrt(), &epsilon, towards)?;
        if let (Some(noise), true) = (noise, deviation > 0.0) {
            prev_sample = (prev_sample + (noise * deviation)?)?;
        }
        Ok(SchedulerOutput { prev_sample, pred_original_sample: original })
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        mix_noise(original, noise, self.alpha_bars(index).0)
    }
}
