//! Pictures as they come out of packages: decoding, matting, cropping, resampling.

use std::path::Path;

use image::{Rgba, RgbaImage};
use resvg::{tiny_skia, usvg};

use super::error::{PlayroomError, Result};

/// Side at which vector drawings are rasterised before they are scaled down.
const VECTOR_SIDE: f32 = 384.0;
/// Colours this near to white belong to the paper of a drawing on white.
const PAPER_TOLERANCE: u8 = 14;

/// Decodes a raster picture; its format is told by its content.
pub fn decode(path: &Path) -> Result<RgbaImage> {
    let bytes = std::fs::read(path).map_err(PlayroomError::io(path))?;
    let picture = image::load_from_memory(&bytes).map_err(PlayroomError::format(path))?;
    Ok(picture.to_rgba8())
}

/// Rasterises a vector drawing so that its longer side has 384 pixels.
pub fn rasterise(svg: &[u8], path: &Path) -> Result<RgbaImage> {
    let tree = usvg::Tree::from_data(svg, &usvg::Options::default())
        .map_err(PlayroomError::format(path))?;
    let size = tree.size();
    let scale = VECTOR_SIDE / size.width().max(size.height());
    let width = (size.width() * scale).ceil().max(1.0) as u32;
    let height = (size.height() * scale).ceil().max(1.0) as u32;
    let mut pixmap = tiny_skia::Pixmap::new(width, height).ok_or_else(|| {
        PlayroomError::Format { path: path.to_owned(), detail: "an empty drawing".to_owned() }
    })?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    let mut picture = RgbaImage::new(width, height);
    for (pixel, colour) in picture.pixels_mut().zip(pixmap.pixels()) {
        let colour = colour.demultiply();
        *pixel = Rgba([colour.red(), colour.green(), colour.blue(), colour.alpha()]);
    }
    Ok(picture)
}

/// Whether every pixel is opaque.
pub fn is_opaque(picture: &RgbaImage) -> bool {
    picture.pixels().all(|pixel| pixel[3] == 255)
}

/// Makes white paper transparent, by flood fill from the border; soft along the edge of the fill.
///
/// Does nothing to a picture whose corners are not white.
pub fn matte_white(picture: &mut RgbaImage) {
    let (width, height) = picture.dimensions();
    let corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)];
    if corners.iter().filter(|&&(x, y)| is_paper(picture.get_pixel(x, y))).count() < 3 {
        return;
    }
    let paper = flood(picture);
    let inside = |x: i64, y: i64| {
        x < 0
            || y < 0
            || x >= i64::from(width)
            || y >= i64::from(height)
            || paper[(y * i64::from(width) + x) as usize]
    };
    for y in 0..height {
        for x in 0..width {
            let (column, row) = (i64::from(x), i64::from(y));
            let pixel = picture.get_pixel_mut(x, y);
            if inside(column, row) {
                pixel[3] = 0;
            } else if (-1..=1).any(|dy| (-1..=1).any(|dx| inside(column + dx, row + dy))) {
                unblend_white(pixel);
            }
        }
    }
}

fn is_paper(pixel: &Rgba<u8>) -> bool {
    pixel[3] < 8 || pixel.0[..3].iter().all(|&channel| channel >= 255 - PAPER_TOLERANCE)
}

fn flood(picture: &RgbaImage) -> Vec<bool> {
    let (width, height) = picture.dimensions();
    let mut paper = vec![false; (width * height) as usize];
    let mut open: Vec<(u32, u32)> = (0..width)
        .flat_map(|x| [(x, 0), (x, height - 1)])
        .chain((0..height).flat_map(|y| [(0, y), (width - 1, y)]))
        .collect();
    while let Some((x, y)) = open.pop() {
        let index = (y * width + x) as usize;
        if paper[index] || !is_paper(picture.get_pixel(x, y)) {
            continue;
        }
        paper[index] = true;
        if x > 0 {
            open.push((x - 1, y));
        }
        if y > 0 {
            open.push((x, y - 1));
        }
        if x + 1 < width {
            open.push((x + 1, y));
        }
        if y + 1 < height {
            open.push((x, y + 1));
        }
    }
    paper
}

/// Takes white back out of a pixel that an edge was blended into.
fn unblend_white(pixel: &mut Rgba<u8>) {
    let darkest = pixel.0[..3].iter().copied().min().unwrap_or(255);
    let alpha = (f32::from(255 - darkest) / 96.0).clamp(0.15, 1.0);
    for channel in &mut pixel.0[..3] {
        let value = (f32::from(*channel) - 255.0 * (1.0 - alpha)) / alpha;
        *channel = value.clamp(0.0, 255.0) as u8;
    }
    pixel[3] = (alpha * 255.0) as u8;
}

/// The smallest box that holds all pixels of alpha above 12: `[x, y, width, height]`.
pub fn alpha_box(picture: &RgbaImage) -> Option<[u32; 4]> {
    let mut bounds: Option<[u32; 4]> = None;
    for (x, y, pixel) in picture.enumerate_pixels() {
        if pixel[3] > 12 {
            let [left, top, right, bottom] = bounds.unwrap_or([x, y, x, y]);
            bounds = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
        }
    }
    bounds.map(|[left, top, right, bottom]| [left, top, right - left + 1, bottom - top + 1])
}

/// Cuts `picture` to its alpha box; `None` if nothing is there.
pub fn crop_to_alpha(picture: &RgbaImage) -> Option<RgbaImage> {
    let [x, y, width, height] = alpha_box(picture)?;
    Some(image::imageops::crop_imm(picture, x, y, width, height).to_image())
}

/// Scales so that the longer side has at most `side` pixels, keeping the shape.
pub fn shrink_to(picture: &RgbaImage, side: u32) -> RgbaImage {
    let (width, height) = picture.dimensions();
    let longer = width.max(height);
    if longer <= side {
        return picture.clone();
    }
    let scaled = |length: u32| ((length * side + longer / 2) / longer).max(1);
    resize(picture, scaled(width), scaled(height))
}

/// Resamples with a triangle filter as wide as the reduction, on premultiplied colours.
pub fn resize(picture: &RgbaImage, width: u32, height: u32) -> RgbaImage {
    resize_part(picture, [0, 0, picture.width(), picture.height()], width, height)
}

/// [`resize`] of the part `[left, top, width, height]`, which must lie inside.
pub fn resize_part(picture: &RgbaImage, part: [u32; 4], width: u32, height: u32) -> RgbaImage {
    let [left, top, part_width, part_height] = part.map(|value| value as usize);
    let across = Taps::new(part_width, width as usize);
    let stride = picture.width() as usize;
    let pixels: &[u8] = picture.as_raw();
    let mut line = vec![[0f32; 4]; part_width];
    let mut rows = Vec::with_capacity(part_height * width as usize);
    for y in 0..part_height {
        let start = ((top + y) * stride + left) * 4;
        let source = &pixels[start..start + part_width * 4];
        for (colour, pixel) in line.iter_mut().zip(source.chunks_exact(4)) {
            *colour = premultiply(pixel);
        }
        rows.extend((0..across.count()).map(|x| across.weighted(x, |i| line[i])));
    }
    let down = Taps::new(part_height, height as usize);
    let row = width as usize;
    let mut raw = Vec::with_capacity(row * height as usize * 4);
    for y in 0..down.count() {
        for x in 0..row {
            raw.extend(unpremultiply(down.weighted(y, |i| rows[i * row + x])).0);
        }
    }
    // The length is right by construction; an empty picture stands for the impossible.
    RgbaImage::from_raw(width, height, raw).unwrap_or_default()
}

fn premultiply(pixel: &[u8]) -> [f32; 4] {
    let alpha = f32::from(pixel[3]) * (1.0 / 255.0);
    [
        f32::from(pixel[0]) * alpha,
        f32::from(pixel[1]) * alpha,
        f32::from(pixel[2]) * alpha,
        f32::from(pixel[3]),
    ]
}

fn unpremultiply(colour: [f32; 4]) -> Rgba<u8> {
    let alpha = colour[3] / 255.0;
    if alpha <= 1e-4 {
        return Rgba([0, 0, 0, 0]);
    }
    let channel = |value: f32| (value / alpha + 0.5).clamp(0.0, 255.0) as u8;
    let opacity = (colour[3] + 0.5).clamp(0.0, 255.0) as u8;
    Rgba([channel(colour[0]), channel(colour[1]), channel(colour[2]), opacity])
}

/// For each target position: the first source position and the weights from there on.
struct Taps {
    first: Vec<usize>,
    ends: Vec<usize>,
    weights: Vec<f32>,
}

impl Taps {
    fn new(source: usize, target: usize) -> Self {
        let ratio = source as f32 / target as f32;
        let radius = ratio.max(1.0);
        let mut taps = Self { first: Vec::new(), ends: Vec::new(), weights: Vec::new() };
        for position in 0..target {
            let centre = (position as f32 + 0.5) * ratio - 0.5;
            let first = (centre - radius).ceil().max(0.0) as usize;
            let last = ((centre + radius).floor() as usize).min(source - 1);
            let start = taps.weights.len();
            let weight = |i: usize| (1.0 - (i as f32 - centre).abs() / radius).max(1e-6);
            taps.weights.extend((first..=last).map(weight));
            let total: f32 = taps.weights[start..].iter().sum();
            taps.weights[start..].iter_mut().for_each(|weight| *weight /= total);
            taps.first.push(first);
            taps.ends.push(taps.weights.len());
        }
        taps
    }

    fn count(&self) -> usize {
        self.first.len()
    }

    fn weighted(&self, position: usize, colour: impl Fn(usize) -> [f32; 4]) -> [f32; 4] {
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut sum = [0f32; 4];
        for (i, weight) in self.weights[start..self.ends[position]].iter().enumerate() {
            let colour = colour(self.first[position] + i);
            for channel in 0..4 {
                sum[channel] += weight * colour[channel];
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paper_goes_and_enclosed_white_stays() {
        let mut picture = RgbaImage::from_pixel(20, 20, Rgba([255, 255, 255, 255]));
        for y in 5..15 {
            for x in 5..15 {
                let ring = x < 7 || y < 7 || x > 12 || y > 12;
                let colour = if ring { [200, 0, 0, 255] } else { [255, 255, 255, 255] };
                picture.put_pixel(x, y, Rgba(colour));
            }
        }
        matte_white(&mut picture);
        assert_eq!(picture.get_pixel(1, 1)[3], 0);
        assert_eq!(picture.get_pixel(10, 10)[3], 255);
        assert_eq!(alpha_box(&picture), Some([5, 5, 10, 10]));
    }

    #[test]
    fn transparent_colours_do_not_bleed_when_scaled() {
        let mut picture = RgbaImage::from_pixel(32, 32, Rgba([0, 255, 0, 0]));
        for y in 0..32 {
            for x in 0..16 {
                picture.put_pixel(x, y, Rgba([200, 0, 0, 255]));
            }
        }
        let small = resize(&picture, 8, 8);
        assert!(small.pixels().all(|pixel| pixel[3] == 0 || pixel[1] == 0));
        assert!((i32::from(small.get_pixel(1, 1)[0]) - 200).abs() <= 1);
    }
}
