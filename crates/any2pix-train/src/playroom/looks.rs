//! Global looks: night, snow, rain, sepia and the like, as exact functions of a picture.

use any2pix_nn::Generator;
use image::{GrayImage, Rgb, RgbImage};

use super::colour::{self, Hsv};

/// A look by name, and how people say it.
pub struct Look {
    /// The word in a plan.
    pub name: &'static str,
    /// Ways to say it behind "make it".
    pub phrases: &'static [&'static str],
    /// What a caption adds.
    pub caption: &'static str,
}

macro_rules! look {
    ($name:literal, $caption:literal, [$($phrase:literal),+]) => {
        Look { name: $name, phrases: &[$($phrase),+], caption: $caption }
    };
}

/// All looks.
pub const LOOKS: &[Look] = &[
    look!("night", "at night", ["night", "night time", "look like night", "dark and at night"]),
    look!("snow", "in the snow", ["snowy", "snow", "look like it is snowing", "a snowy day"]),
    look!("rain", "in the rain", ["rainy", "rain", "look like it is raining", "a rainy day"]),
    look!("storm", "in a storm", ["stormy", "look stormy", "a stormy day", "windy and dark"]),
    look!("fog", "in the fog", ["foggy", "misty", "look foggy", "full of fog"]),
    look!("sunset", "at sunset", ["sunset", "look like sunset", "evening", "a golden evening"]),
    look!("autumn", "in autumn", ["autumn", "look like autumn", "fall", "autumnal"]),
    look!("sepia", "in sepia", ["sepia", "sepia toned", "an old brown photo", "look antique"]),
    look!(
        "black and white",
        "in black and white",
        ["black and white", "grayscale", "monochrome", "an old black and white photo"]
    ),
    look!("sketch", "as a sketch", ["a sketch", "a pencil drawing", "look hand drawn", "sketched"]),
    look!("vintage", "in vintage colours", ["vintage", "retro", "look faded", "an old photo"]),
    look!("underwater", "under water", ["underwater", "under water", "look submerged", "deep sea"]),
    look!("neon", "in neon colours", ["neon", "glow in neon", "vivid neon", "neon coloured"]),
    look!(
        "pastel",
        "in pastel colours",
        ["pastel", "soft pastel", "pale and soft", "pastel coloured"]
    ),
    look!("bright", "in bright light", ["brighter", "bright", "full of light", "sunny"]),
];

/// The look called `name`.
pub fn look(name: &str) -> Option<&'static Look> {
    LOOKS.iter().find(|look| look.name == name)
}

/// `picture` under the look called `name`; weather falls where `generator` says.
pub fn apply(name: &str, picture: &RgbImage, generator: &mut Generator) -> RgbImage {
    let mut result = picture.clone();
    match name {
        "night" => tint(&mut result, [0.22, 0.28, 0.52], 0.75, 2.0),
        "snow" => {
            tint(&mut result, [0.92, 0.97, 1.05], 0.45, 38.0);
            snow(&mut result, generator);
        }
        "rain" => {
            tint(&mut result, [0.66, 0.72, 0.80], 0.5, 4.0);
            rain(&mut result, generator);
        }
        "storm" => {
            tint(&mut result, [0.48, 0.53, 0.58], 0.4, 0.0);
            contrast(&mut result, 1.2);
        }
        "fog" => fog(&mut result),
        "sunset" => sunset(&mut result),
        "autumn" => autumn(&mut result),
        "sepia" => tint(&mut result, [1.08, 0.88, 0.64], 0.0, 8.0),
        "black and white" => tint(&mut result, [1.0; 3], 0.0, 0.0),
        "sketch" => sketch(&mut result),
        "vintage" => {
            tint(&mut result, [0.95, 0.88, 0.74], 0.5, 24.0);
            contrast(&mut result, 0.85);
        }
        "underwater" => tint(&mut result, [0.32, 0.72, 0.86], 0.6, 14.0),
        "neon" => {
            saturate(&mut result, 2.2);
            contrast(&mut result, 1.35);
        }
        "pastel" => {
            tint(&mut result, [0.55; 3], 0.8, 108.0);
        }
        _ => tint(&mut result, [1.28, 1.26, 1.2], 1.0, 14.0),
    }
    result
}

/// Keeps `saturation` of the colour, multiplies by `gain`, adds `lift`.
fn tint(picture: &mut RgbImage, gain: [f32; 3], saturation: f32, lift: f32) {
    for pixel in picture.pixels_mut() {
        let grey = colour::luma(pixel);
        for c in 0..3 {
            let kept = grey + (f32::from(pixel[c]) - grey) * saturation;
            pixel[c] = (kept * gain[c] + lift).clamp(0.0, 255.0) as u8;
        }
    }
}

fn contrast(picture: &mut RgbImage, factor: f32) {
    for value in picture.iter_mut() {
        *value = ((f32::from(*value) - 120.0) * factor + 120.0).clamp(0.0, 255.0) as u8;
    }
}

/// Multiplies the saturation.
pub(super) fn saturate(picture: &mut RgbImage, factor: f32) {
    for pixel in picture.pixels_mut() {
        let grey = colour::luma(pixel);
        for c in 0..3 {
            let value = grey + (f32::from(pixel[c]) - grey) * factor;
            pixel[c] = value.clamp(0.0, 255.0) as u8;
        }
    }
}

fn snow(picture: &mut RgbImage, generator: &mut Generator) {
    let scale = picture.width() as f32 / 128.0;
    for _ in 0..110 {
        let x = generator.uniform() * picture.width() as f32;
        let y = generator.uniform() * picture.height() as f32;
        let radius = generator.uniform_in(0.6, 1.8) * scale;
        let strength = generator.uniform_in(0.6, 1.0);
        disc(picture, (x, y), radius, strength);
    }
}

fn disc(picture: &mut RgbImage, (x, y): (f32, f32), radius: f32, strength: f32) {
    let reach = radius.ceil() as i64 + 1;
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let (px, py) = (x as i64 + dx, y as i64 + dy);
            let distance = libm::hypotf(px as f32 + 0.5 - x, py as f32 + 0.5 - y);
            let alpha = (radius + 0.5 - distance).clamp(0.0, 1.0) * strength;
            blend(picture, px, py, [250.0, 252.0, 255.0], alpha);
        }
    }
}

fn rain(picture: &mut RgbImage, generator: &mut Generator) {
    let scale = picture.width() as f32 / 128.0;
    let slant = generator.uniform_in(-0.35, 0.35);
    for _ in 0..90 {
        let x = generator.uniform() * picture.width() as f32;
        let y = generator.uniform() * picture.height() as f32;
        let length = generator.uniform_in(6.0, 15.0) * scale;
        for step in 0..length as i64 {
            let px = (x + slant * step as f32) as i64;
            blend(picture, px, y as i64 + step, [200.0, 215.0, 235.0], 0.42);
        }
    }
}

fn blend(picture: &mut RgbImage, x: i64, y: i64, over: [f32; 3], alpha: f32) {
    if x < 0 || y < 0 || x >= i64::from(picture.width()) || y >= i64::from(picture.height()) {
        return;
    }
    let pixel = picture.get_pixel_mut(x as u32, y as u32);
    for c in 0..3 {
        pixel[c] = (f32::from(pixel[c]) * (1.0 - alpha) + over[c] * alpha) as u8;
    }
}

/// Thicker towards the top, where things are far.
fn fog(picture: &mut RgbImage) {
    let height = picture.height() as f32;
    for (_, y, pixel) in picture.enumerate_pixels_mut() {
        let alpha = 0.82 - 0.42 * y as f32 / height;
        for c in 0..3 {
            pixel[c] = (f32::from(pixel[c]) * (1.0 - alpha) + 214.0 * alpha) as u8;
        }
    }
}

fn sunset(picture: &mut RgbImage) {
    let height = picture.height() as f32;
    for (_, y, pixel) in picture.enumerate_pixels_mut() {
        let down = y as f32 / height;
        let gain = [1.18, 0.74 + 0.08 * down, 0.48 + 0.08 * down];
        let lift = [26.0 * (1.0 - down), 6.0 * (1.0 - down), 0.0];
        for c in 0..3 {
            pixel[c] = (f32::from(pixel[c]) * gain[c] + lift[c]).clamp(0.0, 255.0) as u8;
        }
    }
}

/// Greens become orange and brown.
fn autumn(picture: &mut RgbImage) {
    for pixel in picture.pixels_mut() {
        let mut hsv = Hsv::of(pixel);
        if (50.0..170.0).contains(&hsv.hue) {
            hsv.hue = 18.0 + (hsv.hue - 50.0) * 0.2;
            hsv.saturation = (hsv.saturation * 1.25).min(1.0);
        }
        let [red, green, blue] = hsv.rgb().0;
        let warm = |value: u8, gain: f32| (f32::from(value) * gain).min(255.0) as u8;
        *pixel = Rgb([warm(red, 1.08), warm(green, 0.96), warm(blue, 0.8)]);
    }
}

/// Dark lines where brightness changes, on paper, with a little shading.
fn sketch(picture: &mut RgbImage) {
    let (width, height) = picture.dimensions();
    let grey = GrayImage::from_fn(width, height, |x, y| {
        image::Luma([colour::luma(picture.get_pixel(x, y)) as u8])
    });
    let at = |x: i64, y: i64| {
        let column = x.clamp(0, i64::from(width) - 1) as u32;
        let row = y.clamp(0, i64::from(height) - 1) as u32;
        f32::from(grey.get_pixel(column, row)[0])
    };
    for y in 0..height {
        for x in 0..width {
            let (column, row) = (i64::from(x), i64::from(y));
            let dx = at(column + 1, row) - at(column - 1, row);
            let dy = at(column, row + 1) - at(column, row - 1);
            let line = (libm::hypotf(dx, dy) * 1.9).min(220.0);
            let paper = 232.0 + 0.09 * (at(column, row) - 128.0);
            let value = (paper - line).clamp(0.0, 255.0) as u8;
            picture.put_pixel(x, y, Rgb([value, value, (f32::from(value) * 0.97) as u8]));
        }
    }
}
