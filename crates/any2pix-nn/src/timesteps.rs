//! Sinusoidal embeddings of timesteps, sizes and scores.

use candle_core::{DType, Device, Result, Tensor};

/// `[cos(t·f_0) … cos(t·f_{d/2-1}), sin(t·f_0) …]` with `f_i = 10000^(-i/(d/2))`, in f32:
/// diffusers' `get_timestep_embedding(flip_sin_to_cos=True, downscale_freq_shift=0)`.
///
/// # Shapes
/// `timesteps` n values → `(n, dim)`; `dim` is even.
pub fn sinusoid(timesteps: &[f64], dim: usize, device: &Device) -> Result<Tensor> {
    let half = dim / 2;
    // diffusers computes the exponent and the product in f32; so do we, to the same rounding
    let frequencies: Vec<f32> =
        (0..half).map(|i| (-(10_000f64.ln() as f32) * i as f32 / half as f32).exp()).collect();
    let mut values = Vec::with_capacity(timesteps.len() * dim);
    for &t in timesteps {
        values.extend(frequencies.iter().map(|f| (t as f32 * f).cos()));
        values.extend(frequencies.iter().map(|f| (t as f32 * f).sin()));
    }
    Tensor::from_vec(values, (timesteps.len(), 2 * half), device)?.to_dtype(DType::F32)
}
