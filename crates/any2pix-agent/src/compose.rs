//! Back to the source's own pixels: what the edit did not mean to touch stays as it was.

use image::{Rgb, RgbImage, RgbaImage};

use crate::outcome::Rect;
use crate::planes::{Pixels, Plane, to_byte};

/// Differences of a colour channel below the first number are the codec's, above the second
/// the edit's.
const CHANGE: (f32, f32) = (0.05, 0.14);

/// What remains of a change of the whole picture counts as grain below the first number, as drawn
/// above the second.
const GRAIN: (f32, f32) = (0.12, 0.25);

/// How deep the painter's outermost cells are, in parts of a picture's side.
const BORDER: f32 = 1.0 / 14.0;

/// A full-size picture that stands in the source, with its alpha.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The picture at its size in the source.
    pub image: RgbaImage,
    /// Left edge in the source.
    pub x: i64,
    /// Upper edge in the source.
    pub y: i64,
}

/// What a painter did to a window, at the painter's resolution.
#[derive(Clone, Debug)]
pub struct Painted {
    /// Where the window is in the source.
    pub window: Rect,
    /// What the painter was given, through its codec.
    pub before: Pixels,
    /// What it made of it.
    pub after: Pixels,
    /// Where it may have changed something, 0 to 1.
    pub region: Plane,
    /// Where `before` shows something that the source does not, 0 to 1: a filled hole, a reference.
    pub drafted: Plane,
    /// A reference picture that `before` holds already, at full size.
    pub layer: Option<Layer>,
}

fn smoothstep(low: f32, high: f32, value: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Where a painter changed something on purpose, 0 to 1: the difference of what it was given
/// and of what it made, both through its codec, inside the region, without specks and holes.
pub fn change_mask(before: &Pixels, after: &Pixels, region: &Plane) -> Plane {
    let [r, g, b] = before.zip(after, |a, b| (a - b).abs()).0;
    let difference = r.zip(&g, f32::max).zip(&b, f32::max).blurred(1);
    let change = difference.map(|d| smoothstep(CHANGE.0, CHANGE.1, d));
    // Opening drops specks, closing fills holes.
    let solid = change.eroded(1).dilated(3).eroded(2);
    solid.zip(region, |change, region| change * region)
}

/// Puts a painted window back into `picture`.
///
/// Inside the mask of change the painter's pixels count. Where a reference picture stands, its
/// full-size pixels are shifted by what the painter changed in them, as far as the painter
/// agrees with the reference at all.
pub fn stitch(picture: &mut RgbImage, painted: &Painted) {
    let mask = change_mask(&painted.before, &painted.after, &painted.region);
    // What the draft changed already is no difference, where the painter agrees with it.
    let mask = mask.zip(&painted.drafted, f32::max);
    let mask = mask.blurred(1).zip(&painted.region, f32::min);
    let delta = painted.after.zip(&painted.before, |after, before| after - before);
    for_window(picture, painted.window, |x, y, u, v, pixel| {
        let mask = mask.sample(u, v);
        let over = painted.layer.as_ref().and_then(|layer| layer_pixel(layer, x, y));
        if mask <= 0.0 && over.is_none() {
            return;
        }
        let after = painted.after.sample(u, v);
        let delta = delta.sample(u, v);
        let agreement = 1.0 - smoothstep(0.15, 0.4, largest(&delta));
        let (colour, alpha) = over.unwrap_or(([0.0; 3], 0.0));
        for c in 0..3 {
            let source = f32::from(pixel.0[c]) / 255.0;
            let painted = source * (1.0 - mask) + after[c] * mask;
            let sharp = colour[c] + delta[c];
            let weight = alpha * agreement;
            pixel.0[c] = to_byte(painted * (1.0 - weight) + sharp * weight);
        }
    });
}

/// Puts the painter's change of the whole picture over `picture`, which keeps its detail.
///
/// Around every place the change is a line in the colour that was there (darker, paler, less
/// contrast) and a rest. The line is applied to the full-size pixels; of the rest, what is strong
/// enough to be meant (snow, strokes) is added, and the codec's grain is not.
pub fn relight(picture: &mut RgbImage, before: &Pixels, after: &Pixels) {
    let channels: Vec<[Plane; 3]> =
        before.0.iter().zip(&after.0).map(|(before, after)| local_line(before, after)).collect();
    let whole = Rect { x: 0, y: 0, width: picture.width(), height: picture.height() };
    for_window(picture, whole, |_, _, u, v, pixel| {
        // The painter's outermost cells see nothing beyond the picture: the next ones speak.
        let (u, v) = (u.clamp(BORDER, 1.0 - BORDER), v.clamp(BORDER, 1.0 - BORDER));
        for (value, [slope, offset, rest]) in pixel.0.iter_mut().zip(&channels) {
            let source = f32::from(*value) / 255.0;
            let rest = rest.sample(u, v);
            let drawn = rest * smoothstep(GRAIN.0, GRAIN.1, rest.abs());
            let change = slope.sample(u, v) * source + offset.sample(u, v) + drawn;
            *value = to_byte(source + change);
        }
    });
}

/// The change of a channel as a line in its value, fitted around each place: slope, offset, and
/// what the line leaves.
fn local_line(before: &Plane, after: &Plane) -> [Plane; 3] {
    const RADIUS: usize = 6;
    const NOISE: f32 = 1e-3;
    let delta = after.zip(before, |after, before| after - before);
    let (slope, offset) = before.line_to(&delta, RADIUS, NOISE, -1.0..=2.0);
    let line = before.through(&slope, &offset);
    let rest = delta.zip(&line, |delta, line| delta - line);
    [slope, offset, rest]
}

/// Puts the painter's pixels into the window as they are.
pub fn paste(picture: &mut RgbImage, window: Rect, after: &Pixels) {
    for_window(picture, window, |_, _, u, v, pixel| {
        *pixel = Rgb(after.sample(u, v).map(to_byte));
    });
}

/// Calls `change` with every pixel of the window, its place in the picture, and its place in the
/// window from 0 to 1.
fn for_window(
    picture: &mut RgbImage,
    window: Rect,
    mut change: impl FnMut(u32, u32, f32, f32, &mut Rgb<u8>),
) {
    let right = (window.x + window.width).min(picture.width());
    let bottom = (window.y + window.height).min(picture.height());
    for y in window.y..bottom {
        let v = ((y - window.y) as f32 + 0.5) / window.height as f32;
        for x in window.x..right {
            let u = ((x - window.x) as f32 + 0.5) / window.width as f32;
            change(x, y, u, v, picture.get_pixel_mut(x, y));
        }
    }
}

fn largest(delta: &[f32; 3]) -> f32 {
    delta.iter().fold(0.0, |most, d| most.max(d.abs()))
}

/// The layer's colour and alpha at a pixel of the source, where it covers it.
fn layer_pixel(layer: &Layer, x: u32, y: u32) -> Option<([f32; 3], f32)> {
    let column = u32::try_from(i64::from(x) - layer.x).ok()?;
    let row = u32::try_from(i64::from(y) - layer.y).ok()?;
    let [r, g, b, a] = layer.image.get_pixel_checked(column, row)?.0;
    (a > 0).then(|| ([r, g, b].map(|c| f32::from(c) / 255.0), f32::from(a) / 255.0))
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;

    fn source() -> RgbImage {
        RgbImage::from_fn(96, 64, |x, y| Rgb([(x * 2) as u8, (y * 3) as u8, ((x ^ y) * 2) as u8]))
    }

    const WINDOW: Rect = Rect { x: 16, y: 8, width: 48, height: 48 };

    /// A window that the painter left as it was, but for a red square of 8 pixels.
    fn painted(change: bool) -> Painted {
        let before = Pixels::from_rgb(&RgbImage::from_pixel(32, 32, Rgb([80, 90, 100])));
        let mut after = before.clone();
        if change {
            for (c, value) in [1.0, 0.0, 0.0].into_iter().enumerate() {
                for i in 0..64 {
                    after.0[c].values[(12 + i / 8) * 32 + 12 + i % 8] = value;
                }
            }
        }
        let (region, drafted) = (Plane::filled(32, 32, 1.0), Plane::filled(32, 32, 0.0));
        Painted { window: WINDOW, before, after, region, drafted, layer: None }
    }

    #[test]
    fn nothing_changed_is_the_source_byte_for_byte() {
        let mut picture = source();
        stitch(&mut picture, &painted(false));
        assert_eq!(picture, source());
        relight(&mut picture, &painted(false).before, &painted(false).after);
        assert_eq!(picture, source());
    }

    #[test]
    fn a_change_is_taken_and_its_surroundings_are_not() {
        let mut picture = source();
        stitch(&mut picture, &painted(true));
        // The square's centre is at 16 / 32 of the window.
        let centre = picture.get_pixel(WINDOW.x + 24, WINDOW.y + 24).0;
        assert!(centre[0] > 240 && centre[1] < 15, "{centre:?}");
        let (before, mut far) = (source(), 0);
        for (x, y, pixel) in picture.enumerate_pixels() {
            let near = (28..52).contains(&x) && (20..44).contains(&y);
            if !near {
                assert_eq!(pixel, before.get_pixel(x, y), "{x} {y}");
                far += 1;
            }
        }
        assert!(far > 4000);
    }

    #[test]
    fn what_the_draft_filled_is_painted_though_nothing_changed_since() {
        let mut picture = source();
        let drafted = Plane::from_fn(32, 32, |x, y| f32::from(x > 8 && y > 8));
        stitch(&mut picture, &Painted { drafted, ..painted(false) });
        assert_eq!(picture.get_pixel(WINDOW.x + 40, WINDOW.y + 40).0, [80, 90, 100]);
        assert_eq!(picture.get_pixel(WINDOW.x + 4, WINDOW.y + 4), source().get_pixel(20, 12));
    }

    #[test]
    fn outside_the_region_no_change_counts() {
        let mut picture = source();
        let region = Plane::filled(32, 32, 0.0);
        stitch(&mut picture, &Painted { region, ..painted(true) });
        assert_eq!(picture, source());
    }

    #[test]
    fn a_darker_picture_keeps_its_detail_at_less_contrast() {
        let texture = |x: u32, y: u32| Rgb([100 + (x % 2) as u8 * 60 + (y / 16) as u8 * 4; 3]);
        let mut picture = RgbImage::from_fn(256, 256, texture);
        let before = Pixels::from_rgb(&RgbImage::from_fn(64, 64, |x, y| texture(x, y * 4)));
        let after = Pixels(before.0.clone().map(|plane| plane.map(|v| v * 0.5)));
        relight(&mut picture, &before, &after);
        for (x, y) in [(100, 101), (101, 100), (31, 200)] {
            let (got, wanted) = (picture.get_pixel(x, y).0[0], texture(x, y).0[0] / 2);
            assert!(got.abs_diff(wanted) <= 6, "{x} {y}: {got}, not {wanted}");
        }
    }

    #[test]
    fn a_reference_keeps_its_full_size_detail() {
        let mut picture = source();
        // Stripes of one pixel, which the painter's resolution cannot hold.
        let image =
            RgbaImage::from_fn(12, 12, |x, _| Rgba([80 + (x % 2) as u8 * 40, 90, 100, 255]));
        let layer = Some(Layer { image, x: 30, y: 20 });
        stitch(&mut picture, &Painted { layer, ..painted(false) });
        assert_eq!(picture.get_pixel(34, 26).0, [80, 90, 100]);
        assert_eq!(picture.get_pixel(35, 26).0, [120, 90, 100]);
        assert_eq!(picture.get_pixel(50, 40), source().get_pixel(50, 40));
    }
}
