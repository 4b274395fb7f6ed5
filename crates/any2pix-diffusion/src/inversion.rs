//! DDIM inversion: from a picture's latents to the noise that denoises into it.

use candle_core::{Result, Tensor};

use crate::denoise::{Flow, NoisePredictor};
use crate::schedulers::DDIMInverseScheduler;

/// How carefully each inversion step is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InversionConfig {
    /// How often a step is repeated with the network asked at the step's own result (fixed-point
    /// inversion, AIDI); 0 is the published method.
    pub fixed_point_iterations: usize,
}

/// Runs the scheduler upwards from `latents`.
///
/// `watch` is shown the number of steps done and the network's output of each.
///
/// # Shapes
/// `latents` `(b, c, h, w)` → the same.
pub fn invert(
    predictor: &impl NoisePredictor,
    scheduler: &DDIMInverseScheduler,
    latents: &Tensor,
    config: InversionConfig,
    mut watch: impl FnMut(usize, &Tensor) -> Flow,
) -> Result<Tensor> {
    let mut sample = latents.clone();
    for (index, &timestep) in scheduler.timesteps().iter().enumerate() {
        let mut model_output = predictor.predict(&sample, timestep)?;
        let mut next = scheduler.step(&model_output, index, &sample)?;
        for _ in 0..config.fixed_point_iterations {
            model_output = predictor.predict(&next, timestep)?;
            next = scheduler.step_at_result(&model_output, index, &sample, &next)?;
        }
        sample = next;
        if watch(index + 1, &model_output) == Flow::Stop {
            break;
        }
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use any2pix_nn::Generator;
    use candle_core::Device;

    use super::*;
    use crate::denoise::denoise;
    use crate::schedulers::{DDIMScheduler, SchedulerConfig};

    /// Always predicts the same noise.
    struct Constant(Tensor);

    impl NoisePredictor for Constant {
        fn predict(&self, _sample: &Tensor, _timestep: f64) -> Result<Tensor> {
            Ok(self.0.clone())
        }
    }

    /// ε of a Gaussian data distribution of variance ½, for which everything is smooth.
    struct Gaussian(Vec<f64>);

    impl NoisePredictor for Gaussian {
        fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
            let a = self.0[timestep as usize];
            sample * ((1.0 - a).sqrt() / (0.5 * a + 1.0 - a))
        }
    }

    fn config() -> SchedulerConfig {
        let json = r#"{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1}"#;
        serde_json::from_str(json).unwrap()
    }

    fn round_trip_error(predictor: &impl NoisePredictor, iterations: usize) -> f32 {
        let latents = Generator::new(2).randn((1, 4, 3, 5), &Device::Cpu).unwrap();
        let inverse = DDIMInverseScheduler::new(&config(), 10).unwrap();
        let careful = InversionConfig { fixed_point_iterations: iterations };
        let noise = invert(predictor, &inverse, &latents, careful, |_, _| Flow::Continue).unwrap();
        let scheduler = DDIMScheduler::new(&config(), 10).unwrap();
        let mut generator = Generator::new(0);
        let again =
            denoise(predictor, &scheduler, noise, 0, &mut generator, |_| Flow::Continue).unwrap();
        let worst = (again - latents).unwrap().abs().unwrap().flatten_all().unwrap();
        worst.max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn a_constant_prediction_inverts_exactly() {
        let noise = Generator::new(1).randn((1, 4, 3, 5), &Device::Cpu).unwrap();
        assert!(round_trip_error(&Constant(noise), 0) < 1e-4);
    }

    #[test]
    fn fixed_point_iterations_come_closer() {
        let gaussian = Gaussian(config().alphas_cumprod());
        let (plain, careful) = (round_trip_error(&gaussian, 0), round_trip_error(&gaussian, 6));
        assert!(careful < plain * 0.05, "{plain} {careful}");
    }
}
