//! `DDIMInverseScheduler`: DDIM run backwards, from a picture to the noise that leads to it.

use candle_core::{Result, Tensor};

use super::config::TimestepSpacing;
use super::{AlphaBars, Prediction, PredictionType, SchedulerConfig, lerp, split_prediction};
use crate::DiffusionError;

/// Visits the timesteps of [`super::DDIMScheduler`] in ascending order.
#[derive(Clone, Debug)]
pub struct DDIMInverseScheduler {
    prediction_type: PredictionType,
    alphas: AlphaBars,
    timesteps: Vec<f64>,
}

impl DDIMInverseScheduler {
    /// With `steps` steps.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        config.check(steps)?;
        let mut timesteps: Vec<f64> = config
            .timesteps(steps, TimestepSpacing::Leading)
            .into_iter()
            .map(f64::round_ties_even)
            .collect();
        timesteps.reverse();
        let alphas = AlphaBars::new(config);
        Ok(Self { prediction_type: config.prediction_type, alphas, timesteps })
    }

    /// Ascending.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// ᾱ of every training timestep.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas.bars
    }

    /// ᾱ of the level before the first timestep.
    pub fn final_alpha_cumprod(&self) -> f64 {
        self.alphas.last
    }

    /// From the level before `timesteps()[index]` up to it. The network is asked at
    /// `timesteps()[index]` on the less noisy sample, as the published pipeline does; its output
    /// is read at the level at which the sample stands.
    pub fn step(&self, model_output: &Tensor, index: usize, sample: &Tensor) -> Result<Tensor> {
        let (alpha_prev, alpha) = self.levels(index);
        let Prediction { original, epsilon } =
            split_prediction(self.prediction_type, model_output, sample, alpha_prev)?;
        lerp(&original, alpha.sqrt(), &epsilon, (1.0 - alpha).sqrt())
    }

    /// The same step with a prediction that was made at `timesteps()[index]` on `result`, an
    /// estimate of this step's result: what a fixed-point iteration repeats.
    pub fn step_at_result(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
        result: &Tensor,
    ) -> Result<Tensor> {
        let (alpha_prev, alpha) = self.levels(index);
        let epsilon = split_prediction(self.prediction_type, model_output, result, alpha)?.epsilon;
        let ratio = (alpha / alpha_prev).sqrt();
        let rise = (1.0 - alpha).sqrt() - ratio * (1.0 - alpha_prev).sqrt();
        lerp(sample, ratio, &epsilon, rise)
    }

    /// ᾱ before step `index`, and after it.
    fn levels(&self, index: usize) -> (f64, f64) {
        let at = |i: usize| self.alphas.at(self.timesteps.get(i).copied().unwrap_or_default());
        (if index == 0 { self.alphas.last } else { at(index - 1) }, at(index))
    }
}
