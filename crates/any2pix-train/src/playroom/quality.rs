//! Quality of rendering that is under control: clean scenes, and the same degraded with a score.

use any2pix_nn::Generator;
use image::{Rgb, RgbImage, imageops};

/// Score of a cleanly rendered scene.
pub const CLEAN: f32 = 7.0;
/// Score of the worst.
pub const WORST: f32 = 2.0;

/// A degraded copy of `picture` with its score between [`WORST`] and [`CLEAN`].
pub fn degrade(picture: &RgbImage, generator: &mut Generator) -> (RgbImage, f32) {
    let severity = generator.uniform_in(0.1, 1.0);
    let mut result = picture.clone();
    let first = generator.below(5);
    apply(first, &mut result, severity, generator);
    if generator.chance(0.4) {
        let second = (first + 1 + generator.below(4)) % 5;
        apply(second, &mut result, severity * 0.6, generator);
    }
    (result, CLEAN + (WORST - CLEAN) * severity)
}

fn apply(way: usize, picture: &mut RgbImage, severity: f32, generator: &mut Generator) {
    match way {
        0 => *picture = imageops::blur(picture, 0.6 + 2.6 * severity),
        1 => noise(picture, 8.0 + 52.0 * severity, generator),
        2 => blocks(picture, 2 + (severity * 4.0) as u32),
        3 => cast(picture, severity, generator),
        _ => exposure(picture, severity, generator),
    }
}

fn noise(picture: &mut RgbImage, strength: f32, generator: &mut Generator) {
    for value in picture.iter_mut() {
        let grain = generator.uniform() + generator.uniform() - 1.0;
        *value = (f32::from(*value) + grain * strength).clamp(0.0, 255.0) as u8;
    }
}

/// Coarse pixels with few levels.
fn blocks(picture: &mut RgbImage, size: u32) {
    let levels = 32.0;
    let source = picture.clone();
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let from = source.get_pixel(x / size * size, y / size * size);
        let coarse = |v: u8| ((f32::from(v) / levels).floor() * levels + levels * 0.5) as u8;
        *pixel = Rgb(from.0.map(coarse));
    }
}

fn cast(picture: &mut RgbImage, severity: f32, generator: &mut Generator) {
    let mut gain = [1.0f32; 3];
    gain[generator.below(3)] -= 0.7 * severity;
    gain[generator.below(3)] += 0.4 * severity;
    for pixel in picture.pixels_mut() {
        for c in 0..3 {
            pixel[c] = (f32::from(pixel[c]) * gain[c]).clamp(0.0, 255.0) as u8;
        }
    }
}

fn exposure(picture: &mut RgbImage, severity: f32, generator: &mut Generator) {
    let (gain, lift) = if generator.chance(0.5) {
        (1.0 - 0.75 * severity, 0.0)
    } else {
        (1.0 + 0.4 * severity, 110.0 * severity)
    };
    for value in picture.iter_mut() {
        *value = (f32::from(*value) * gain + lift).clamp(0.0, 255.0) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_scores_are_farther_from_the_clean_picture() {
        let clean = RgbImage::from_fn(32, 32, |x, y| {
            Rgb([(x * 8) as u8, (y * 8) as u8, ((x ^ y) * 8) as u8])
        });
        let mut near = (0.0, 0);
        let mut far = (0.0, 0);
        for seed in 0..200 {
            let (picture, score) = degrade(&clean, &mut Generator::new(seed));
            assert!((WORST..=CLEAN).contains(&score));
            let distance: f64 =
                clean.iter().zip(picture.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
            let group = if score > 4.5 { &mut near } else { &mut far };
            *group = (group.0 + distance, group.1 + 1);
        }
        assert!(near.0 / f64::from(near.1) < far.0 / f64::from(far.1));
    }
}
