//! Schedulers: which timesteps are visited, and how a sample moves from one to the next.
//!
//! Steps are addressed by their index, so that a scheduler has no state between calls.

mod config;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod euler_ancestral_discrete;
mod euler_discrete;
mod lcm;

pub use config::{
    BetaSchedule, PredictionType, SchedulerConfig, SigmaInterpolation, TimestepSpacing,
};
pub use ddim::DDIMScheduler;
pub use ddim_inverse::DDIMInverseScheduler;
pub use ddpm::DDPMScheduler;
pub use euler_ancestral_discrete::EulerAncestralDiscreteScheduler;
pub use euler_discrete::EulerDiscreteScheduler;
pub use lcm::LCMScheduler;

use candle_core::{Result, Tensor};

use crate::DiffusionError;

/// One step's result.
pub struct SchedulerOutput {
    /// The sample at the next timestep.
    pub prev_sample: Tensor,
    /// The original sample as predicted at this step (for LCM: the denoised one).
    pub pred_original_sample: Tensor,
}

/// How a sample is moved from noise to picture.
pub trait Scheduler {
    /// The timesteps in the order in which they are visited.
    fn timesteps(&self) -> &[f64];

    /// What the network's output is.
    fn prediction_type(&self) -> PredictionType;

    /// Standard deviation that the initial noise is multiplied with.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// What the network sees at step `index`.
    fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        let _ = index;
        Ok(sample.clone())
    }

    /// Whether `step` at `index` adds the noise that it is given.
    fn uses_noise(&self, index: usize) -> bool {
        let _ = index;
        false
    }

    /// From `timesteps()[index]` to the next; `noise` is standard normal, of the sample's shape.
    fn step(
        &self,
        model_output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<SchedulerOutput>;

    /// `original` with as much noise as there is at `timesteps()[index]`.
    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor>;
}

/// The scheduler that `config` names (DDIM when it names none), with `steps` steps.
pub fn from_config(
    config: &SchedulerConfig,
    steps: usize,
) -> std::result::Result<Box<dyn Scheduler>, DiffusionError> {
    Ok(match config.class_name.as_deref().unwrap_or("DDIMScheduler") {
        "DDIMScheduler" => Box::new(DDIMScheduler::new(config, steps)?),
        "DDPMScheduler" => Box::new(DDPMScheduler::new(config, steps)?),
        "EulerDiscreteScheduler" => Box::new(EulerDiscreteScheduler::new(config, steps)?),
        "EulerAncestralDiscreteScheduler" => {
            Box::new(EulerAncestralDiscreteScheduler::new(config, steps)?)
        }
        "LCMScheduler" => Box::new(LCMScheduler::new(config, steps)?),
        other => {
            return Err(DiffusionError::Unsupported {
                component: "scheduler",
                key: "_class_name",
                value: other.to_string(),
            });
        }
    })
}

/// `a·x + b·y`.
pub(crate) fn lerp(x: &Tensor, a: f64, y: &Tensor, b: f64) -> Result<Tensor> {
    (x * a)? + (y * b)?
}

/// A predicted sample in its two parts.
pub struct Prediction {
    /// The original sample.
    pub original: Tensor,
    /// The noise.
    pub epsilon: Tensor,
}

/// Splits what a network said of `sample` = `√ᾱ·original + √(1-ᾱ)·noise`.
pub fn split_prediction(
    prediction_type: PredictionType,
    model_output: &Tensor,
    sample: &Tensor,
    alpha_bar: f64,
) -> Result<Prediction> {
    let (a, b) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
    Ok(match prediction_type {
        PredictionType::Epsilon => Prediction {
            original: lerp(sample, 1.0 / a, model_output, -b / a)?,
            epsilon: model_output.clone(),
        },
        PredictionType::Sample => Prediction {
            original: model_output.clone(),
            epsilon: lerp(sample, 1.0 / b, model_output, -a / b)?,
        },
        PredictionType::VPrediction => Prediction {
            original: lerp(sample, a, model_output, -b)?,
            epsilon: lerp(model_output, a, sample, b)?,
        },
    })
}

/// ᾱ over the training timesteps and past their end.
#[derive(Clone, Debug)]
pub(crate) struct AlphaBars {
    pub(crate) bars: Vec<f64>,
    pub(crate) last: f64,
}

impl AlphaBars {
    pub(crate) fn new(config: &SchedulerConfig) -> Self {
        let bars = config.alphas_cumprod();
        let first = bars.first().copied().unwrap_or(1.0);
        Self { bars, last: if config.set_alpha_to_one { 1.0 } else { first } }
    }

    /// ᾱ at `timestep`; `last` before the first.
    pub(crate) fn at(&self, timestep: f64) -> f64 {
        let index = timestep.round();
        if index < 0.0 {
            return self.last;
        }
        self.bars.get(index as usize).or(self.bars.last()).copied().unwrap_or(self.last)
    }
}

/// √ᾱ·original + √(1-ᾱ)·noise.
pub(crate) fn mix_noise(original: &Tensor, noise: &Tensor, alpha_bar: f64) -> Result<Tensor> {
    lerp(original, alpha_bar.sqrt(), noise, (1.0 - alpha_bar).sqrt())
}

/// Clamps a predicted original sample, when the config asks for it.
pub(crate) fn clip(config: &SchedulerConfig, original: Tensor) -> Result<Tensor> {
    if config.clip_sample {
        original.clamp(-config.clip_sample_range, config.clip_sample_range)
    } else {
        Ok(original)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_descend_within_the_schedule() {
        for spacing in
            [TimestepSpacing::Linspace, TimestepSpacing::Leading, TimestepSpacing::Trailing]
        {
            for steps in [1, 3, 20, 50, 999] {
                let config =
                    SchedulerConfig { timestep_spacing: Some(spacing), ..Default::default() };
                let timesteps = DDIMScheduler::new(&config, steps).unwrap().timesteps().to_vec();
                assert_eq!(timesteps.len(), steps);
                assert!(timesteps.windows(2).all(|w| w[0] > w[1]), "{spacing:?} {steps}");
                assert!(timesteps.iter().all(|t| (0.0..1000.0).contains(t)), "{spacing:?}");
            }
        }
    }

    #[test]
    fn zero_terminal_snr_ends_in_pure_noise() {
        let config = SchedulerConfig { rescale_betas_zero_snr: true, ..Default::default() };
        let plain = SchedulerConfig::default().alphas_cumprod();
        let rescaled = config.alphas_cumprod();
        assert_eq!(rescaled[999], 0.0);
        assert!((rescaled[0] - plain[0]).abs() < 1e-9);
    }

    #[test]
    fn nonsense_is_refused() {
        let config = SchedulerConfig::default();
        assert!(DDIMScheduler::new(&config, 0).is_err());
        assert!(DDIMScheduler::new(&config, 1001).is_err());
        let other = SchedulerConfig { class_name: Some("PNDMScheduler".into()), ..config };
        assert!(from_config(&other, 5).is_err());
    }
}
