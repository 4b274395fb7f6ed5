//! Structural similarity, as its authors define it: Gaussian windows, each channel by itself.

use image::RgbImage;

use super::pixels::Where;

/// Pixels from the middle of a window to its edge.
const RADIUS: usize = 5;
const SIGMA: f64 = 1.5;
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

fn window() -> [f64; 2 * RADIUS + 1] {
    let raw: [f64; 2 * RADIUS + 1] = std::array::from_fn(|i| {
        let x = i as f64 - RADIUS as f64;
        (-x * x / (2.0 * SIGMA * SIGMA)).exp()
    });
    let sum: f64 = raw.iter().sum();
    raw.map(|weight| weight / sum)
}

/// Weighted means over every window that lies wholly in the picture.
fn means(plane: &[f64], (width, height): (usize, usize)) -> Vec<f64> {
    let weights = window();
    let across: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| {
            row.windows(weights.len()).map(|w| w.iter().zip(weights).map(|(v, k)| v * k).sum())
        })
        .collect();
    let (columns, rows) = (width - 2 * RADIUS, height - 2 * RADIUS);
    let at = |index: usize| -> f64 {
        let (x, y) = (index % columns, index / columns);
        weights.iter().enumerate().map(|(i, k)| across[(y + i) * columns + x] * k).sum()
    };
    (0..columns * rows).map(at).collect()
}

/// Mean similarity over the windows whose middle is compared: 1 for pictures that do not differ;
/// nothing when the sizes differ or no whole window has its middle there.
pub fn ssim(a: &RgbImage, b: &RgbImage, place: Where<'_>) -> Option<f64> {
    let size = (a.width() as usize, a.height() as usize);
    let fits = a.dimensions() == b.dimensions() && place.fits(a.dimensions());
    if !fits || size.0 <= 2 * RADIUS || size.1 <= 2 * RADIUS {
        return None;
    }
    let columns = size.0 - 2 * RADIUS;
    let (mut sum, mut count) = (0.0, 0usize);
    for channel in 0..3 {
        let plane = |picture: &RgbImage| -> Vec<f64> {
            picture.pixels().map(|p| f64::from(p.0[channel])).collect()
        };
        let (a, b) = (plane(a), plane(b));
        let product = |x: &[f64], y: &[f64]| -> Vec<f64> {
            means(&x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<_>>(), size)
        };
        let (mean_a, mean_b) = (means(&a, size), means(&b, size));
        let (aa, bb, ab) = (product(&a, &a), product(&b, &b), product(&a, &b));
        for index in 0..mean_a.len() {
            let (x, y) = (index % columns + RADIUS, index / columns + RADIUS);
            if !place.takes(x as u32, y as u32) {
                continue;
            }
            let (ma, mb) = (mean_a[index], mean_b[index]);
            let (va, vb) = (aa[index] - ma * ma, bb[index] - mb * mb);
            let covariance = ab[index] - ma * mb;
            let likeness = (2.0 * ma * mb + C1) * (2.0 * covariance + C2);
            sum += likeness / ((ma * ma + mb * mb + C1) * (va + vb + C2));
            count += 1;
        }
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, Rgb};

    fn picture(step: u32) -> RgbImage {
        RgbImage::from_fn(31, 23, |x, y| {
            let value = |c: u32| ((x * x + 3 * y * y + x * y * step + 40 * c) % 256) as u8;
            Rgb([value(0), value(1), value(2)])
        })
    }

    /// The number is an independent implementation's (convolutions in NumPy, the same pictures).
    #[test]
    fn agrees_with_another_implementation_and_is_one_for_the_same_picture() {
        let (a, b) = (picture(1), picture(2));
        let found = ssim(&a, &b, Where::Everywhere).unwrap();
        assert!((found + 0.094_307_953_944_605).abs() < 1e-9, "{found}");
        assert!((ssim(&a, &a, Where::Everywhere).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(ssim(&a, &RgbImage::new(31, 22), Where::Everywhere), None);
        assert_eq!(ssim(&RgbImage::new(10, 10), &RgbImage::new(10, 10), Where::Everywhere), None);
    }

    #[test]
    fn differences_count_where_they_are_asked_for() {
        let a = picture(1);
        let mut b = a.clone();
        b.put_pixel(6, 6, Rgb([255, 255, 255]));
        let near =
            |x: u32, y: u32| x.abs_diff(6) <= RADIUS as u32 && y.abs_diff(6) <= RADIUS as u32;
        let mask = GrayImage::from_fn(31, 23, |x, y| Luma([u8::from(near(x, y))]));
        assert!((ssim(&a, &b, Where::Outside(&mask)).unwrap() - 1.0).abs() < 1e-12);
        assert!(ssim(&a, &b, Where::Inside(&mask)).unwrap() < 0.99);
    }
}
