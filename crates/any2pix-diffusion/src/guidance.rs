//! Classifier-free guidance, by one condition or by a picture and a text.

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

/// Turns a predictor whose conditions are the batch `[picture and text, picture, nothing]` into
/// one that is guided by both (Brooks et al. 2023, equation 3); all three run in one batch.
pub struct PictureTextGuidance<P> {
    /// Conditioned on `[picture and text, picture, nothing]`.
    pub predictor: P,
    /// How firmly the text is followed; 1 is no guidance.
    pub text_scale: f64,
    /// How firmly the picture is kept; 1 is no guidance.
    pub picture_scale: f64,
}

impl<P: NoisePredictor> NoisePredictor for PictureTextGuidance<P> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        let all = self.predictor.predict(&Tensor::cat(&[sample; 3], 0)?, timestep)?;
        let thirds = all.chunk(3, 0)?;
        let [both, picture, nothing] = [&thirds[0], &thirds[1], &thirds[2]];
        // nothing + s_I·(picture - nothing) + s_T·(both - picture)
        guide(nothing, picture, self.picture_scale)? + ((both - picture)? * self.text_scale)?
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Says 5 under both conditions, 3 under the picture alone, 2 under none.
    struct Fixed;

    impl NoisePredictor for Fixed {
        fn predict(&self, sample: &Tensor, _: f64) -> Result<Tensor> {
            Tensor::new(&[5f32, 3.0, 2.0], sample.device())?.reshape((3, 1, 1, 1))
        }
    }

    #[test]
    fn each_guidance_goes_its_own_way() {
        let sample = Tensor::zeros((1, 1, 1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        let guided = |text_scale, picture_scale| {
            let guidance = PictureTextGuidance { predictor: Fixed, text_scale, picture_scale };
            let said = guidance.predict(&sample, 0.0).unwrap();
            said.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
        };
        assert_eq!(guided(1.0, 1.0), 5.0);
        assert_eq!(guided(0.0, 1.0), 3.0);
        assert_eq!(guided(0.0, 0.0), 2.0);
        assert_eq!(guided(7.5, 1.5), 2.0 + 1.5 + 15.0);
    }
}
