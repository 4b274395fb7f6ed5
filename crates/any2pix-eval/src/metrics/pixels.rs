//! How well the pixels that an edit did not mean are kept.

use image::{GrayImage, RgbImage};

/// The highest PSNR that is reported: that of pictures that do not differ.
pub const IDENTICAL: f64 = 99.0;

/// Peak signal-to-noise ratio in dB over the pixels that `mask` leaves out (all without a mask);
/// nothing when the sizes differ or no pixel is left.
pub fn psnr_outside(a: &RgbImage, b: &RgbImage, mask: Option<&GrayImage>) -> Option<f64> {
    let sizes_agree = mask.is_none_or(|mask| mask.dimensions() == a.dimensions());
    if a.dimensions() != b.dimensions() || !sizes_agree {
        return None;
    }
    let (mut sum, mut count) = (0u64, 0u64);
    for ((x, y, a), b) in a.enumerate_pixels().zip(b.pixels()) {
        if mask.is_some_and(|mask| mask.get_pixel(x, y).0[0] > 0) {
            continue;
        }
        count += 3;
        for (a, b) in a.0.iter().zip(b.0) {
            let difference = u64::from(a.abs_diff(b));
            sum += difference * difference;
        }
    }
    match (sum, count) {
        (_, 0) => None,
        (0, _) => Some(IDENTICAL),
        _ => Some((10.0 * (255.0f64.powi(2) * count as f64 / sum as f64).log10()).min(IDENTICAL)),
    }
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
        assert_eq!(psnr_outside(&a, &a, None), Some(IDENTICAL));
        // Mean squared error (100² + 100² + 93²) / 48 by hand.
        let expected = 10.0 * (255.0f64.powi(2) / (28_649.0 / 48.0)).log10();
        assert!((psnr_outside(&a, &b, None).unwrap() - expected).abs() < 1e-9);
        let mut mask = GrayImage::new(4, 4);
        mask.put_pixel(0, 0, Luma([255]));
        assert_eq!(psnr_outside(&a, &b, Some(&mask)), Some(IDENTICAL));
        assert_eq!(psnr_outside(&a, &b, Some(&GrayImage::from_pixel(4, 4, Luma([1])))), None);
        assert_eq!(psnr_outside(&a, &RgbImage::new(4, 5), None), None);
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
