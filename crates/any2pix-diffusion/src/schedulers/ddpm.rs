//! `DDPMScheduler`: ancestral sampling (Ho et al. 2020) with the smaller fixed variance.

use candle_core::{Result, Tensor};

use super::config::TimestepSpacing;
use super::{
    AlphaBars, PredictionType, Scheduler, SchedulerConfig, SchedulerOutput, clip, lerp, mix_noise,
    split_prediction,
};
use crate::DiffusionError;

/// What the prior samples with.
#[derive(Clone, Debug)]
pub struct DDPMScheduler {
    config: SchedulerConfig,
    alphas: AlphaBars,
    timesteps: Vec<f64>,
    stride: usize,
}

impl DDPMScheduler {
    /// With `steps` steps.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        config.check(steps)?;
        let timesteps = config.timesteps(steps, TimestepSpacing::Leading);
        Ok(Self {
            // DDPM ends at ᾱ = 1 whatever `set_alpha_to_one` says
            alphas: AlphaBars { last: 1.0, ..AlphaBars::new(config) },
            timesteps: timesteps.into_iter().map(f64::round_ties_even).collect(),
            stride: config.num_train_timesteps / steps,
            config: config.clone(),
        })
    }

    /// ᾱ at step `index`.
    pub fn alpha_bar(&self, index: usize) -> f64 {
        self.alphas.at(self.timesteps.get(index).copied().unwrap_or_default())
    }
}

impl Scheduler for DDPMScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn prediction_type(&self) -> PredictionType {
        self.config.prediction_type
    }

    fn uses_noise(&self, index: usize) -> bool {
        self.timesteps.get(index).is_some_and(|t| *t > 0.0)
    }

    fn step(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<SchedulerOutput> {
        let timestep = self.timesteps.get(index).copied().unwrap_or_default();
        let alpha_bar = self.alphas.at(timestep);
        let alpha_bar_prev = self.alphas.at(timestep - self.stride as f64);
        let alpha = alpha_bar / alpha_bar_prev;
        let original =
            split_prediction(self.config.prediction_type, model_output, sample, alpha_bar)?
                .original;
        let original = clip(&self.config, original)?;
        // formula (7) of the paper
        let rest = 1.0 - alpha_bar;
        let towards_original = alpha_bar_prev.sqrt() * (1.0 - alpha) / rest;
        let towards_sample = alpha.sqrt() * (1.0 - alpha_bar_prev) / rest;
        let mut prev_sample = lerp(&original, towards_original, sample, towards_sample)?;
        if let (Some(noise), true) = (noise, timestep > 0.0) {
            let variance = ((1.0 - alpha_bar_prev) / rest * (1.0 - alpha)).max(1e-20);
            prev_sample = (prev_sample + (noise * variance.sqrt())?)?;
        }
        Ok(SchedulerOutput { prev_sample, pred_original_sample: original })
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        mix_noise(original, noise, self.alpha_bar(index))
    }
}
