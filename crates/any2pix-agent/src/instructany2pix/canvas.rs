//! `Canvas`: the size that is painted at, and the way there and back.

use any2pix_encoders::resize::{self, Filter};
use image::RgbImage;

/// The UNets halve latents up to three times, and a latent is eight pixels.
const MULTIPLE: f64 = 64.0;

/// From the source's size to the painted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Canvas {
    /// Width and height of the result.
    source: (u32, u32),
    /// Width and height that is painted.
    pub(super) size: (u32, u32),
    /// The source is cut, not squeezed, and the result stays as it is painted.
    square: bool,
}

fn nearest_multiple(pixels: f64) -> u32 {
    (((pixels / MULTIPLE).round()).max(1.0) * MULTIPLE) as u32
}

impl Canvas {
    /// The canvas of a source: its aspect, about as many pixels as `size`, sides of whole
    /// multiples; with `square`, exactly `size`.
    pub(super) fn new(source: (u32, u32), size: [u32; 2], square: bool) -> Self {
        let [width, height] = size.map(f64::from);
        let aspect = match square {
            true => width / height,
            false => f64::from(source.0.max(1)) / f64::from(source.1.max(1)),
        };
        let area = width * height;
        let sides = ((area * aspect).sqrt(), (area / aspect).sqrt());
        Self { source, size: (nearest_multiple(sides.0), nearest_multiple(sides.1)), square }
    }

    /// The source as it is painted over.
    pub(super) fn take(&self, source: &RgbImage) -> RgbImage {
        match self.square {
            true => resize::base_image(source, self.size),
            false => resize::resize(source, self.size, Filter::Lanczos),
        }
    }

    /// The result at the source's size.
    pub(super) fn give_back(&self, painted: RgbImage) -> RgbImage {
        match self.square || self.source == self.size {
            true => painted,
            false => resize::resize(&painted, self.source, Filter::Lanczos),
        }
    }

    /// Height and width, as models take them.
    pub(super) fn height_and_width(&self) -> (usize, usize) {
        (self.size.1 as usize, self.size.0 as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aspect_and_the_area_are_kept() {
        for (source, expected) in [
            ((1024, 1024), (1024, 1024)),
            ((3000, 2000), (1280, 832)),
            ((480, 640), (896, 1152)),
            ((4000, 200), (4608, 256)),
        ] {
            assert_eq!(Canvas::new(source, [1024, 1024], false).size, expected, "{source:?}");
        }
        assert_eq!(Canvas::new((3000, 2000), [512, 512], false).size, (640, 448));
        assert_eq!(Canvas::new((16, 16), [16, 16], false).size, (64, 64));
    }

    #[test]
    fn a_square_is_cut_and_stays() {
        let picture = RgbImage::from_fn(90, 60, |x, _| image::Rgb([x as u8, 0, 0]));
        let square = Canvas::new((90, 60), [64, 64], true);
        let cut = square.take(&picture);
        assert_eq!(cut.dimensions(), (64, 64));
        assert!(cut.get_pixel(0, 0).0[0] > 8, "the left edge should be cut off");
        assert_eq!(square.give_back(cut).dimensions(), (64, 64));
        let whole = Canvas::new((90, 60), [64, 64], false);
        assert_eq!(whole.give_back(whole.take(&picture)).dimensions(), (90, 60));
    }
}
