//! `Changes`: where a model that keeps the source elsewhere put something.

use image::RgbImage;

use crate::compose::{self, Painted};
use crate::outcome::{Rect, SubjectReport};
use crate::planes::{Pixels, Plane};

/// An edit that changed more than this part of a picture was meant for all of it.
const WHOLE: f32 = 0.5;

/// The source as the codec has it, and what was painted.
pub(super) struct Changes {
    before: Pixels,
    after: Pixels,
    /// How much each pixel was changed, 0 to 1.
    mask: Plane,
}

impl Changes {
    pub(super) fn between(before: Pixels, after: Pixels) -> Self {
        let anywhere = Plane::filled(before.0[0].width, before.0[0].height, 1.0);
        let mask = compose::change_mask(&before, &after, &anywhere);
        Self { before, after, mask }
    }

    /// The largest change, in a picture of `size`; nothing is known of it but its place.
    pub(super) fn subject(&self, size: (u32, u32)) -> Option<SubjectReport> {
        let region = self.largest().map(|bounds| self.in_picture(bounds, size))?;
        Some(SubjectReport {
            name: String::new(),
            role: "change".into(),
            reference: None,
            gallery: None,
            similarity: None,
            region: Some(region),
            window: None,
        })
    }

    /// The changes in `source`: local ones over its own pixels, one of the whole picture as light
    /// on its detail.
    pub(super) fn over(self, source: &RgbImage) -> RgbImage {
        let mut picture = source.clone();
        let covered = self.mask.values.iter().sum::<f32>() / self.mask.values.len().max(1) as f32;
        if covered > WHOLE {
            compose::relight(&mut picture, &self.before, &self.after);
            return picture;
        }
        let (width, height) = (self.mask.width, self.mask.height);
        let whole = Rect { x: 0, y: 0, width: source.width(), height: source.height() };
        let painted = Painted {
            window: whole,
            before: self.before,
            after: self.after,
            region: Plane::filled(width, height, 1.0),
            drafted: Plane::filled(width, height, 0.0),
            layer: None,
        };
        compose::stitch(&mut picture, &painted);
        picture
    }

    /// Columns and rows of the largest connected change, both ends included.
    fn largest(&self) -> Option<[usize; 4]> {
        let (width, height) = (self.mask.width, self.mask.height);
        let mut left: Vec<bool> = self.mask.values.iter().map(|value| *value > 0.5).collect();
        let mut best: Option<(usize, [usize; 4])> = None;
        for start in 0..left.len() {
            let (mut count, mut bounds) = (0, [usize::MAX, usize::MAX, 0, 0]);
            let mut stack = vec![start];
            while let Some(at) = stack.pop() {
                if !std::mem::take(&mut left[at]) {
                    continue;
                }
                let (x, y) = (at % width, at / width);
                count += 1;
                bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x), bounds[3].max(y)];
                stack.extend((x > 0).then(|| at - 1));
                stack.extend((x + 1 < width).then_some(at + 1));
                stack.extend((y > 0).then(|| at - width));
                stack.extend((y + 1 < height).then_some(at + width));
            }
            if count > best.map_or(0, |(most, _)| most) {
                best = Some((count, bounds));
            }
        }
        best.map(|(_, bounds)| bounds)
    }

    fn in_picture(&self, bounds: [usize; 4], (width, height): (u32, u32)) -> Rect {
        let at = |cell: usize, cells: usize, length: u32| {
            (cell as f32 / cells as f32 * length as f32).round() as u32
        };
        let [left, top, right, bottom] = bounds;
        let (x, y) = (at(left, self.mask.width, width), at(top, self.mask.height, height));
        let right = at(right + 1, self.mask.width, width);
        let bottom = at(bottom + 1, self.mask.height, height);
        Rect { x, y, width: (right - x).max(1), height: (bottom - y).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(value: f32) -> Pixels {
        Pixels([0; 3].map(|_| Plane::filled(32, 32, value)))
    }

    #[test]
    fn a_change_is_found_and_everything_else_is_the_source() {
        let mut after = flat(0.4);
        for plane in &mut after.0 {
            for (i, value) in plane.values.iter_mut().enumerate() {
                let (x, y) = (i % 32, i / 32);
                *value = if (8..20).contains(&x) && (12..28).contains(&y) { 0.9 } else { 0.41 };
            }
        }
        let source = RgbImage::from_fn(96, 96, |x, y| image::Rgb([(x * 2) as u8, y as u8, 100]));
        let changes = Changes::between(flat(0.4), after);
        let region = changes.subject((96, 96)).unwrap().region.unwrap();
        let near = |a: u32, b: u32| a.abs_diff(b) <= 6;
        assert!(near(region.x, 24) && near(region.y, 36), "{region:?}");
        assert!(near(region.width, 36) && near(region.height, 48), "{region:?}");
        let picture = changes.over(&source);
        assert_eq!(picture.get_pixel(2, 2), source.get_pixel(2, 2));
        assert!(picture.get_pixel(42, 60)[0].abs_diff(230) < 4);
        assert!(Changes::between(flat(0.4), flat(0.41)).subject((96, 96)).is_none());
    }
}
