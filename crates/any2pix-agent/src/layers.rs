//! Cut-outs as layers: scaled, laid into windows, taken out of pictures.

use any2pix_diffusion::exemplar::Holed;
use any2pix_encoders::resize::{self, Filter};
use any2pix_nn::Generator;
use image::{RgbImage, RgbaImage, imageops};

use crate::compose::Layer;
use crate::locate::{self, Region};
use crate::matting;
use crate::outcome::Rect;
use crate::planes::{Pixels, Plane, to_byte};

/// A cut-out at another size; its colours are weighed by its alpha, so that no rim bleeds in.
pub(crate) fn scaled(cut: &RgbaImage, width: u32, height: u32) -> RgbaImage {
    let mut weighed = cut.clone();
    for pixel in weighed.pixels_mut() {
        let alpha = u32::from(pixel.0[3]);
        pixel.0[..3].iter_mut().for_each(|c| *c = ((u32::from(*c) * alpha + 127) / 255) as u8);
    }
    // A filter without overshoot: a colour may not outgrow its alpha.
    let mut result = imageops::resize(&weighed, width, height, imageops::Triangle);
    for pixel in result.pixels_mut() {
        let alpha = u32::from(pixel.0[3]);
        if alpha > 0 {
            let plain =
                |c: &mut u8| *c = ((u32::from(*c) * 255 + alpha / 2) / alpha).min(255) as u8;
            pixel.0[..3].iter_mut().for_each(plain);
        }
    }
    result
}

/// A layer's colours and alpha over a window, at the painter's resolution.
pub(crate) fn layer_in_window(layer: &Layer, window: Rect, side: usize) -> (Pixels, Plane) {
    let scale = side as f32 / window.width as f32;
    let down = side as f32 / window.height as f32;
    let length = |pixels: u32, scale: f32| ((pixels as f32 * scale).round() as u32).max(1);
    let small = scaled(
        &layer.image,
        length(layer.image.width(), scale),
        length(layer.image.height(), down),
    );
    let left = ((layer.x - i64::from(window.x)) as f32 * scale).round() as i64;
    let top = ((layer.y - i64::from(window.y)) as f32 * down).round() as i64;
    let at = |x: usize, y: usize, c: usize| {
        let column = u32::try_from(x as i64 - left).ok();
        let row = u32::try_from(y as i64 - top).ok();
        let pixel = column.zip(row).and_then(|(x, y)| small.get_pixel_checked(x, y));
        pixel.map_or(0.0, |pixel| f32::from(pixel.0[c]) / 255.0)
    };
    let channel = |c: usize| Plane::from_fn(side, side, |x, y| at(x, y, c));
    (Pixels([channel(0), channel(1), channel(2)]), channel(3))
}

/// Longest side at which a hole is filled; its detail is no finer.
const FILLED_SIDE: u32 = 256;

/// A window's hole, filled with patches of what surrounds it, as a layer as large as the window.
///
/// `hole` is over the window, at any resolution; what is half free is not trusted, since the rim
/// of what was there may be in it.
pub(crate) fn filled(
    picture: &RgbImage,
    window: Rect,
    hole: &Plane,
    generator: &mut Generator,
) -> Layer {
    let side = window.width.max(window.height).min(FILLED_SIDE);
    let view = locate::cut(picture, window, side);
    let hole = hole.resampled(side as usize, side as usize).map(|h| (h * 2.0).min(1.0));
    let holed = Holed {
        colours: view.pixels().map(|pixel| pixel.0.map(f32::from)).collect(),
        hole: hole.values.iter().map(|value| *value > 0.02).collect(),
        width: side as usize,
    };
    let colours = holed.complete(generator);
    let bytes = colours.iter().flat_map(|colour| colour.map(|value| to_byte(value / 255.0)));
    let filled = RgbImage::from_raw(side, side, bytes.collect()).unwrap_or(view);
    let filled = resize::resize(&filled, (window.width, window.height), Filter::Bicubic);
    let at = |value: u32, whole: u32| (value as f32 + 0.5) / whole as f32;
    let image = RgbaImage::from_fn(window.width, window.height, |x, y| {
        let [r, g, b] = filled.get_pixel(x, y).0;
        let alpha = hole.sample(at(x, window.width), at(y, window.height));
        image::Rgba([r, g, b, to_byte(alpha)])
    });
    Layer { image, x: i64::from(window.x), y: i64::from(window.y) }
}

/// What stands in a region of a picture, as far as its mask goes, to the nearest edges.
pub(crate) fn taken_out(picture: &RgbImage, region: &Region) -> RgbaImage {
    let mask = matting::followed(&region.mask, picture);
    let (width, height) = picture.dimensions();
    let Rect { x, y, width: w, height: h } = region.rect;
    RgbaImage::from_fn(w, h, |column, row| {
        let (column, row) = (x + column, y + row);
        let at = |value: u32, whole: u32| (value as f32 + 0.5) / whole as f32;
        let belongs = mask.sample(at(column, width), at(row, height));
        let [r, g, b] = picture.get_pixel(column, row).0;
        image::Rgba([r, g, b, to_byte(belongs)])
    })
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;

    #[test]
    fn a_layer_lies_in_its_window_where_it_lies_in_the_picture() {
        let image = RgbaImage::from_pixel(40, 20, Rgba([255, 0, 51, 255]));
        let layer = Layer { image, x: 120, y: 90 };
        let window = Rect { x: 100, y: 50, width: 80, height: 80 };
        let (colours, alpha) = layer_in_window(&layer, window, 16);
        assert_eq!(alpha.values.iter().filter(|a| **a == 1.0).count(), 8 * 4);
        assert_eq!((alpha.at(4, 8), alpha.at(3, 8), alpha.at(11, 11)), (1.0, 0.0, 1.0));
        assert_eq!(colours.sample(0.5, 0.6), [1.0, 0.0, 0.2]);
    }

    #[test]
    fn a_scaled_cut_out_keeps_its_colours_to_the_rim() {
        let cut = RgbaImage::from_fn(64, 64, |x, _| {
            if x < 32 { Rgba([200, 100, 50, 255]) } else { Rgba([0, 0, 0, 0]) }
        });
        let small = scaled(&cut, 15, 15);
        for pixel in small.pixels().filter(|p| p.0[3] > 40) {
            for (value, wanted) in pixel.0.iter().zip([200u8, 100, 50]) {
                assert!(value.abs_diff(wanted) <= 6, "{pixel:?}");
            }
        }
    }

    #[test]
    fn what_stands_in_a_region_comes_out_with_its_shape() {
        let picture = RgbImage::from_fn(64, 64, |x, y| {
            let inside = x >= 16 && (16..32).contains(&y);
            image::Rgb(if inside { [200, 7, 9] } else { [20, 90, 60] })
        });
        let mask = Plane::from_fn(32, 32, |x, y| f32::from(x >= 8 && (8..16).contains(&y)));
        let region = Region { rect: Rect { x: 8, y: 12, width: 24, height: 24 }, mask };
        let cut = taken_out(&picture, &region);
        assert_eq!(cut.dimensions(), (24, 24));
        assert_eq!(cut.get_pixel(16, 10).0, [200, 7, 9, 255]);
        assert_eq!((cut.get_pixel(2, 10).0[3], cut.get_pixel(16, 1).0[3]), (0, 0));
    }
}
