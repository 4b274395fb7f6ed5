//! Resampling 8-bit pictures to the last bit as Pillow does: two passes in fixed point, each
//! rounded to bytes, filters widened when shrinking.

use image::{GrayImage, ImageBuffer, Pixel, RgbImage};

/// How many fraction bits a weight has: 32 - 8 bits of a pixel - 2 for overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The kernel of a resampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Cubic with a = -0.5, support 2.
    Bicubic,
    /// Sinc windowed by sinc, support 3.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos => {
                let sinc = |t: f64| {
                    let t = t * std::f64::consts::PI;
                    if t == 0.0 { 1.0 } else { t.sin() / t }
                };
                if x < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
            }
        }
    }
}

/// The weights of one axis: for every output position, where its window starts and its weights.
struct Axis {
    windows: Vec<(usize, Vec<i32>)>,
}

impl Axis {
    /// The part of `input` positions from `part.0` to `part.1` as `output` positions.
    fn new(input: u32, part: (f32, f32), output: u32, filter: Filter) -> Self {
        let scale = f64::from(part.1 - part.0) / f64::from(output);
        let widened = scale.max(1.0);
        let support = filter.support() * widened;
        let windows = (0..output)
            .map(|position| {
                let centre = f64::from(part.0) + (f64::from(position) + 0.5) * scale;
                let first = (centre - support + 0.5).max(0.0) as usize;
                let end = ((centre + support + 0.5) as usize).min(input as usize);
                let weights: Vec<f64> = (first..end)
                    .map(|i| filter.weight((i as f64 - centre + 0.5) / widened))
                    .collect();
                let sum: f64 = weights.iter().sum();
                (first, weights.iter().map(|w| fixed(w / sum)).collect())
            })
            .collect();
        Self { windows }
    }
}

/// Rounds half away from zero.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// One row of `channels` interleaved bytes through the horizontal weights.
fn horizontal<const C: usize>(row: &[u8], axis: &Axis, out: &mut [u8]) {
    for ((first, weights), pixel) in axis.windows.iter().zip(out.chunks_exact_mut(C)) {
        let mut sums = [HALF; C];
        let window = row[first * C..].chunks_exact(C);
        for (&weight, source) in weights.iter().zip(window) {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum += i32::from(value) * weight;
            }
        }
        for (byte, sum) in pixel.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
    }
}

fn vertical(rows: &[u8], stride: usize, axis: &Axis, out: &mut [u8]) {
    let mut sums = vec![HALF; stride];
    for ((first, weights), line) in axis.windows.iter().zip(out.chunks_exact_mut(stride)) {
        sums.fill(HALF);
        for (&weight, source) in weights.iter().zip(rows[first * stride..].chunks_exact(stride)) {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum += i32::from(value) * weight;
            }
        }
        for (byte, &sum) in line.iter_mut().zip(&sums) {
            *byte = to_byte(sum);
        }
    }
}

/// A rectangle between pixels: from left to right, and from top to bottom.
type Part = ((f32, f32), (f32, f32));

fn whole((width, height): (u32, u32)) -> Part {
    ((0.0, width as f32), (0.0, height as f32))
}

fn resample<const C: usize>(
    data: &[u8],
    ((width, height), part): ((u32, u32), Part),
    (new_width, new_height): (u32, u32),
    filter: Filter,
) -> Vec<u8> {
    let mut data = std::borrow::Cow::Borrowed(data);
    if new_width != width || part.0 != (0.0, width as f32) {
        let axis = Axis::new(width, part.0, new_width, filter);
        let mut out = vec![0; new_width as usize * height as usize * C];
        let lines = out.chunks_exact_mut(new_width as usize * C);
        for (row, line) in data.chunks_exact(width as usize * C).zip(lines) {
            horizontal::<C>(row, &axis, line);
        }
        data = out.into();
    }
    if new_height != height || part.1 != (0.0, height as f32) {
        let stride = new_width as usize * C;
        let axis = Axis::new(height, part.1, new_height, filter);
        let mut out = vec![0; stride * new_height as usize];
        vertical(&data, stride, &axis, &mut out);
        data = out.into();
    }
    data.into_owned()
}

fn rebuilt<P: Pixel<Subpixel = u8>>(
    (width, height): (u32, u32),
    data: Vec<u8>,
) -> ImageBuffer<P, Vec<u8>> {
    ImageBuffer::from_raw(width, height, data).unwrap_or_default()
}

/// Resizes to exactly `size` (width, height), both at least 1.
pub fn resize(picture: &RgbImage, size: (u32, u32), filter: Filter) -> RgbImage {
    let size = (size.0.max(1), size.1.max(1));
    let from = (picture.dimensions(), whole(picture.dimensions()));
    rebuilt(size, resample::<3>(picture.as_raw(), from, size, filter))
}

/// Fills `size` with the largest part in the middle that has its aspect; edges of that part may
/// lie between pixels, as Pillow's `ImageOps.fit` has it.
pub fn fit(picture: &RgbImage, size: (u32, u32), filter: Filter) -> RgbImage {
    let size = (size.0.max(1), size.1.max(1));
    let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
    let (have, wanted) = (width / height, f64::from(size.0) / f64::from(size.1));
    let (cut_width, cut_height) = if have >= wanted {
        (if have > wanted { wanted * height } else { width }, height)
    } else {
        (width, width / wanted)
    };
    let side = |length: f64, cut: f64| {
        let start = (length - cut) * 0.5;
        (start as f32, (start + cut) as f32)
    };
    let part = (side(width, cut_width), side(height, cut_height));
    rebuilt(size, resample::<3>(picture.as_raw(), (picture.dimensions(), part), size, filter))
}

/// [`resize`] for one channel.
pub fn resize_gray(picture: &GrayImage, size: (u32, u32), filter: Filter) -> GrayImage {
    let size = (size.0.max(1), size.1.max(1));
    let from = (picture.dimensions(), whole(picture.dimensions()));
    rebuilt(size, resample::<1>(picture.as_raw(), from, size, filter))
}

/// Cuts `size` out of the middle; the offset is rounded half to even, as Python's `round`.
pub fn center_crop(picture: &RgbImage, size: (u32, u32)) -> RgbImage {
    let (width, height) = picture.dimensions();
    let offset = |long: u32, short: u32| {
        (f64::from(long.saturating_sub(short)) / 2.0).round_ties_even() as u32
    };
    crop(picture, offset(width, size.0), offset(height, size.1), size)
}

/// [`center_crop`] whose offset is rounded down, as CLIPImageProcessor does.
pub fn center_crop_floor(picture: &RgbImage, size: (u32, u32)) -> RgbImage {
    let (width, height) = picture.dimensions();
    let offset = |long: u32, short: u32| long.saturating_sub(short) / 2;
    crop(picture, offset(width, size.0), offset(height, size.1), size)
}

fn crop(picture: &RgbImage, x: u32, y: u32, size: (u32, u32)) -> RgbImage {
    image::imageops::crop_imm(picture, x, y, size.0, size.1).to_image()
}

/// The shorter side becomes `side`, the longer `int(side · long / short)`.
pub fn resize_short_side(picture: &RgbImage, side: u32, filter: Filter) -> RgbImage {
    let (width, height) = picture.dimensions();
    let long =
        |long: u32, short: u32| (u64::from(side) * u64::from(long) / u64::from(short)) as u32;
    let size =
        if width <= height { (side, long(height, width)) } else { (long(width, height), side) };
    resize(picture, size, filter)
}

/// Fills `size`: the picture is resized until it just covers it, then cut in the middle. Each
/// edge of the cut is rounded half to even on its own, so that the result may be a pixel off;
/// [`base_image`] then resizes once more.
pub fn resize_and_crop(picture: &RgbImage, size: (u32, u32)) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (wanted, have) =
        (u64::from(size.0) * u64::from(height), u64::from(width) * u64::from(size.1));
    let edges = |long: u32, short: u32| {
        let edge = |twice: u32| (f64::from(twice) / 2.0).round_ties_even() as u32;
        (edge(long.saturating_sub(short)), edge(long + short))
    };
    match wanted.cmp(&have) {
        std::cmp::Ordering::Equal => resize(picture, size, Filter::Bicubic),
        std::cmp::Ordering::Greater => {
            let long = (u64::from(size.0) * u64::from(height) / u64::from(width)) as u32;
            let resized = resize(picture, (size.0, long), Filter::Bicubic);
            let (top, bottom) = edges(long, size.1);
            crop(&resized, 0, top, (size.0, bottom - top))
        }
        std::cmp::Ordering::Less => {
            let long = (u64::from(size.1) * u64::from(width) / u64::from(height)) as u32;
            let resized = resize(picture, (long, size.1), Filter::Bicubic);
            let (left, right) = edges(long, size.0);
            crop(&resized, left, 0, (right - left, size.1))
        }
    }
}

/// A source picture as the decoder takes it: [`resize_and_crop`], then exactly `size`.
pub fn base_image(picture: &RgbImage, size: (u32, u32)) -> RgbImage {
    resize(&resize_and_crop(picture, size), size, Filter::Bicubic)
}

/// Width becomes `width`; the height keeps the aspect and is cut to a multiple of 8.
pub fn resize_to_width(picture: &RgbImage, width: u32) -> RgbImage {
    let scale = f64::from(width) / f64::from(picture.width());
    let height = (f64::from(picture.height()) * scale) as u32 / 8 * 8;
    resize(picture, (width, height), Filter::Bicubic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        let flat = RgbImage::from_pixel(37, 11, image::Rgb([3, 200, 255]));
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            let resized = resize(&flat, (13, 50), filter);
            assert_eq!(resized.dimensions(), (13, 50));
            assert!(resized.pixels().all(|p| p.0 == [3, 200, 255]), "{filter:?}");
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let picture = RgbImage::from_fn(9, 7, |x, y| image::Rgb([x as u8 * 20, y as u8 * 30, 7]));
        assert_eq!(resize(&picture, (9, 7), Filter::Bicubic), picture);
    }
}
