//! A second look at a place of a picture: from nearer its bounds and its mask are more exact.

use any2pix_encoders::locator::{Location, Locator, iou};
use candle_core::{Result, Tensor};
use image::RgbImage;

use crate::locate;
use crate::outcome::Rect;
use crate::planes::Plane;

/// The parts of a picture that are looked at: squares of so many times the longer side of a place.
const ZOOMS: [f32; 3] = [1.6, 2.0, 2.6];
/// Such a part has at least so many pixels a side.
const LEAST: u32 = 32;
/// How many places of a part are considered.
const PLACES: usize = 3;
/// What is seen from nearer is the same thing when the boxes share this much.
const SAME: f32 = 0.3;
/// Cells along a side of the mask, for each that it had before.
const FINER: usize = 3;

/// What one part of a picture says of a thing.
struct Closer {
    part: Rect,
    /// In parts of the whole picture's sides.
    bbox: [f32; 4],
    /// Over the part.
    mask: Plane,
}

/// The same place with bounds and a mask that are the means of its own and of those that are seen
/// from nearer.
///
/// # Shapes
/// `queries` `(q, embed_dim)`, as for [`Locator::candidates`].
pub(crate) fn sharpened(
    locator: &Locator,
    picture: &RgbImage,
    queries: &Tensor,
    place: Location,
) -> Result<Location> {
    let mut closer = Vec::new();
    for zoom in ZOOMS {
        closer.extend(look(locator, picture, queries, (&place, zoom))?);
    }
    let count = closer.len() as f32 + 1.0;
    let sum = |i: usize| place.bbox[i] + closer.iter().map(|c| c.bbox[i]).sum::<f32>();
    let bbox = std::array::from_fn(|i| sum(i) / count);
    let whole = Plane { width: place.side, height: place.side, values: place.mask };
    let side = place.side * FINER;
    let mask = mean_mask(&whole, &closer, side, picture.dimensions());
    Ok(Location { bbox, mask: mask.values, side, ..place })
}

/// The place as the part around it shows it, if that shows the same thing.
fn look(
    locator: &Locator,
    picture: &RgbImage,
    queries: &Tensor,
    (place, zoom): (&Location, f32),
) -> Result<Option<Closer>> {
    let size = picture.dimensions();
    let part = locate::rect_of(place.bbox, size).window(zoom, LEAST, size);
    let crop = locate::part(picture, part);
    let seen = locator.candidates(&crop, queries, PLACES)?.into_iter().map(|location| Closer {
        part,
        bbox: outside(location.bbox, part, size),
        mask: Plane { width: location.side, height: location.side, values: location.mask },
    });
    let overlap = |closer: &Closer| iou(closer.bbox, place.bbox);
    let best = seen.max_by(|a, b| overlap(a).total_cmp(&overlap(b)));
    Ok(best.filter(|closer| overlap(closer) >= SAME))
}

/// A box in parts of a part's sides, in parts of the picture's.
fn outside([x, y, w, h]: [f32; 4], part: Rect, (width, height): (u32, u32)) -> [f32; 4] {
    let (across, down) = (part.width as f32 / width as f32, part.height as f32 / height as f32);
    let (left, top) = (part.x as f32 / width as f32, part.y as f32 / height as f32);
    [left + x * across, top + y * down, w * across, h * down]
}

/// The mean of the masks that reach there, for every cell.
fn mean_mask(whole: &Plane, closer: &[Closer], side: usize, (w, h): (u32, u32)) -> Plane {
    Plane::from_fn(side, side, |column, row| {
        let at = |index: usize| (index as f32 + 0.5) / side as f32;
        let (u, v) = (at(column), at(row));
        let (mut sum, mut count) = (whole.sample(u, v), 1.0);
        for Closer { part, mask, .. } in closer {
            let x = (u * w as f32 - part.x as f32) / part.width as f32;
            let y = (v * h as f32 - part.y as f32) / part.height as f32;
            if (0.0..1.0).contains(&x) && (0.0..1.0).contains(&y) {
                sum += mask.sample(x, y);
                count += 1.0;
            }
        }
        sum / count
    })
}

#[cfg(test)]
mod tests {
    use any2pix_nn::Generator;
    use candle_core::Device;

    use super::*;
    use crate::matting::tests::untrained;

    const PART: Rect = Rect { x: 20, y: 10, width: 20, height: 20 };

    #[test]
    fn a_box_in_a_part_is_the_same_box_in_the_picture() {
        assert_eq!(outside([0.5, 0.5, 1.0, 1.0], PART, (100, 50)), [0.3, 0.4, 0.2, 0.4]);
    }

    #[test]
    fn masks_are_averaged_where_they_reach() {
        let (whole, mask) = (Plane::filled(4, 4, 0.0), Plane::filled(4, 4, 1.0));
        let closer = Closer { part: PART, bbox: [0.0; 4], mask };
        let mean = mean_mask(&whole, &[closer], 10, (100, 50));
        assert_eq!(mean.at(2, 3), 0.5);
        assert_eq!((mean.at(0, 3), mean.at(2, 8)), (0.0, 0.0));
    }

    #[test]
    fn a_sharpened_place_is_still_that_place() {
        let locator = untrained();
        let picture = RgbImage::from_fn(96, 64, |x, y| image::Rgb([x as u8 * 2, y as u8 * 3, 40]));
        let queries = Generator::new(4).randn((2, 4), &Device::Cpu).unwrap();
        let place = locator.candidates(&picture, &queries, 1).unwrap().remove(0);
        let sharp = sharpened(&locator, &picture, &queries, place.clone()).unwrap();
        assert!(iou(sharp.bbox, place.bbox) > SAME);
        assert_eq!((sharp.side, sharp.mask.len()), (24, 576));
        assert!(sharp.mask.iter().all(|value| (0.0..=1.0).contains(value)));
    }
}
