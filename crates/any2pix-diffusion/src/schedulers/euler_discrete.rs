//! `EulerDiscreteScheduler`: Euler steps of the probability-flow ODE in σ (Karras et al. 2022).

use candle_core::{Result, Tensor};

use super::config::{SigmaInterpolation, TimestepSpacing};
use super::{PredictionType, Scheduler, SchedulerConfig, SchedulerOutput, lerp};
use crate::DiffusionError;

/// σ = √((1-ᾱ)/ᾱ) at the visited timesteps, and 0 after the last.
#[derive(Clone, Debug)]
pub(super) struct Sigmas {
    pub(super) timesteps: Vec<f64>,
    pub(super) sigmas: Vec<f64>,
    pub(super) init_noise_sigma: f64,
    pub(super) prediction_type: PredictionType,
}

impl Sigmas {
    pub(super) fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        config.check(steps)?;
        let default = TimestepSpacing::Linspace;
        let timesteps = config.timesteps(steps, default);
        let mut bars = config.alphas_cumprod();
        if let (true, Some(last)) = (config.rescale_betas_zero_snr, bars.last_mut()) {
            *last = 2f64.powi(-24); // σ has to be finite
        }
        let all: Vec<f64> = bars.iter().map(|a| ((1.0 - a) / a).sqrt()).collect();
        let mut sigmas: Vec<f64> = match config.interpolation_type.unwrap_or_default() {
            SigmaInterpolation::Linear => timesteps.iter().map(|t| interpolate(&all, *t)).collect(),
            SigmaInterpolation::LogLinear => {
                let logs: Vec<f64> = all.iter().map(|sigma| sigma.ln()).collect();
                timesteps.iter().map(|t| interpolate(&logs, *t).exp()).collect()
            }
        };
        let max = sigmas.iter().copied().fold(0.0, f64::max);
        sigmas.push(0.0);
        let leading = config.timestep_spacing.unwrap_or(default) == TimestepSpacing::Leading;
        let init_noise_sigma = if leading { (max * max + 1.0).sqrt() } else { max };
        Ok(Self { timesteps, sigmas, init_noise_sigma, prediction_type: config.prediction_type })
    }

    /// σ at step `index`, and at the one after it.
    pub(super) fn pair(&self, index: usize) -> (f64, f64) {
        let at = |i: usize| self.sigmas.get(i).copied().unwrap_or_default();
        (at(index), at(index + 1))
    }

    pub(super) fn scale(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        let sigma = self.pair(index).0;
        sample * (1.0 / (sigma * sigma + 1.0).sqrt())
    }

    /// The original sample as `model_output` has it.
    pub(super) fn original(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
    ) -> Result<Tensor> {
        let sigma = self.pair(index).0;
        match self.prediction_type {
            PredictionType::Epsilon => lerp(sample, 1.0, model_output, -sigma),
            PredictionType::Sample => Ok(model_output.clone()),
            PredictionType::VPrediction => {
                let whole = sigma * sigma + 1.0;
                lerp(model_output, -sigma / whole.sqrt(), sample, 1.0 / whole)
            }
        }
    }
}

fn interpolate(values: &[f64], at: f64) -> f64 {
    let low = at.floor().max(0.0) as usize;
    let get = |i: usize| values.get(i).or(values.last()).copied().unwrap_or_default();
    let part = at - low as f64;
    get(low) * (1.0 - part) + get(low + 1) * part
}

/// SDXL's own sampler.
#[derive(Clone, Debug)]
pub struct EulerDiscreteScheduler {
    sigmas: Sigmas,
}

impl EulerDiscreteScheduler {
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

impl Scheduler for EulerDiscreteScheduler {
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

    fn step(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
        _noise: Option<&Tensor>,
    ) -> Result<SchedulerOutput> {
        let (sigma, next) = self.sigmas.pair(index);
        let original = self.sigmas.original(model_output, index, sample)?;
        // x + (x - x0)/σ · (σ' - σ)
        let ratio = if sigma > 0.0 { next / sigma } else { 0.0 };
        let prev_sample = lerp(sample, ratio, &original, 1.0 - ratio)?;
        Ok(SchedulerOutput { prev_sample, pred_original_sample: original })
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        lerp(original, 1.0, noise, self.sigmas.pair(index).0)
    }
}
