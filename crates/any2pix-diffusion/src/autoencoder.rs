//! `Autoencoder`: what the pipeline asks of a picture codec, whichever class it is.

use candle_core::{Result, Tensor};

/// A normal distribution over latents.
#[derive(Clone, Debug)]
pub struct DiagonalGaussian {
    /// `(b, c, h, w)`.
    pub mean: Tensor,
    /// `(b, c, h, w)`, within [-30, 20].
    pub logvar: Tensor,
}

impl DiagonalGaussian {
    /// Splits mean and log variance, which lie side by side in the channels.
    ///
    /// # Shapes
    /// `moments` `(b, 2c, h, w)`.
    pub fn from_moments(moments: &Tensor) -> Result<Self> {
        let halves = moments.chunk(2, 1)?;
        Ok(Self { mean: halves[0].contiguous()?, logvar: halves[1].clamp(-30.0, 20.0)? })
    }

    /// Standard deviation.
    pub fn std(&self) -> Result<Tensor> {
        (&self.logvar * 0.5)?.exp()
    }

    /// A draw, given standard normal noise of the mean's shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + (self.std()? * noise)?
    }

    /// KL divergence to the standard normal, the mean over all numbers.
    ///
    /// # Shapes
    /// A scalar.
    pub fn kl(&self) -> Result<Tensor> {
        let terms = ((self.mean.sqr()? + self.logvar.exp()?)? - &self.logvar)?;
        ((terms.mean_all()? - 1.0)?) * 0.5
    }
}

/// Pictures in `[-1, 1]` to latents and back.
pub trait Autoencoder {
    /// # Shapes
    /// `image` `(b, 3, h, w)`, sides multiples of `spatial_factor` → `(b, c, h/f, w/f)`.
    fn encode(&self, image: &Tensor) -> Result<DiagonalGaussian>;

    /// # Shapes
    /// `latents` `(b, c, h, w)`, as `encode` gives them → `(b, 3, f·h, f·w)`, not clamped.
    fn decode(&self, latents: &Tensor) -> Result<Tensor>;

    /// What latents are multiplied with, so that the UNet sees unit variance.
    fn scaling_factor(&self) -> f64;

    /// What is subtracted from latents before that.
    fn shift_factor(&self) -> f64 {
        0.0
    }

    /// Channels of a latent.
    fn latent_channels(&self) -> usize;

    /// Pixels a side that make one latent.
    fn spatial_factor(&self) -> usize;

    /// The UNet's latents of `image`: a draw when `noise` is given, else the mean.
    fn image_to_latents(&self, image: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let distribution = self.encode(image)?;
        let latents = match noise {
            Some(noise) => distribution.sample(noise)?,
            None => distribution.mean,
        };
        (latents - self.shift_factor())? * self.scaling_factor()
    }

    /// The picture of the UNet's latents, in `[-1, 1]` but not clamped.
    fn latents_to_image(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode(&((latents / self.scaling_factor())? + self.shift_factor())?)
    }
}

/// Channels-last, contiguous.
///
/// # Shapes
/// `(b, c, h, w)` → `(b, h, w, c)`.
pub(crate) fn to_channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// Channels first, contiguous.
///
/// # Shapes
/// `(b, h, w, c)` → `(b, c, h, w)`.
pub(crate) fn to_channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}
