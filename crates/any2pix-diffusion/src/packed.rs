//! `Packed`: a codec whose latents stand four together in the channels, as FLUX packs them.

use candle_core::{Result, Tensor};

use crate::autoencoder::{Autoencoder, DiagonalGaussian};

const SIDE: usize = 2;

/// A codec seen by a network that reads four neighbouring latents as one position: it has a
/// quarter of the positions, and writes each latent of the four in channels of its own.
pub struct Packed<C>(pub C);

impl<C> Packed<C> {
    /// Latents a side that stand together.
    pub const SIDE: usize = SIDE;
    /// Latents that stand together.
    pub const TOGETHER: usize = SIDE * SIDE;
}

/// # Shapes
/// `(b, c, h, w)` → `(b, 4c, h/2, w/2)`.
pub(crate) fn pack(latents: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = latents.dims4()?;
    let parts = latents.reshape((b, c, h / SIDE, SIDE, w / SIDE, SIDE))?;
    let parts = parts.permute((0, 1, 3, 5, 2, 4))?.contiguous()?;
    parts.reshape((b, c * SIDE * SIDE, h / SIDE, w / SIDE))
}

/// # Shapes
/// `(b, 4c, h, w)` → `(b, c, 2h, 2w)`.
fn unpack(latents: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = latents.dims4()?;
    let channels = c / (SIDE * SIDE);
    let parts = latents.reshape((b, channels, SIDE, SIDE, h, w))?;
    let parts = parts.permute((0, 1, 4, 2, 5, 3))?.contiguous()?;
    parts.reshape((b, channels, h * SIDE, w * SIDE))
}

impl<C: Autoencoder> Autoencoder for Packed<C> {
    fn encode(&self, image: &Tensor) -> Result<DiagonalGaussian> {
        let DiagonalGaussian { mean, logvar } = self.0.encode(image)?;
        Ok(DiagonalGaussian { mean: pack(&mean)?, logvar: pack(&logvar)? })
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.0.decode(&unpack(latents)?)
    }

    fn scaling_factor(&self) -> f64 {
        self.0.scaling_factor()
    }

    fn shift_factor(&self) -> f64 {
        self.0.shift_factor()
    }

    fn latent_channels(&self) -> usize {
        self.0.latent_channels() * SIDE * SIDE
    }

    fn spatial_factor(&self) -> usize {
        self.0.spatial_factor() * SIDE
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn four_neighbours_stand_in_the_channels_of_one_position() {
        let latents = Tensor::arange(0f32, 2.0 * 3.0 * 4.0 * 6.0, &Device::Cpu).unwrap();
        let latents = latents.reshape((2, 3, 4, 6)).unwrap();
        let packed = pack(&latents).unwrap();
        assert_eq!(packed.dims(), [2, 12, 2, 3]);
        let at = |t: &Tensor, b: usize, c: usize, y: usize, x: usize| {
            t.get(b).unwrap().get(c).unwrap().get(y).unwrap().get(x).unwrap().to_scalar::<f32>()
        };
        for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let there = at(&packed, 1, 4 + dy * 2 + dx, 1, 2).unwrap();
            assert_eq!(there, at(&latents, 1, 1, 2 + dy, 4 + dx).unwrap());
        }
        let back = unpack(&packed).unwrap();
        let distance = (back - latents).unwrap().abs().unwrap().max_all().unwrap();
        assert_eq!(distance.to_scalar::<f32>().unwrap(), 0.0);
    }
}
