//! `Noising`: the timesteps that a painter is trained at, and how noisy its samples are there.

use any2pix_nn::Generator;
use candle_core::{Device, Tensor};

use crate::Result;

/// The noise schedule of a stage.
pub(super) struct Noising {
    pub(super) alphas_cumprod: Vec<f64>,
    /// How often the timestep is the last, where sampling begins.
    last_timestep: f32,
}

impl Noising {
    pub(super) fn new(alphas_cumprod: Vec<f64>, last_timestep: f32) -> Self {
        Self { alphas_cumprod, last_timestep }
    }

    /// One of all timesteps an item; the last more often.
    pub(super) fn timesteps(&self, count: usize, generator: &mut Generator) -> Vec<f64> {
        let all = self.alphas_cumprod.len();
        let mut draw = || match generator.chance(self.last_timestep) {
            true => all - 1,
            false => generator.below(all),
        };
        (0..count).map(|_| draw() as f64).collect()
    }

    /// √ᾱ and √(1-ᾱ) of each timestep.
    ///
    /// # Shapes
    /// `(b, 1, 1, 1)` each.
    pub(super) fn scales(&self, timesteps: &[f64]) -> Result<(Tensor, Tensor)> {
        let column = |of: &dyn Fn(f64) -> f64| -> Result<Tensor> {
            let value = |t: &f64| of(self.alphas_cumprod[*t as usize]) as f32;
            let values: Vec<f32> = timesteps.iter().map(value).collect();
            Ok(Tensor::from_vec(values, (timesteps.len(), 1, 1, 1), &Device::Cpu)?)
        };
        Ok((column(&|a| a.sqrt())?, column(&|a| (1.0 - a).max(0.0).sqrt())?))
    }
}
