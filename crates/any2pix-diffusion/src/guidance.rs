//! Classifier-free guidance.

use candle_core::{Result, Tensor};

use crate::denoise::NoisePredictor;

/// `unconditional + scale·(conditional - unconditional)`.
///
/// # Shapes
/// Both of one shape, which the result has.
pub fn guide(unconditional: &Tensor, conditional: &Tensor, scale: f64) -> Result<Tensor> {
    unconditional + ((conditional - unconditional)? * scale)?
}

/// Brings the standard deviation of the guided prediction back towards the conditional one's
/// (Lin et al. 2023, section 3.4); `rescale` 0 changes nothing.
///
/// # Shapes
/// Both `(b, c, h, w)`, which the result is.
pub fn rescale_noise(guided: &Tensor, conditional: &Tensor, rescale: f64) -> Result<Tensor> {
    if rescale == 0.0 {
        return Ok(guided.clone());
    }
    let deviation = |t: &Tensor| -> Result<Tensor> {
        let flat = t.flatten_from(1)?;
        let centred = flat.broadcast_sub(&flat.mean_keepdim(1)?)?;
        (centred.sqr()?.sum_keepdim(1)? / (flat.dim(1)?.max(2) - 1) as f64)?.sqrt()?.reshape((
            t.dim(0)?,
            1,
            1,
            1,
        ))
    };
    let ratio = (deviation(conditional)? / deviation(guided)?)?;
    (guided.broadcast_mul(&ratio)? * rescale)? + (guided * (1.0 - rescale))?
}

/// Turns a predictor whose conditions are the batch `[unconditional, conditional]` into one
/// guided predictor; both halves run in one batch.
pub struct ClassifierFreeGuidance<P> {
    /// Conditioned on `[unconditional, conditional]`.
    pub predictor: P,
    /// 1 is no guidance.
    pub guidance_scale: f64,
    /// See [`rescale_noise`].
    pub guidance_rescale: f64,
}

impl<P: NoisePredictor> NoisePredictor for ClassifierFreeGuidance<P> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        let both = self.predictor.predict(&Tensor::cat(&[sample, sample], 0)?, timestep)?;
        let halves = both.chunk(2, 0)?;
        let guided = guide(&halves[0], &halves[1], self.guidance_scale)?;
        rescale_noise(&guided, &halves[1], self.guidance_rescale)
    }
}
