//! Drafts: what an edit would look like without any network, for the decoder to start from.
//!
//! A hole is filled smoothly from its rim, a reference is laid where the object shall be. The
//! decoder is shown the draft's latents and paints what a draft cannot: texture, light, contact.

use candle_core::{Device, Result, Tensor};

/// Fills the masked part of pictures smoothly from what surrounds it.
///
/// # Shapes
/// `image` `(b, c, h, w)`; `mask` `(b, 1, h, w)`, 1 where the picture is unknown → as `image`.
pub fn fill(image: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = image.dims4()?;
    let device = image.device();
    let filled: Vec<Tensor> = (0..b)
        .map(|item| {
            let values = image.get(item)?.flatten_all()?.to_vec1::<f32>()?;
            let unknown = mask.get(item)?.flatten_all()?.to_vec1::<f32>()?;
            let known = unknown.into_iter().map(|m| 1.0 - m.clamp(0.0, 1.0)).collect();
            let filled = fill_planes(values, known, c, w);
            Tensor::from_vec(filled, (1, c, h, w), &Device::Cpu)?.to_device(device)
        })
        .collect::<Result<_>>()?;
    Tensor::cat(&filled, 0)
}

/// [`fill`] of `channels` planes one after the other, with how much is known of each position.
pub(crate) fn fill_planes(
    values: Vec<f32>,
    weights: Vec<f32>,
    channels: usize,
    width: usize,
) -> Vec<f32> {
    let height = weights.len() / width.max(1);
    let mut plane = Plane { values, weights, channels, height, width };
    plane.fill();
    plane.values
}

/// Lays a cut-out over pictures of the same size.
///
/// # Shapes
/// `image`, `cutout` `(b, c, h, w)`; `alpha` `(b, 1, h, w)` → as `image`.
pub fn paste(image: &Tensor, cutout: &Tensor, alpha: &Tensor) -> Result<Tensor> {
    image + (cutout - image)?.broadcast_mul(alpha)?
}

/// A mask at the resolution of latents: the largest value of each patch.
///
/// # Shapes
/// `mask` `(b, 1, h, w)` → `(b, 1, h/factor, w/factor)`.
pub fn to_latent_mask(mask: &Tensor, factor: usize) -> Result<Tensor> {
    let (b, _, h, w) = mask.dims4()?;
    mask.reshape((b, 1, h / factor, factor, w / factor, factor))?.max(5)?.max(3)
}

/// A picture with a weight at each position: 1 is known, 0 is not.
struct Plane {
    values: Vec<f32>,
    weights: Vec<f32>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Plane {
    /// Push-pull: averages what is known at half the size, fills that, interpolates back.
    fn fill(&mut self) {
        if self.height * self.width <= 1 || self.weights.iter().all(|w| *w >= 1.0) {
            return;
        }
        let mut half = self.half();
        half.fill();
        let area = self.height * self.width;
        for position in 0..area {
            let known = self.weights[position];
            if known >= 1.0 {
                continue;
            }
            let (y, x) = (position / self.width, position % self.width);
            for channel in 0..self.channels {
                let value = &mut self.values[channel * area + position];
                *value = known * *value + (1.0 - known) * half.between(channel, y, x);
            }
        }
    }

    fn half(&self) -> Self {
        let (height, width) = (self.height.div_ceil(2), self.width.div_ceil(2));
        let (area, small) = (self.height * self.width, height * width);
        let mut values = vec![0.0; self.channels * small];
        let mut weights = vec![0.0; small];
        for position in 0..area {
            let (y, x) = (position / self.width, position % self.width);
            let target = (y / 2) * width + x / 2;
            let weight = self.weights[position];
            weights[target] += weight;
            for channel in 0..self.channels {
                values[channel * small + target] += weight * self.values[channel * area + position];
            }
        }
        for target in 0..small {
            let weight = weights[target];
            if weight > 0.0 {
                (0..self.channels).for_each(|c| values[c * small + target] /= weight);
            }
            weights[target] = weight.min(1.0);
        }
        Self { values, weights, channels: self.channels, height, width }
    }

    /// The value at position `(y, x)` of a plane twice this size, bilinear.
    fn between(&self, channel: usize, y: usize, x: usize) -> f32 {
        let pair = |i: usize, size: usize| {
            let at = (i as f32 + 0.5) * 0.5 - 0.5;
            let low = at.floor();
            let clamp = |v: f32| (v.max(0.0) as usize).min(size - 1);
            (clamp(low), clamp(low + 1.0), at - low)
        };
        let (top, bottom, down) = pair(y, self.height);
        let (left, right, across) = pair(x, self.width);
        let plane = channel * self.height * self.width;
        let at = |row: usize, column: usize| self.values[plane + row * self.width + column];
        let upper = at(top, left) * (1.0 - across) + at(top, right) * across;
        let lower = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
        upper * (1.0 - down) + lower * down
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn a_hole_in_a_ramp_is_filled_and_the_rest_kept() {
        let ramp: Vec<f32> = (0..32 * 32).map(|i| (i % 32) as f32 / 31.0).collect();
        let image = Tensor::from_vec(ramp.clone(), (1, 1, 32, 32), &Device::Cpu).unwrap();
        let inside = |i: usize| (8..24).contains(&(i % 32)) && (8..24).contains(&(i / 32));
        let hole: Vec<f32> = (0..32 * 32).map(|i| f32::from(inside(i))).collect();
        let mask = Tensor::from_vec(hole, (1, 1, 32, 32), &Device::Cpu).unwrap();
        let broken = paste(&image, &image.zeros_like().unwrap(), &mask).unwrap();
        let filled: Vec<f32> =
            fill(&broken, &mask).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (i, (filled, truth)) in filled.iter().zip(&ramp).enumerate() {
            let allowed = if inside(i) { 0.25 } else { 0.0 };
            assert!((filled - truth).abs() <= allowed, "{i}: {filled} {truth}");
        }
    }

    #[test]
    fn a_patch_is_marked_when_any_pixel_is() {
        let mut mask = vec![0f32; 16 * 16];
        mask[3 * 16 + 9] = 1.0;
        let mask = Tensor::from_vec(mask, (1, 1, 16, 16), &Device::Cpu).unwrap();
        let small = to_latent_mask(&mask, 8).unwrap().to_dtype(DType::F32).unwrap();
        let values: Vec<f32> = small.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values, [0.0, 1.0, 0.0, 0.0]);
    }
}
