//! What a scene says about its things: crops, masks, boxes.

use any2pix_encoders::judge::crop_around;
use any2pix_nn::{Generator, Hint};
use image::{GrayImage, RgbImage, RgbaImage};

use crate::TrainError;
use crate::playroom::{BBox, PlayroomError, SCENE_SIDE};

/// The world cannot be opened.
pub fn no_world(error: PlayroomError) -> TrainError {
    TrainError::Data { what: error.to_string(), hint: error.hints().join("; ") }
}

/// Centre, width and height in parts of the scene's side.
pub fn unit_box(bbox: &BBox) -> [f32; 4] {
    let (x, y) = bbox.centre();
    let side = SCENE_SIDE as f32;
    [x, y, bbox.width as f32 / side, bbox.height as f32 / side]
}

/// A square crop around a thing, a little off, as a locator that is a little wrong would cut it.
pub fn crop(picture: &RgbImage, bbox: &BBox, generator: &mut Generator) -> RgbImage {
    let [x, y, width, height] = unit_box(bbox);
    let size = width.max(height);
    let mut shift = || generator.uniform_in(-0.1, 0.1) * size;
    let (x, y) = (x + shift(), y + shift());
    let scale = generator.uniform_in(0.8, 1.25);
    crop_around(picture, [x, y, width * scale, height * scale])
}

/// The opacity of a cut-out whose corner stands at `(left, top)` of a square of `side` pixels, as
/// far as it is inside.
pub fn opacity(cutout: &RgbaImage, (left, top): (i64, i64), side: u32) -> GrayImage {
    let mut opacity = GrayImage::new(side, side);
    for (x, y, pixel) in cutout.enumerate_pixels() {
        let at = |start: i64, offset: u32| u32::try_from(start + i64::from(offset)).ok();
        if let Some((x, y)) = at(left, x).zip(at(top, y)).filter(|(x, y)| *x < side && *y < side) {
            opacity.get_pixel_mut(x, y)[0] = pixel[3];
        }
    }
    opacity
}

/// How much of each of `side`×`side` cells is opaque, 0 to 1, row by row; the picture's side is a
/// multiple of theirs.
pub fn cells(opacity: &GrayImage, side: usize) -> Vec<f32> {
    let factor = (opacity.width() as usize / side.max(1)).max(1);
    let mut sums = vec![0.0; side * side];
    for (x, y, pixel) in opacity.enumerate_pixels() {
        let (column, row) = (x as usize / factor, y as usize / factor);
        if let Some(sum) = sums.get_mut(row * side + column) {
            *sum += f32::from(pixel[0]) / 255.0;
        }
    }
    sums.iter().map(|sum| sum / (factor * factor) as f32).collect()
}

/// The box around what is more than half opaque: centre, width and height, in parts of the side.
pub fn opaque_box(opacity: &GrayImage) -> Option<[f32; 4]> {
    let solid = opacity.enumerate_pixels().filter(|(_, _, pixel)| pixel[0] > 127);
    let bounds = solid.fold(None, |bounds: Option<[u32; 4]>, (x, y, _)| {
        let [left, top, right, bottom] = bounds.unwrap_or([x, y, x + 1, y + 1]);
        Some([left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)])
    });
    let [left, top, right, bottom] = bounds?.map(|v| v as f32 / opacity.width() as f32);
    Some([(left + right) * 0.5, (top + bottom) * 0.5, right - left, bottom - top])
}
