//! `LCMScheduler`: few-step sampling of latent consistency models.

use candle_core::{Result, Tensor};

use super::{
    AlphaBars, PredictionType, Scheduler, SchedulerConfig, SchedulerOutput, clip, lerp, mix_noise,
    split_prediction,
};
use crate::DiffusionError;

/// Every step jumps to the picture and adds noise again.
#[derive(Clone, Debug)]
pub struct LCMScheduler {
    config: SchedulerConfig,
    alphas: AlphaBars,
    timesteps: Vec<f64>,
}

impl LCMScheduler {
    /// With `steps` steps of the `original_inference_steps` that the model was distilled on.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        config.check(steps)?;
        let origin = config.original_inference_steps;
        if steps > origin || origin > config.num_train_timesteps {
            return Err(DiffusionError::Unsupported {
                component: "LCMScheduler",
                key: "num_inference_steps",
                value: format!("{steps} of {origin}"),
            });
        }
        let stride = config.num_train_timesteps / origin;
        let timesteps =
            (0..steps).map(|i| ((origin - i * origin / steps) * stride) as f64 - 1.0).collect();
        Ok(Self { alphas: AlphaBars::new(config), timesteps, config: config.clone() })
    }
}

impl Scheduler for LCMScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn prediction_type(&self) -> PredictionType {
        self.config.prediction_type
    }

    fn uses_noise(&self, index: usize) -> bool {
        index + 1 < self.timesteps.len()
    }

    fn step(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<SchedulerOutput> {
        const SIGMA_DATA: f64 = 0.5;
        let timestep = self.timesteps.get(index).copied().unwrap_or_default();
        let prediction = split_prediction(
            self.config.prediction_type,
            model_output,
            sample,
            self.alphas.at(timestep),
        )?;
        let original = clip(&self.config, prediction.original)?;
        let scaled = timestep * self.config.timestep_scaling;
        let whole = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (c_skip, c_out) = (SIGMA_DATA * SIGMA_DATA / whole, scaled / whole.sqrt());
        let denoised = lerp(&original, c_out, sample, c_skip)?;
        let prev_sample = match (self.timesteps.get(index + 1), noise) {
            (Some(next), Some(noise)) => mix_noise(&denoised, noise, self.alphas.at(*next))?,
            (Some(next), None) => (&denoised * self.alphas.at(*next).sqrt())?,
            (None, _) => denoised.clone(),
        };
        Ok(SchedulerOutput { prev_sample, pred_original_sample: denoised })
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        let timestep = self.timesteps.get(index).copied().unwrap_or_default();
        mix_noise(original, noise, self.alphas.at(timestep))
    }
}
