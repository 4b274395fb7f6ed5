//! `SchedulerConfig`: scheduler_config.json, and the noise schedule that it describes.

use serde::{Deserialize, Serialize};

use crate::DiffusionError;

/// What the network's output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    #[default]
    Epsilon,
    /// `√ᾱ·noise - √(1-ᾱ)·original`.
    VPrediction,
    /// The original sample.
    Sample,
}

/// How the training timesteps are thinned out for sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Evenly from 0 to the last one, both included.
    Linspace,
    /// Multiples of the step from 0, then `steps_offset` is added.
    Leading,
    /// Multiples of the step down from the last one.
    Trailing,
}

/// How σ is found between two training timesteps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaInterpolation {
    /// Linear in σ (diffusers).
    #[default]
    Linear,
    /// Linear in log σ (k-diffusion).
    LogLinear,
}

/// How β grows with the timestep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Linear in β.
    #[default]
    Linear,
    /// Linear in √β (Stable Diffusion).
    ScaledLinear,
    /// Cosine in ᾱ.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredcosCapV2,
}

/// scheduler_config.json with upstream's keys and defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// Which scheduler it was saved from: `DDIMScheduler`, …
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    /// Length of the training schedule.
    pub num_train_timesteps: usize,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// The curve between them.
    pub beta_schedule: BetaSchedule,
    /// Betas given one by one, instead of the curve.
    pub trained_betas: Option<Vec<f32>>,
    /// What the network's output is.
    pub prediction_type: PredictionType,
    /// `None`: the scheduler's own default.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Added to every timestep of the leading spacing.
    pub steps_offset: usize,
    /// Whether ᾱ before the first timestep is 1, rather than ᾱ of timestep 0.
    pub set_alpha_to_one: bool,
    /// Whether the predicted original sample is clamped to ±`clip_sample_range`.
    pub clip_sample: bool,
    /// See `clip_sample`.
    pub clip_sample_range: f64,
    /// Rescales β so that the last timestep is pure noise.
    pub rescale_betas_zero_snr: bool,
    /// How Euler's schedulers find σ between two training timesteps; `None`: linear.
    pub interpolation_type: Option<SigmaInterpolation>,
    /// Karras' σ spacing, which is refused.
    pub use_karras_sigmas: bool,
    /// Dynamic thresholding, which is refused.
    pub thresholding: bool,
    /// Length of the schedule that LCM was distilled on.
    pub original_inference_steps: usize,
    /// Multiplies the timestep in LCM's boundary conditions.
    pub timestep_scaling: f64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class_name: None,
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
            clip_sample: true,
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            interpolation_type: None,
            use_karras_sigmas: false,
            thresholding: false,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
        }
    }
}

impl SchedulerConfig {
    fn betas(&self) -> Vec<f32> {
        if let Some(betas) = &self.trained_betas {
            return betas.clone();
        }
        let n = self.num_train_timesteps;
        match self.beta_schedule {
            BetaSchedule::Linear => linspace(self.beta_start as f32, self.beta_end as f32, n),
            BetaSchedule::ScaledLinear => {
                let (start, end) = (self.beta_start.sqrt() as f32, self.beta_end.sqrt() as f32);
                linspace(start, end, n).into_iter().map(|b| b * b).collect()
            }
            BetaSchedule::SquaredcosCapV2 => {
                let bar =
                    |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let at = |i: usize| bar(i as f64 / n as f64);
                (0..n).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999) as f32).collect()
            }
        }
    }

    /// ᾱ of every training timestep.
    pub fn alphas_cumprod(&self) -> Vec<f64> {
        let betas = self.betas();
        let mut product = 1.0f64;
        let bars: Vec<f64> = betas
            .iter()
            .map(|beta| {
                product *= f64::from(1.0 - beta);
                f64::from(product as f32)
            })
            .collect();
        if self.rescale_betas_zero_snr { rescale_zero_terminal_snr(&bars) } else { bars }
    }

    /// The timesteps of `steps` sampling steps, descending.
    pub fn timesteps(&self, steps: usize, default_spacing: TimestepSpacing) -> Vec<f64> {
        let (train, n) = (self.num_train_timesteps as f64, steps as f64);
        match self.timestep_spacing.unwrap_or(default_spacing) {
            TimestepSpacing::Linspace if steps == 1 => vec![0.0],
            TimestepSpacing::Linspace => {
                let step = (train - 1.0) / (n - 1.0);
                (0..steps).rev().map(|i| step * i as f64).collect()
            }
            TimestepSpacing::Leading => {
                let ratio = self.num_train_timesteps / steps;
                (0..steps).rev().map(|i| (i * ratio + self.steps_offset) as f64).collect()
            }
            TimestepSpacing::Trailing => {
                (0..steps).map(|i| (train - i as f64 * train / n).round_ties_even() - 1.0).collect()
            }
        }
    }

    /// Refuses what no scheduler here does, and step counts that make no sense.
    pub(super) fn check(&self, steps: usize) -> Result<(), DiffusionError> {
        let refuse = |key, value: String| {
            Err(DiffusionError::Unsupported { component: "scheduler", key, value })
        };
        if self.use_karras_sigmas {
            return refuse("use_karras_sigmas", "true".into());
        }
        if self.thresholding {
            return refuse("thresholding", "true".into());
        }
        if steps == 0 || steps > self.num_train_timesteps {
            return refuse("num_inference_steps", steps.to_string());
        }
        match &self.trained_betas {
            Some(betas) if betas.len() != self.num_train_timesteps => {
                refuse("trained_betas", format!("{} values", betas.len()))
            }
            _ => Ok(()),
        }
    }
}

/// torch's `linspace` in f32: from both ends towards the middle.
fn linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    let step = (end - start) / (n.max(2) - 1) as f32;
    (0..n)
        .map(|i| if i < n / 2 { start + step * i as f32 } else { end - step * (n - 1 - i) as f32 })
        .collect()
}

/// Shifts and scales √ᾱ so that it ends at 0 and starts where it did (Lin et al. 2023, alg. 1).
fn rescale_zero_terminal_snr(bars: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = bars.iter().map(|a| a.sqrt()).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    roots.iter().map(|root| ((root - last) * first / (first - last)).powi(2)).collect()
}
