//! `TiledAutoencoder`: large pictures through a codec in overlapping tiles, so that memory is
//! that of one tile.

use candle_core::{DType, Result, Tensor};

use crate::autoencoder::{Autoencoder, DiagonalGaussian};

/// How large tiles are, in latents a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Side of a tile. Whatever has no more latents than one tile goes through whole.
    pub side: usize,
    /// Latents that neighbours share at least; there the one fades into the other.
    pub overlap: usize,
}

impl Default for Tiling {
    /// Tiles of 1024 pixels where a latent is 8 pixels wide.
    fn default() -> Self {
        Self { side: 128, overlap: 32 }
    }
}

/// The tiles along one axis, and how loud each is at each of its positions.
struct Axis {
    /// Start of each tile.
    starts: Vec<usize>,
    /// Length of every tile.
    side: usize,
    /// Length of the axis.
    length: usize,
    overlap: usize,
}

impl Axis {
    fn new(length: usize, tiling: Tiling) -> Self {
        let side = tiling.side.clamp(1, length.max(1));
        let overlap = tiling.overlap.min(side - 1);
        let count = (length - side).div_ceil((side - overlap).max(1)) + 1;
        let start = |i: usize| match count {
            1 => 0,
            _ => i * (length - side) / (count - 1),
        };
        Self { starts: (0..count).map(start).collect(), side, length, overlap }
    }

    /// Weights of the tile at `start`, each latent `unit` positions wide: rising from an edge
    /// inside the picture over the overlap, 1 elsewhere.
    fn weights(&self, start: usize, unit: usize) -> Vec<f32> {
        let (side, fade) = (self.side * unit, (self.overlap * unit).max(1) as f32);
        let rise = |from_edge: usize| ((from_edge as f32 + 0.5) / fade).min(1.0);
        (0..side)
            .map(|p| {
                let left = if start > 0 { rise(p) } else { 1.0 };
                let right = if start + self.side < self.length { rise(side - 1 - p) } else { 1.0 };
                left * right
            })
            .collect()
    }

    /// What the weights of all tiles add up to at each position.
    fn totals(&self, unit: usize) -> Vec<f32> {
        let mut totals = vec![0.0; self.length * unit];
        for &start in &self.starts {
            let covered = &mut totals[start * unit..];
            covered.iter_mut().zip(self.weights(start, unit)).for_each(|(t, w)| *t += w);
        }
        totals
    }
}

/// Sends `input` through `run` tile by tile, in rows from the top, and blends the results.
///
/// `units` are the positions of input and of output that one latent is wide.
fn blend(
    input: &Tensor,
    units: (usize, usize),
    tiling: Tiling,
    run: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (b, _, height, width) = input.dims4()?;
    let (unit, out) = units;
    let (rows, columns) = (Axis::new(height / unit, tiling), Axis::new(width / unit, tiling));
    let (out_height, out_width) = (rows.length * out, columns.length * out);
    let (mut sum, mut planes) = (Vec::new(), 0);
    for &top in &rows.starts {
        let vertical = rows.weights(top, out);
        for &left in &columns.starts {
            let tile = input.narrow(2, top * unit, rows.side * unit)?;
            let tile = tile.narrow(3, left * unit, columns.side * unit)?.contiguous()?;
            let result = run(&tile)?;
            planes = b * result.dim(1)?;
            let values = result.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            sum.resize(planes * out_height * out_width, 0.0f32);
            let horizontal = columns.weights(left, out);
            for (line, values) in values.chunks_exact(columns.side * out).enumerate() {
                let (plane, y) = (line / (rows.side * out), line % (rows.side * out));
                let at = (plane * out_height + top * out + y) * out_width + left * out;
                let target = &mut sum[at..at + values.len()];
                for ((s, v), w) in target.iter_mut().zip(values).zip(&horizontal) {
                    *s += v * w * vertical[y];
                }
            }
        }
    }
    let (vertical, horizontal) = (rows.totals(out), columns.totals(out));
    for (line, values) in sum.chunks_exact_mut(out_width).enumerate() {
        let total = vertical[line % out_height];
        values.iter_mut().zip(&horizontal).for_each(|(v, h)| *v /= h * total);
    }
    Tensor::from_vec(sum, (b, planes / b, out_height, out_width), input.device())
}

/// A codec that takes large pictures in tiles. Its norms then see one tile at a time, so that
/// the result is near what the whole picture would give, not the same.
#[derive(Clone, Debug)]
pub struct TiledAutoencoder<A> {
    inner: A,
    tiling: Tiling,
}

impl<A: Autoencoder> TiledAutoencoder<A> {
    /// `inner`, by `tiling`.
    pub fn new(inner: A, tiling: Tiling) -> Self {
        Self { inner, tiling }
    }

    fn fits(&self, (height, width): (usize, usize)) -> bool {
        height * width <= self.tiling.side * self.tiling.side
    }
}

impl<A: Autoencoder> Autoencoder for TiledAutoencoder<A> {
    fn encode(&self, image: &Tensor) -> Result<DiagonalGaussian> {
        let (_, _, height, width) = image.dims4()?;
        let factor = self.spatial_factor();
        if self.fits((height / factor, width / factor)) {
            return self.inner.encode(image);
        }
        let moments = blend(image, (factor, 1), self.tiling, |tile| {
            let DiagonalGaussian { mean, logvar } = self.inner.encode(tile)?;
            Tensor::cat(&[mean, logvar], 1)
        })?;
        DiagonalGaussian::from_moments(&moments)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = latents.dims4()?;
        if self.fits((height, width)) {
            return self.inner.decode(latents);
        }
        blend(latents, (1, self.spatial_factor()), self.tiling, |tile| self.inner.decode(tile))
    }

    fn scaling_factor(&self) -> f64 {
        self.inner.scaling_factor()
    }

    fn shift_factor(&self) -> f64 {
        self.inner.shift_factor()
    }

    fn latent_channels(&self) -> usize {
        self.inner.latent_channels()
    }

    fn spatial_factor(&self) -> usize {
        self.inner.spatial_factor()
    }
}

#[cfg(test)]
mod tests {
    use any2pix_nn::Generator;
    use candle_core::Device;

    use super::*;

    /// Doubles the size by repeating, so that tiles must give what the whole gives.
    struct Repeat;

    impl Autoencoder for Repeat {
        fn encode(&self, image: &Tensor) -> Result<DiagonalGaussian> {
            let mean = image.avg_pool2d(2)?;
            Ok(DiagonalGaussian { logvar: mean.zeros_like()?, mean })
        }

        fn decode(&self, latents: &Tensor) -> Result<Tensor> {
            let (_, _, height, width) = latents.dims4()?;
            latents.upsample_nearest2d(height * 2, width * 2)
        }

        fn scaling_factor(&self) -> f64 {
            1.0
        }

        fn latent_channels(&self) -> usize {
            3
        }

        fn spatial_factor(&self) -> usize {
            2
        }
    }

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        let worst = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        worst.max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn tiles_of_a_local_codec_are_the_whole() {
        let latents = Generator::new(3).randn((2, 3, 23, 9), &Device::Cpu).unwrap();
        let whole = Repeat.decode(&latents).unwrap();
        for (side, overlap) in [(8, 3), (5, 0), (7, 6), (40, 4)] {
            let tiled = TiledAutoencoder::new(Repeat, Tiling { side, overlap });
            let decoded = tiled.decode(&latents).unwrap();
            assert!(distance(&decoded, &whole) < 1e-5, "{side} {overlap}");
            let again = tiled.encode(&whole).unwrap().mean;
            assert!(distance(&again, &latents) < 1e-5, "{side} {overlap}");
        }
    }

    #[test]
    fn a_seam_fades() {
        // Each tile says its own mean: the steps between neighbours must be small.
        let ramp = Tensor::arange(0f32, 40.0, &Device::Cpu).unwrap();
        let ramp = ramp.reshape((1, 1, 1, 40)).unwrap();
        let tiling = Tiling { side: 16, overlap: 8 };
        let flat = |tile: &Tensor| tile.mean_all()?.broadcast_as(tile.shape())?.contiguous();
        let blended = blend(&ramp, (1, 1), tiling, flat).unwrap();
        let values = blended.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let steepest = values.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max);
        assert!(values[0] < 9.0 && values[39] > 30.0, "{values:?}");
        assert!(steepest < 2.0, "{steepest}");
    }
}
