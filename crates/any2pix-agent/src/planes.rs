//! `Plane` and `Pixels`: small float rasters at the painter's resolution, sampled at any other.

use std::ops::RangeInclusive;

use candle_core::{DType, Device, Result, Tensor};
use image::{Rgb, RgbImage};

/// One channel of floats, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` values.
    pub values: Vec<f32>,
}

impl Plane {
    /// A plane whose value at column x, row y is `value(x, y)`.
    pub fn from_fn(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let values = (0..width * height).map(|i| value(i % width, i / width)).collect();
        Self { width, height, values }
    }

    /// A plane of one value.
    pub fn filled(width: usize, height: usize, value: f32) -> Self {
        Self { width, height, values: vec![value; width * height] }
    }

    /// The value at a column and a row; those beyond the edge repeat it.
    pub fn at(&self, x: isize, y: isize) -> f32 {
        let x = x.clamp(0, self.width as isize - 1) as usize;
        let y = y.clamp(0, self.height as isize - 1) as usize;
        self.values[y * self.width + x]
    }

    /// The value at `u`, `v`, which are 0 at the left and upper edge and 1 at the others;
    /// bilinear between the centres of pixels.
    pub fn sample(&self, u: f32, v: f32) -> f32 {
        let (x, y) = (u * self.width as f32 - 0.5, v * self.height as f32 - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = (x - left, y - top);
        let (x, y) = (left as isize, top as isize);
        let upper = self.at(x, y) * (1.0 - fx) + self.at(x + 1, y) * fx;
        let lower = self.at(x, y + 1) * (1.0 - fx) + self.at(x + 1, y + 1) * fx;
        upper * (1.0 - fy) + lower * fy
    }

    /// The same picture at another size, by [`Plane::sample`].
    pub fn resampled(&self, width: usize, height: usize) -> Self {
        let (w, h) = (width as f32, height as f32);
        Self::from_fn(width, height, |x, y| self.sample((x as f32 + 0.5) / w, (y as f32 + 0.5) / h))
    }

    /// Every value through `f`.
    pub fn map(&self, f: impl Fn(f32) -> f32) -> Self {
        let values = self.values.iter().map(|v| f(*v)).collect();
        Self { values, ..*self }
    }

    /// Both planes' values, pair by pair, through `f`; the sizes must agree.
    pub fn zip(&self, other: &Self, f: impl Fn(f32, f32) -> f32) -> Self {
        debug_assert_eq!((self.width, self.height), (other.width, other.height));
        let values = self.values.iter().zip(&other.values).map(|(a, b)| f(*a, *b)).collect();
        Self { values, ..*self }
    }

    /// Along rows, then along columns: `combine` sees the values within `radius`.
    fn separable(
        &self,
        radius: usize,
        combine: impl Fn(&mut dyn Iterator<Item = f32>) -> f32,
    ) -> Self {
        let r = radius as isize;
        let rows = Self::from_fn(self.width, self.height, |x, y| {
            combine(&mut (-r..=r).map(|d| self.at(x as isize + d, y as isize)))
        });
        Self::from_fn(self.width, self.height, |x, y| {
            combine(&mut (-r..=r).map(|d| rows.at(x as isize, y as isize + d)))
        })
    }

    /// The mean over squares of side `2 * radius + 1`, twice: close to a Gaussian.
    pub fn blurred(&self, radius: usize) -> Self {
        let count = (2 * radius + 1) as f32;
        let mean = |plane: &Self| plane.separable(radius, |values| values.sum::<f32>() / count);
        mean(&mean(self))
    }

    /// The line in this plane's values that is nearest to `other`'s around each place: slope and
    /// offset. `noise` is the variance that says nothing yet.
    pub fn line_to(
        &self,
        other: &Self,
        radius: usize,
        noise: f32,
        slopes: RangeInclusive<f32>,
    ) -> (Self, Self) {
        let (mean, mean_other) = (self.blurred(radius), other.blurred(radius));
        let moment = self.zip(other, |a, b| a * b).blurred(radius);
        let covariance = moment.zip(&mean.zip(&mean_other, |a, b| a * b), |m, product| m - product);
        let square = self.map(|a| a * a).blurred(radius);
        let variance = square.zip(&mean, |square, mean| (square - mean * mean).max(0.0));
        let slope = covariance
            .zip(&variance, |c, v| (c / (v + noise)).clamp(*slopes.start(), *slopes.end()));
        let offset = mean_other.zip(&slope.zip(&mean, |s, m| s * m), |other, line| other - line);
        (slope, offset)
    }

    /// The values through a line: one slope and one offset each.
    pub fn through(&self, slope: &Self, offset: &Self) -> Self {
        slope.zip(self, |s, value| s * value).zip(offset, |line, offset| line + offset)
    }

    /// The largest value within squares of side `2 * radius + 1`.
    pub fn dilated(&self, radius: usize) -> Self {
        self.separable(radius, |values| values.fold(f32::NEG_INFINITY, f32::max))
    }

    /// The smallest value within squares of side `2 * radius + 1`.
    pub fn eroded(&self, radius: usize) -> Self {
        self.separable(radius, |values| values.fold(f32::INFINITY, f32::min))
    }

    /// The mean over blocks of `factor` × `factor` pixels.
    pub fn pooled(&self, factor: usize) -> Self {
        let share = 1.0 / (factor * factor) as f32;
        Self::from_fn(self.width / factor, self.height / factor, |x, y| {
            let block = (0..factor * factor).map(|i| {
                self.at((x * factor + i % factor) as isize, (y * factor + i / factor) as isize)
            });
            block.sum::<f32>() * share
        })
    }

    /// The plane as a tensor.
    ///
    /// # Shapes
    /// → `(1, 1, height, width)`.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_slice(&self.values, (1, 1, self.height, self.width), device)
    }

    /// The only channel of the only item of a batch.
    ///
    /// # Shapes
    /// `tensor` `(h, w)`, with any number of leading ones.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let dims = tensor.dims();
        let [.., height, width] = *dims else {
            candle_core::bail!("a plane has two dimensions, not {dims:?}")
        };
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if values.len() != width * height {
            candle_core::bail!("a plane has one channel, not {dims:?}")
        }
        Ok(Self { width, height, values })
    }
}

/// Three planes of colour, 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels(pub [Plane; 3]);

impl Pixels {
    /// The colours of an 8-bit picture.
    pub fn from_rgb(picture: &RgbImage) -> Self {
        let channel = |c: usize| {
            Plane::from_fn(picture.width() as usize, picture.height() as usize, |x, y| {
                f32::from(picture.get_pixel(x as u32, y as u32).0[c]) / 255.0
            })
        };
        Self([channel(0), channel(1), channel(2)])
    }

    /// The nearest 8-bit picture.
    pub fn to_rgb(&self) -> RgbImage {
        let [r, g, b] = &self.0;
        RgbImage::from_fn(r.width as u32, r.height as u32, |x, y| {
            let byte = |plane: &Plane| to_byte(plane.at(x as isize, y as isize));
            Rgb([byte(r), byte(g), byte(b)])
        })
    }

    /// As a model takes it.
    ///
    /// # Shapes
    /// → `(1, 3, height, width)`, -1 to 1.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        let [r, g, b] = &self.0;
        let channels = [r.tensor(device)?, g.tensor(device)?, b.tensor(device)?];
        Tensor::cat(&channels, 1)?.affine(2.0, -1.0)
    }

    /// From what a model gives; values beyond the range are kept.
    ///
    /// # Shapes
    /// `tensor` `(1, 3, h, w)`, -1 to 1.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.to_dtype(DType::F32)?.affine(0.5, 0.5)?;
        let channel = |c: usize| Plane::from_tensor(&tensor.narrow(1, c, 1)?.contiguous()?);
        Ok(Self([channel(0)?, channel(1)?, channel(2)?]))
    }

    /// Colour at `u`, `v`, as [`Plane::sample`].
    pub fn sample(&self, u: f32, v: f32) -> [f32; 3] {
        [self.0[0].sample(u, v), self.0[1].sample(u, v), self.0[2].sample(u, v)]
    }

    /// Both pictures' channels, pair by pair, through `f`.
    pub fn zip(&self, other: &Self, f: impl Fn(f32, f32) -> f32 + Copy) -> Self {
        let channel = |c: usize| self.0[c].zip(&other.0[c], f);
        Self([channel(0), channel(1), channel(2)])
    }

    /// True when every value is finite.
    pub fn is_finite(&self) -> bool {
        self.0.iter().all(|plane| plane.values.iter().all(|v| v.is_finite()))
    }
}

/// A value from 0 to 1 as a byte, rounded to nearest.
pub fn to_byte(value: f32) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_at_the_centres_gives_the_values_back() {
        let plane = Plane::from_fn(5, 3, |x, y| (x * 7 + y) as f32);
        assert_eq!(plane.resampled(5, 3), plane);
        let ramp = Plane::from_fn(8, 1, |x, _| x as f32 + 0.5);
        let twice = ramp.resampled(16, 1);
        for x in 1..15 {
            assert!((twice.values[x] - (x as f32 + 0.5) / 2.0).abs() < 1e-5, "{x}");
        }
    }

    #[test]
    fn pictures_and_tensors_come_back() {
        let picture = RgbImage::from_fn(6, 4, |x, y| Rgb([x as u8 * 40, y as u8 * 60, 255]));
        let pixels = Pixels::from_rgb(&picture);
        let tensor = pixels.tensor(&Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [1, 3, 4, 6]);
        assert_eq!(Pixels::from_tensor(&tensor).unwrap().to_rgb(), picture);
    }

    #[test]
    fn filters_keep_flat_planes_and_spread_points() {
        let flat = Plane::filled(9, 9, 0.25);
        for filtered in [flat.blurred(2), flat.dilated(2), flat.eroded(3)] {
            assert!(filtered.values.iter().all(|v| (v - 0.25).abs() < 1e-6));
        }
        let point = Plane::from_fn(9, 9, |x, y| f32::from(x == 4 && y == 4));
        assert_eq!(point.dilated(1).values.iter().sum::<f32>(), 9.0);
        assert_eq!(point.dilated(1).eroded(1), point);
        assert!((point.blurred(1).values.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!(point.pooled(3).at(1, 1), 1.0 / 9.0);
    }
}
