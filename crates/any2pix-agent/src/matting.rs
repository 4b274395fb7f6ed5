//! `cut_out`: the object of a reference picture, without what is around it.

use std::collections::VecDeque;

use any2pix_encoders::image::Picture;
use any2pix_encoders::locator::Locator;
use any2pix_encoders::resize::{self, Filter};
use candle_core::Result;
use image::{DynamicImage, RgbImage, Rgba, RgbaImage, imageops};

use crate::locate::{Region, rect_of};
use crate::planes::{Pixels, Plane, to_byte};

/// Longer side at which a reference is cut out; no window shows it larger.
const WORKING_SIDE: u32 = 1024;
/// A background is plain when so much of the border is of one colour.
const PLAIN_SHARE: f32 = 0.85;
/// Largest difference of a channel within one colour, in a compressed photo.
const SAME_COLOUR: u8 = 26;

/// From here on the locator is sure that something stands out.
const SURE: f32 = 0.6;
/// Parts of a picture that a thing may cover.
const THING: std::ops::Range<f32> = 0.02..0.9;
/// Longer side at which a mask is drawn to a picture's edges.
const FOLLOWED_SIDE: f32 = 192.0;

/// How the object was told from its background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matte {
    /// The picture is transparent around it.
    Alpha,
    /// The background is plain.
    PlainBackground,
    /// The locator saw something that stands out.
    StandsOut,
    /// None of these: an ellipse in the middle, soft at its edge.
    SoftCentre,
}

/// The object in `picture`, cropped to what is visible of it, and how it was found; `locator` is
/// asked where neither transparency nor a plain background says it.
pub fn cut_out(picture: &Picture, locator: &Locator) -> Result<(RgbaImage, Matte)> {
    let scale = f64::from(WORKING_SIDE) / f64::from(longer_side(&picture.rgb)).max(1.0);
    let rgba = match (&picture.rgba, scale < 1.0) {
        (Some(rgba), true) => {
            let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
            imageops::thumbnail(rgba, side(rgba.width()), side(rgba.height()))
        }
        (Some(rgba), false) => rgba.clone(),
        (None, true) => {
            let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
            let size = (side(picture.rgb.width()), side(picture.rgb.height()));
            opaque(resize::resize(&picture.rgb, size, Filter::Bicubic))
        }
        (None, false) => opaque(picture.rgb.clone()),
    };
    let transparent = rgba.pixels().filter(|p| p.0[3] < 128).count();
    let (mut rgba, matte) = if transparent * 50 > rgba.pixels().len() {
        (rgba, Matte::Alpha)
    } else if let Some(alpha) = plain_background(&rgba) {
        (with_alpha(rgba, &alpha), Matte::PlainBackground)
    } else if let Some(alpha) = stands_out(&picture.rgb, locator)? {
        (with_alpha(rgba, &alpha), Matte::StandsOut)
    } else {
        let alpha = soft_centre(rgba.width(), rgba.height());
        (with_alpha(rgba, &alpha), Matte::SoftCentre)
    };
    let (x, y, width, height) = visible(&rgba);
    Ok((imageops::crop(&mut rgba, x, y, width, height).to_image(), matte))
}

fn longer_side(picture: &RgbImage) -> u32 {
    picture.width().max(picture.height())
}

fn opaque(picture: RgbImage) -> RgbaImage {
    DynamicImage::ImageRgb8(picture).into_rgba8()
}

/// `alpha` may be of any size.
fn with_alpha(mut picture: RgbaImage, alpha: &Plane) -> RgbaImage {
    let (width, height) = (picture.width() as f32, picture.height() as f32);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let alpha = alpha.sample((x as f32 + 0.5) / width, (y as f32 + 0.5) / height);
        pixel.0[3] = to_byte(alpha * f32::from(pixel.0[3]) / 255.0);
    }
    picture
}

/// What the locator takes for the thing of a picture, when it is sure and leaves something over.
fn stands_out(picture: &RgbImage, locator: &Locator) -> Result<Option<Plane>> {
    let Some(answer) = locator.things(picture, 1)?.pop() else { return Ok(None) };
    let mask = Plane { width: answer.side, height: answer.side, values: answer.mask };
    let size = picture.dimensions();
    let mask = Region::within(rect_of(answer.bbox, size), &mask, size).mask;
    let share =
        mask.values.iter().filter(|value| **value >= 0.5).count() as f32 / mask.values.len() as f32;
    let is_thing = answer.confidence >= SURE && THING.contains(&share);
    Ok(is_thing.then(|| followed(&mask, picture)))
}

/// A coarse mask over a picture drawn to the picture's edges (guided filter, He et al. 2010), at
/// [`FOLLOWED_SIDE`] pixels on the longer side.
pub(crate) fn followed(mask: &Plane, picture: &RgbImage) -> Plane {
    const RADIUS: usize = 4;
    const SMOOTH: f32 = 1e-4;
    let scale = (FOLLOWED_SIDE / longer_side(picture) as f32).min(1.0);
    let side = |length: u32| ((length as f32 * scale).round() as u32).max(1);
    let (width, height) = (side(picture.width()), side(picture.height()));
    let guide = Pixels::from_rgb(&resize::resize(picture, (width, height), Filter::Bicubic));
    let mask = mask.resampled(width as usize, height as usize);
    let mut sum = Plane::filled(width as usize, height as usize, 0.0);
    for channel in &guide.0 {
        let (slope, offset) = channel.line_to(&mask, RADIUS, SMOOTH, f32::MIN..=f32::MAX);
        let line = channel.through(&slope.blurred(RADIUS), &offset.blurred(RADIUS));
        sum = sum.zip(&line, |sum, line| sum + line / 3.0);
    }
    sum.map(|value| ((value - 0.25) / 0.3).clamp(0.0, 1.0))
}

fn is_near(a: &Rgba<u8>, b: &Rgba<u8>) -> bool {
    (0..3).all(|c| a.0[c].abs_diff(b.0[c]) <= SAME_COLOUR)
}

/// Opacity of what is not connected to the border by the border's colour, when the border has
/// one and something is left.
fn plain_background(picture: &RgbaImage) -> Option<Plane> {
    let (width, height) = picture.dimensions();
    let border: Vec<(u32, u32)> = (0..width)
        .flat_map(|x| [(x, 0), (x, height - 1)])
        .chain((1..height.saturating_sub(1)).flat_map(|y| [(0, y), (width - 1, y)]))
        .collect();
    let median = |c: usize| {
        let mut values: Vec<u8> =
            border.iter().map(|(x, y)| picture.get_pixel(*x, *y).0[c]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let plain = Rgba([median(0), median(1), median(2), 255]);
    let is_plain = |(x, y): &(u32, u32)| is_near(picture.get_pixel(*x, *y), &plain);
    let mut queue: VecDeque<(u32, u32)> = border.iter().copied().filter(is_plain).collect();
    if (queue.len() as f32) < PLAIN_SHARE * border.len() as f32 {
        return None;
    }
    let mut filled = vec![false; (width * height) as usize];
    while let Some((x, y)) = queue.pop_front() {
        let index = (y * width + x) as usize;
        if filled[index] || !is_plain(&(x, y)) {
            continue;
        }
        filled[index] = true;
        queue.extend((x > 0).then(|| (x - 1, y)));
        queue.extend((y > 0).then(|| (x, y - 1)));
        queue.extend((x + 1 < width).then_some((x + 1, y)));
        queue.extend((y + 1 < height).then_some((x, y + 1)));
    }
    let left = filled.iter().filter(|f| !**f).count();
    // A picture of one colour has no object.
    if left * 100 < filled.len() {
        return None;
    }
    let values = filled.iter().map(|filled| f32::from(!filled)).collect();
    let alpha = Plane { width: width as usize, height: height as usize, values };
    // The background's colour bleeds into the object's rim.
    Some(alpha.eroded(1).blurred(1))
}

fn soft_centre(width: u32, height: u32) -> Plane {
    let unit = |at: usize, length: u32| (at as f32 + 0.5) / length as f32 * 2.0 - 1.0;
    Plane::from_fn(width as usize, height as usize, |x, y| {
        let radius = (unit(x, width).powi(2) + unit(y, height).powi(2)).sqrt();
        ((1.0 - radius) / 0.3).clamp(0.0, 1.0)
    })
}

/// The smallest rectangle with everything that can be seen; the whole when nothing can.
fn visible(picture: &RgbaImage) -> (u32, u32, u32, u32) {
    let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
    for (x, y, pixel) in picture.enumerate_pixels() {
        if pixel.0[3] > 16 {
            (left, right) = (left.min(x), right.max(x + 1));
            (top, bottom) = (top.min(y), bottom.max(y + 1));
        }
    }
    if left >= right {
        return (0, 0, picture.width(), picture.height());
    }
    (left, top, right - left, bottom - top)
}

#[cfg(test)]
pub(crate) mod tests {
    use any2pix_encoders::locator::LocatorConfig;
    use any2pix_nn::Parameters;
    use candle_core::Device;
    use image::Rgb;

    use super::*;

    /// Not sure of anything.
    pub(crate) fn untrained() -> Locator {
        let config = LocatorConfig {
            sample_size: 32,
            patch_size: 4,
            block_out_channels: vec![8],
            layers_per_block: 1,
            embed_dim: 4,
            match_dim: 4,
        };
        Locator::load(Parameters::new(1).builder(&Device::Cpu), &config).unwrap()
    }

    fn cut_out(picture: &Picture) -> (RgbaImage, Matte) {
        super::cut_out(picture, &untrained()).unwrap()
    }

    #[test]
    fn a_coarse_mask_follows_the_edges_of_the_picture() {
        let rgb = square_on(|_, _| Rgb([20, 40, 60]));
        // Cells of five pixels cannot say where the square of twelve ends.
        let inside = |at: usize| (2..4).contains(&at);
        let coarse = Plane::from_fn(8, 6, |x, y| f32::from(inside(x) && inside(y)));
        let mask = followed(&coarse, &rgb);
        assert_eq!((mask.width, mask.height), (40, 30));
        for (x, y, least, most) in
            [(16, 14, 0.9, 1.0), (20, 12, 0.5, 1.0), (23, 14, 0.0, 0.1), (2, 2, 0.0, 0.0)]
        {
            assert!((least..=most).contains(&mask.at(x, y)), "{x} {y}: {}", mask.at(x, y));
        }
    }

    fn picture(rgb: RgbImage, rgba: Option<RgbaImage>) -> Picture {
        Picture { rgb, rgba, warnings: Vec::new() }
    }

    fn square_on(background: impl Fn(u32, u32) -> Rgb<u8>) -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| {
            let inside = (10..22).contains(&x) && (8..20).contains(&y);
            if inside { Rgb([200, 30, 30]) } else { background(x, y) }
        })
    }

    #[test]
    fn transparency_is_taken_at_its_word() {
        let rgb = square_on(|_, _| Rgb([255, 255, 255]));
        let rgba = RgbaImage::from_fn(40, 30, |x, y| {
            let [r, g, b] = rgb.get_pixel(x, y).0;
            Rgba([r, g, b, if r == 200 { 255 } else { 0 }])
        });
        let (cut, matte) = cut_out(&picture(rgb, Some(rgba)));
        assert_eq!((matte, cut.dimensions()), (Matte::Alpha, (12, 12)));
        assert!(cut.pixels().all(|p| p.0 == [200, 30, 30, 255]));
    }

    #[test]
    fn a_plain_background_is_filled_away_from_the_border() {
        let noisy = |x: u32, y: u32| Rgb([240 + ((x * 7 + y * 3) % 9) as u8; 3]);
        let mut rgb = square_on(noisy);
        // A hole of the background's colour inside the object stays.
        rgb.put_pixel(15, 14, Rgb([244; 3]));
        let (cut, matte) = cut_out(&picture(rgb, None));
        assert_eq!(matte, Matte::PlainBackground);
        assert!((11..=16).contains(&cut.width()), "{:?}", cut.dimensions());
        let centre = cut.get_pixel(cut.width() / 2, cut.height() / 2).0;
        assert_eq!((centre[0], centre[3]), (200, 255));
    }

    #[test]
    fn without_either_the_middle_is_kept_softly() {
        let rgb = square_on(|x, y| Rgb([(x * 6) as u8, (y * 8) as u8, ((x * y) % 251) as u8]));
        let (cut, matte) = cut_out(&picture(rgb, None));
        assert_eq!(matte, Matte::SoftCentre);
        assert_eq!(cut.get_pixel(cut.width() / 2, cut.height() / 2).0[3], 255);
        assert!(cut.get_pixel(0, 0).0[3] < 32);
    }

    #[test]
    fn a_large_reference_is_cut_out_at_a_working_size() {
        let rgb = RgbImage::from_fn(3000, 1500, |x, y| {
            let inside = (1000..2000).contains(&x) && (500..1000).contains(&y);
            Rgb(if inside { [10, 20, 200] } else { [250; 3] })
        });
        let (cut, matte) = cut_out(&picture(rgb, None));
        assert_eq!(matte, Matte::PlainBackground);
        assert!((330..350).contains(&cut.width()), "{:?}", cut.dimensions());
    }
}
