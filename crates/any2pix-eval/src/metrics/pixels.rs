//! How far apart the pixels of two pictures are, where an edit was meant and where not.

use image::{GrayImage, RgbImage};

/// The highest PSNR that is reported: that of pictures that do not differ.
pub const IDENTICAL: f64 = 99.0;

/// Which pixels of two pictures are compared.
#[derive(Clone, Copy, Debug)]
pub enum Where<'a> {
    /// All of them.
    Everywhere,
    /// Those that a mask leaves out.
    Outside(&'a GrayImage),
    /// Those that a mask covers.
    Inside(&'a GrayImage),
}

impl Where<'_> {
    pub(super) fn fits(self, size: (u32, u32)) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Outside(mask) | Self::Inside(mask) => mask.dimensions() == size,
        }
    }

    pub(super) fn takes(self, x: u32, y: u32) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Outside(mask) => mask.get_pixel(x, y).0[0] == 0,
            Self::Inside(mask) => mask.get_pixel(x, y).0[0] > 0,
        }
    }
}

/// Mean absolute and mean squared difference of values from 0 to 1, as MagicBrush tells them;
/// nothing when the sizes differ or no pixel is compared.
pub fn distances(a: &RgbImage, b: &RgbImage, place: Where<'_>) -> Option<(f64, f64)> {
    if a.dimensions() != b.dimensions() || !place.fits(a.dimensions()) {
        return None;
    }
    let (mut sum, mut squares, mut count) = (0u64, 0u64, 0u64);
    for ((x, y, a), b) in a.enumerate_pixels().zip(b.pixels()) {
        if !place.takes(x, y) {
            continue;
        }
        count += 3;
        for (a, b) in a.0.iter().zip(b.0) {
            let difference = u64::from(a.abs_diff(b));
            sum += difference;
            squares += difference * difference;
        }
    }
    let mean = |sum: u64, unit: f64| sum as f64 / (count as f64 * unit);
    (count > 0).then(|| (mean(sum, 255.0), mean(squares, 255.0 * 255.0)))
}

/// Peak signal-to-noise ratio in dB; nothing when the sizes differ or no pixel is compared.
pub fn psnr(a: &RgbImage, b: &RgbImage, place: Where<'_>) -> Option<f64> {
    let (_, squared) = distances(a, b, place)?;
    Some(if squared > 0.0 { (-10.0 * squared.log10()).min(IDENTICAL) } else { IDENTICAL })
}

/// `mask` grown by `radius` pixels: shadows and soft edges belong to what was meant.
pub fn grown(mask: &GrayImage, radius: u32) -> GrayImage {
    let (width, height) = mask.dimensions();
    let span = |at: u32, size: u32| at.saturating_sub(radius)..(at + radius + 1).min(size);
    let mut rows = GrayImage::new(width, height);
    for (x, y, pixel) in rows.enumerate_pixels_mut() {
        pixel.0[0] = span(x, width).map(|x| mask.get_pixel(x, y).0[0]).max().unwrap_or(0);
    }
    let mut all = GrayImage::new(width, height);
    for (x, y, pixel) in all.enumerate_pixels_mut() {
        pixel.0[0] = span(y, height).map(|y| rows.get_pixel(x, y).0[0]).max().unwrap_or(0);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Luma, Rgb};

    #[test]
    fn counts_only_what_the_mask_leaves_out() {
        let a = RgbImage::from_pixel(4, 4, Rgb([100, 100, 100]));
        let mut b = a.clone();
        b.put_pixel(0, 0, Rgb([200, 0, 7]));
        assert_eq!(psnr(&a, &a, Where::Everywhere), Some(IDENTICAL));
        // Mean squared error (100² + 100² + 93²) / 48 by hand.
        let squared = 28_649.0 / 48.0 / 255.0f64.powi(2);
        let found = psnr(&a, &b, Where::Everywhere).unwrap();
        assert!((found + 10.0 * squared.log10()).abs() < 1e-9);
        let (l1, l2) = distances(&a, &b, Where::Everywhere).unwrap();
        assert!((l1 - 293.0 / 48.0 / 255.0).abs() < 1e-12 && (l2 - squared).abs() < 1e-12);
        let mut mask = GrayImage::new(4, 4);
        mask.put_pixel(0, 0, Luma([255]));
        assert_eq!(psnr(&a, &b, Where::Outside(&mask)), Some(IDENTICAL));
        let (l1, _) = distances(&a, &b, Where::Inside(&mask)).unwrap();
        assert!((l1 - 293.0 / 3.0 / 255.0).abs() < 1e-12);
        let whole = GrayImage::from_pixel(4, 4, Luma([1]));
        assert_eq!(distances(&a, &b, Where::Outside(&whole)), None);
        assert_eq!(psnr(&a, &RgbImage::new(4, 5), Where::Everywhere), None);
        assert_eq!(psnr(&a, &b, Where::Inside(&GrayImage::new(5, 4))), None);
    }

    #[test]
    fn grows_to_a_square_and_stops_at_the_edge() {
        let mut mask = GrayImage::new(5, 5);
        mask.put_pixel(0, 2, Luma([9]));
        let grown = grown(&mask, 1);
        let set: Vec<_> = grown.enumerate_pixels().filter(|p| p.2.0[0] > 0).collect();
        assert_eq!(set.len(), 6);
        assert!(set.iter().all(|(x, y, _)| *x < 2 && (1..=3).contains(y)));
    }
}
