//! Colours: hue shifts with names, palette transfer, and what music does to a picture.

use image::{Rgb, RgbImage, RgbaImage};

use super::looks;

/// Names of colours with their hue in degrees; the last has none.
pub const COLOURS: &[(&str, Option<f32>)] = &[
    ("red", Some(0.0)),
    ("orange", Some(28.0)),
    ("yellow", Some(52.0)),
    ("green", Some(120.0)),
    ("blue", Some(220.0)),
    ("purple", Some(280.0)),
    ("pink", Some(325.0)),
    ("gray", None),
];

/// Perceived brightness, 0..255.
pub fn luma(pixel: &Rgb<u8>) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

/// Hue in degrees, saturation and value in `0..1`.
#[derive(Clone, Copy, Debug)]
pub struct Hsv {
    /// Degrees.
    pub hue: f32,
    /// From grey to pure.
    pub saturation: f32,
    /// From black to full.
    pub value: f32,
}

impl Hsv {
    /// Of a pixel.
    pub fn of(pixel: &Rgb<u8>) -> Self {
        let [red, green, blue]: [f32; 3] = std::array::from_fn(|c| f32::from(pixel[c]) / 255.0);
        let most = red.max(green).max(blue);
        let range = most - red.min(green).min(blue);
        let hue = if range <= 0.0 {
            0.0
        } else if most == red {
            60.0 * ((green - blue) / range).rem_euclid(6.0)
        } else if most == green {
            60.0 * ((blue - red) / range + 2.0)
        } else {
            60.0 * ((red - green) / range + 4.0)
        };
        let saturation = if most > 0.0 { range / most } else { 0.0 };
        Self { hue, saturation, value: most }
    }

    /// As a pixel.
    pub fn rgb(self) -> Rgb<u8> {
        let chroma = self.value * self.saturation;
        let sector = self.hue.rem_euclid(360.0) / 60.0;
        let second = chroma * (1.0 - (sector % 2.0 - 1.0).abs());
        let [red, green, blue] = match sector as u32 {
            0 => [chroma, second, 0.0],
            1 => [second, chroma, 0.0],
            2 => [0.0, chroma, second],
            3 => [0.0, second, chroma],
            4 => [second, 0.0, chroma],
            _ => [chroma, 0.0, second],
        };
        let base = self.value - chroma;
        let byte = |value: f32| ((value + base) * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
        Rgb([byte(red), byte(green), byte(blue)])
    }
}

/// A cut-out in the colour of `hue` (grey without): shading is kept.
pub fn recolour(picture: &RgbaImage, hue: Option<f32>) -> RgbaImage {
    let mut result = picture.clone();
    for pixel in result.pixels_mut() {
        let colour = Rgb([pixel[0], pixel[1], pixel[2]]);
        let grey = luma(&colour) / 255.0;
        let new = match hue {
            Some(hue) => {
                let value = (0.25 + 0.75 * grey).min(1.0);
                let saturation = (0.85 * (1.15 - grey)).clamp(0.25, 0.9);
                Hsv { hue, saturation, value }.rgb()
            }
            None => Rgb([(grey * 255.0) as u8; 3]),
        };
        pixel.0[..3].copy_from_slice(&new.0);
    }
    result
}

/// Turns the hues of a cut-out by so many degrees, and multiplies saturation and value.
pub fn turn(picture: &mut RgbaImage, degrees: f32, saturation: f32, value: f32) {
    for pixel in picture.pixels_mut() {
        let old = Hsv::of(&Rgb([pixel[0], pixel[1], pixel[2]]));
        let new = Hsv {
            hue: old.hue + degrees,
            saturation: (old.saturation * saturation).min(1.0),
            value: (old.value * value).min(1.0),
        };
        pixel.0[..3].copy_from_slice(&new.rgb().0);
    }
}

/// `picture` with the palette of `style`: mean and spread of brightness and both colour axes.
pub fn match_palette(picture: &RgbImage, style: &RgbImage, strength: f32) -> RgbImage {
    let from = statistics(picture);
    let to = statistics(style);
    let mut result = picture.clone();
    for pixel in result.pixels_mut() {
        let mut axes = opponent(pixel);
        for c in 0..3 {
            let spread = (to[c].1 / from[c].1.max(1.0)).clamp(0.4, 2.5);
            let moved = (axes[c] - from[c].0) * spread + to[c].0;
            axes[c] += (moved - axes[c]) * strength;
        }
        *pixel = from_opponent(axes);
    }
    result
}

/// Brightness, red-green and yellow-blue.
fn opponent(pixel: &Rgb<u8>) -> [f32; 3] {
    let [red, green, blue]: [f32; 3] = std::array::from_fn(|c| f32::from(pixel[c]));
    [(red + green + blue) / 3.0, red - green, (red + green) * 0.5 - blue]
}

fn from_opponent([brightness, red_green, yellow_blue]: [f32; 3]) -> Rgb<u8> {
    let mean = brightness + yellow_blue / 3.0;
    let byte = |value: f32| (value + 0.5).clamp(0.0, 255.0) as u8;
    Rgb([byte(mean + red_green * 0.5), byte(mean - red_green * 0.5), byte(mean - yellow_blue)])
}

/// Mean and standard deviation of each axis.
fn statistics(picture: &RgbImage) -> [(f32, f32); 3] {
    let mut sums = [(0f64, 0f64); 3];
    for pixel in picture.pixels() {
        for (sum, value) in sums.iter_mut().zip(opponent(pixel)) {
            sum.0 += f64::from(value);
            sum.1 += f64::from(value) * f64::from(value);
        }
    }
    let count = f64::from(picture.width() * picture.height()).max(1.0);
    sums.map(|(sum, squares)| {
        let mean = sum / count;
        (mean as f32, (squares / count - mean * mean).max(0.0).sqrt() as f32)
    })
}

/// What music does to a picture: mode → warmth, tempo → saturation, loudness → exposure.
pub fn fit_to_music(picture: &RgbImage, major: bool, tempo: u32, loudness: f32) -> RgbImage {
    let mut result = picture.clone();
    let quick = ((tempo as f32 - 56.0) / 112.0).clamp(0.0, 1.0);
    looks::saturate(&mut result, 0.35 + 1.15 * quick);
    let warmth = if major { [1.12, 1.0, 0.82] } else { [0.84, 0.96, 1.16] };
    let exposure = 0.62 + 0.6 * loudness;
    for pixel in result.pixels_mut() {
        for c in 0..3 {
            pixel[c] = (f32::from(pixel[c]) * warmth[c] * exposure).min(255.0) as u8;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_survive_both_round_trips() {
        for pixel in [[12, 200, 90], [255, 0, 0], [90, 90, 90], [7, 3, 250]] {
            let pixel = Rgb(pixel);
            let close = |other: Rgb<u8>| {
                (0..3).all(|c| (i32::from(pixel[c]) - i32::from(other[c])).abs() <= 1)
            };
            assert!(close(Hsv::of(&pixel).rgb()), "{pixel:?}");
            assert!(close(from_opponent(opponent(&pixel))), "{pixel:?}");
        }
    }
}
