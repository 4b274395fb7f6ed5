//! Where an edit happens: a region of the source, and the window around it that is painted.

use any2pix_encoders::resize::{self, Filter};
use image::{RgbImage, imageops};

use crate::outcome::Rect;
use crate::planes::Plane;

/// From here on a mask says that a place belongs to a thing.
const THRESHOLD: f32 = 0.5;
/// A thing may reach out of its rectangle by this part of the longer side.
const RIM: f32 = 0.12;

/// Things that are added may cover each other by this part of the smaller one.
const MOST_SHARED: f32 = 0.1;
/// How much smaller a thing may become to find a place beside others.
const SMALLER: [f32; 4] = [1.0, 0.8, 0.65, 0.5];
/// No side of an object is a smaller part of the picture.
const SMALLEST_PART: f32 = 0.06;

/// A region of the source.
#[derive(Clone, Debug)]
pub struct Region {
    /// The rectangle around it.
    pub rect: Rect,
    /// How much each place belongs to it, over the whole source, 0 to 1.
    pub mask: Plane,
}

impl Region {
    /// A rectangle of a picture as a region, with a mask of `side` cells a side.
    pub fn of_rect(rect: Rect, side: usize, (width, height): (u32, u32)) -> Self {
        let inside = |cell: usize, start: u32, length: u32, whole: u32| {
            let at = (cell as f64 + 0.5) / side as f64 * f64::from(whole);
            at >= f64::from(start) && at <= f64::from(start) + f64::from(length)
        };
        let mask = Plane::from_fn(side, side, |x, y| {
            let across = inside(x, rect.x, rect.width, width);
            f32::from(across && inside(y, rect.y, rect.height, height))
        });
        Self { rect, mask }
    }

    /// A rectangle with what a mask over the whole picture says of it and of its rim; where it
    /// says nothing, all of the rectangle.
    pub fn within(rect: Rect, mask: &Plane, size: (u32, u32)) -> Self {
        let near = Self::of_rect(rect.grown(RIM, size), mask.width, size).mask;
        let mask = mask.zip(&near, |value, near| value * near);
        if mask.values.iter().any(|value| *value >= THRESHOLD) {
            return Self { rect, mask };
        }
        Self::of_rect(rect, mask.width, size)
    }
}

impl Rect {
    /// The smallest rectangle that holds both.
    pub fn united(&self, other: &Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let right = (self.x + self.width).max(other.x + other.width);
        let bottom = (self.y + self.height).max(other.y + other.height);
        Self { x, y, width: right - x, height: bottom - y }
    }

    /// A rectangle of that size around the same middle, moved into a picture.
    pub fn with_size(&self, w: u32, h: u32, (width, height): (u32, u32)) -> Self {
        let start = |start: u32, length: u32, own: u32, whole: u32| {
            let middle = i64::from(start) + i64::from(length) / 2;
            (middle - i64::from(own) / 2).clamp(0, i64::from(whole - own)) as u32
        };
        let (w, h) = (w.min(width), h.min(height));
        let (x, y) = (start(self.x, self.width, w, width), start(self.y, self.height, h, height));
        Self { x, y, width: w, height: h }
    }

    /// The whole of a picture.
    pub fn whole(picture: &RgbImage) -> Self {
        Self { x: 0, y: 0, width: picture.width(), height: picture.height() }
    }

    /// Grown by a part of its longer side on every side, within a picture.
    pub fn grown(&self, part: f32, (width, height): (u32, u32)) -> Self {
        let margin = (self.width.max(self.height) as f32 * part).round() as u32;
        let (x, y) = (self.x.saturating_sub(margin), self.y.saturating_sub(margin));
        let right = (self.x + self.width + margin).min(width);
        let bottom = (self.y + self.height + margin).min(height);
        Self { x, y, width: right - x, height: bottom - y }
    }

    /// The square around it with `zoom` times its longer side, of at least `least` pixels a side,
    /// moved into a picture and no larger than it.
    pub fn window(&self, zoom: f32, least: u32, (width, height): (u32, u32)) -> Self {
        let side = (self.width.max(self.height) as f32 * zoom).ceil() as u32;
        let side = side.max(least).min(width.min(height));
        let start = |start: u32, length: u32, limit: u32| {
            let centre = i64::from(start) + i64::from(length) / 2;
            (centre - i64::from(side) / 2).clamp(0, i64::from(limit - side)) as u32
        };
        Self {
            x: start(self.x, self.width, width),
            y: start(self.y, self.height, height),
            width: side,
            height: side,
        }
    }

    /// The same rectangle, moved to a side as little as it takes not to cover others, or to be
    /// covered by them, and made smaller where there is no such place in a picture; where it is if
    /// there is none at all.
    pub fn beside(&self, others: &[Self], width: u32) -> Self {
        let is_free = |rect: &Self| others.iter().all(|other| rect.shared(other) <= MOST_SHARED);
        let place = SMALLER.into_iter().find_map(|part| {
            let length = |length: u32| ((length as f32 * part) as u32).max(1);
            let own = self.standing(length(self.width), length(self.height));
            let at = |x: u32| Self { x, ..own };
            let left = others.iter().filter_map(|other| other.x.checked_sub(own.width));
            let right = others.iter().map(|other| other.x + other.width);
            std::iter::once(own.x)
                .chain(left.chain(right))
                .filter(|x| x + own.width <= width && is_free(&at(*x)))
                .min_by_key(|x| x.abs_diff(own.x))
                .map(at)
        });
        place.unwrap_or(*self)
    }

    /// A rectangle of that size on the middle of this one's lower edge.
    fn standing(&self, width: u32, height: u32) -> Self {
        let (x, y) = (self.x + (self.width - width) / 2, self.y + self.height - height);
        Self { x, y, width, height }
    }

    /// The part of the smaller one of two rectangles that both have.
    fn shared(&self, other: &Self) -> f32 {
        let overlap = |(a, length): (u32, u32), (b, other): (u32, u32)| {
            (a + length).min(b + other).saturating_sub(a.max(b))
        };
        let across = overlap((self.x, self.width), (other.x, other.width));
        let down = overlap((self.y, self.height), (other.y, other.height));
        let area = |rect: &Self| rect.width as f32 * rect.height as f32;
        across as f32 * down as f32 / area(self).min(area(other)).max(1.0)
    }

    /// The largest rectangle of the proportions `width`:`height` that stands on the middle of
    /// this one's lower edge.
    pub fn fitted(&self, width: u32, height: u32) -> Self {
        let scale = (self.width as f32 / width.max(1) as f32)
            .min(self.height as f32 / height.max(1) as f32);
        let length =
            |pixels: u32, most: u32| ((pixels as f32 * scale).round() as u32).clamp(1, most);
        let (w, h) = (length(width, self.width), length(height, self.height));
        self.standing(w, h)
    }
}

/// A box in parts of the picture (centre, width, height) as pixels inside of it.
pub fn rect_of([x, y, w, h]: [f32; 4], (width, height): (u32, u32)) -> Rect {
    let span = |centre: f32, length: f32, pixels: u32| {
        let length = if length.is_finite() { length.clamp(SMALLEST_PART, 1.0) } else { 0.5 };
        let half = length / 2.0;
        let centre = if centre.is_finite() { centre.clamp(half, 1.0 - half) } else { 0.5 };
        let start = ((centre - half) * pixels as f32).round() as u32;
        let length = ((length * pixels as f32).round() as u32).max(1);
        (start.min(pixels.saturating_sub(length)), length.min(pixels))
    };
    let ((x, width), (y, height)) = (span(x, w, width), span(y, h, height));
    Rect { x, y, width, height }
}

/// The part of `picture` in `window`.
pub fn part(picture: &RgbImage, window: Rect) -> RgbImage {
    let Rect { x, y, width, height } = window;
    imageops::crop_imm(picture, x, y, width, height).to_image()
}

/// The part of `picture` in `window`, at `side` pixels a side.
pub fn cut(picture: &RgbImage, window: Rect, side: u32) -> RgbImage {
    resize::resize(&part(picture, window), (side, side), Filter::Bicubic)
}

/// A rectangle of the source as a soft mask over a window, `side` cells a side: 1 inside, falling
/// to 0 over `feather` cells outside.
pub fn rect_in_window(rect: Rect, window: Rect, side: usize, feather: f32) -> Plane {
    let across =
        |at: usize| f64::from(window.x) + (at as f64 + 0.5) / side as f64 * f64::from(window.width);
    let down = |at: usize| {
        f64::from(window.y) + (at as f64 + 0.5) / side as f64 * f64::from(window.height)
    };
    let cell = f64::from(window.width.max(1)) / side as f64;
    let outside = |at: f64, start: u32, length: u32| {
        let (start, end) = (f64::from(start), f64::from(start) + f64::from(length));
        ((start - at).max(at - end).max(0.0) / cell) as f32
    };
    Plane::from_fn(side, side, |x, y| {
        let dx = outside(across(x), rect.x, rect.width);
        let dy = outside(down(y), rect.y, rect.height);
        (1.0 - (dx * dx + dy * dy).sqrt() / feather.max(1e-3)).clamp(0.0, 1.0)
    })
}

/// The part of a mask over the whole picture that lies in a window, `side` cells a side.
pub fn mask_in_window(
    mask: &Plane,
    window: Rect,
    (width, height): (u32, u32),
    side: usize,
) -> Plane {
    let at = |cell: usize, start: u32, length: u32, whole: u32| {
        (start as f32 + (cell as f32 + 0.5) / side as f32 * length as f32) / whole as f32
    };
    Plane::from_fn(side, side, |x, y| {
        let u = at(x, window.x, window.width, width);
        mask.sample(u, at(y, window.y, window.height, height))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_becomes_pixels_inside_the_picture() {
        assert_eq!(
            rect_of([0.5, 0.5, 0.25, 0.5], (640, 320)),
            Rect { x: 240, y: 80, width: 160, height: 160 }
        );
        for bbox in [[0.0, 1.0, 0.4, 0.4], [2.0, -3.0, 9.0, 0.0], [f32::NAN; 4]] {
            let rect = rect_of(bbox, (640, 480));
            assert!(rect.x + rect.width <= 640 && rect.y + rect.height <= 480, "{rect:?}");
            assert!(rect.width > 20 && rect.height > 20, "{rect:?}");
        }
    }

    #[test]
    fn a_window_is_a_square_inside_the_picture() {
        let size = (640, 480);
        for rect in [
            Rect { x: 0, y: 0, width: 40, height: 90 },
            Rect { x: 600, y: 440, width: 40, height: 40 },
            Rect { x: 100, y: 100, width: 400, height: 300 },
            Rect { x: 0, y: 0, width: 640, height: 480 },
            Rect { x: 320, y: 240, width: 1, height: 1 },
        ] {
            let window = rect.window(1.6, 64, size);
            assert_eq!(window.width, window.height);
            assert!(window.width >= 64 && window.x + window.width <= 640, "{window:?}");
            assert!(window.y + window.height <= 480, "{window:?}");
        }
        let rect = Rect { x: 300, y: 200, width: 100, height: 50 };
        let window = rect.window(1.6, 64, size);
        assert_eq!(window, Rect { x: 270, y: 145, width: 160, height: 160 });
    }

    #[test]
    fn things_stand_beside_each_other_if_there_is_room() {
        let rect = |x, width| Rect { x, y: 20, width, height: 60 };
        let (tree, dog) = (rect(40, 30), rect(110, 30));
        let size = 200;
        assert_eq!(rect(60, 40).beside(&[tree], size), rect(70, 40));
        assert_eq!(rect(60, 40).beside(&[tree, dog], size), rect(70, 40));
        assert_eq!(rect(60, 45).beside(&[tree, dog], size), rect(140, 45));
        assert_eq!(rect(68, 40).beside(&[tree], size), rect(68, 40), "all but beside it");
        let smaller = Rect { x: 140, y: 41, width: 52, height: 39 };
        assert_eq!(rect(60, 80).beside(&[tree, dog], size), smaller);
        assert_eq!(rect(0, 200).beside(&[tree, dog], size), rect(0, 200), "no room");
    }

    #[test]
    fn a_fitted_rectangle_keeps_its_proportions_and_its_ground() {
        let rect = Rect { x: 10, y: 20, width: 100, height: 60 };
        assert_eq!(rect.fitted(200, 60), Rect { x: 10, y: 50, width: 100, height: 30 });
        assert_eq!(rect.fitted(30, 60), Rect { x: 45, y: 20, width: 30, height: 60 });
    }

    #[test]
    fn a_region_is_what_the_mask_says_of_its_rectangle() {
        let mask = Plane::from_fn(32, 32, |x, y| {
            let inside = (8..16).contains(&x) && (4..8).contains(&y);
            let elsewhere = x == 30 && y == 30;
            if inside || elsewhere { 0.9 } else { 0.1 }
        });
        let (rect, size) = (Rect { x: 160, y: 40, width: 160, height: 40 }, (640, 320));
        let region = Region::within(rect, &mask, size);
        assert_eq!((region.rect, region.mask.at(10, 5), region.mask.at(30, 30)), (rect, 0.9, 0.0));
        let unsure = Region::within(rect, &mask.map(|value| value * 0.4), size);
        assert_eq!((unsure.mask.at(10, 5), unsure.mask.at(20, 5)), (1.0, 0.0));
    }

    #[test]
    fn masks_and_rectangles_fall_into_a_window_where_they_are() {
        let window = Rect { x: 100, y: 50, width: 160, height: 160 };
        let rect = Rect { x: 140, y: 90, width: 40, height: 80 };
        let soft = rect_in_window(rect, window, 16, 1.0);
        assert_eq!((soft.at(4, 4), soft.at(7, 11), soft.at(0, 0)), (1.0, 1.0, 0.0));
        assert_eq!(soft.values.iter().filter(|v| **v == 1.0).count(), 4 * 8);
        let whole =
            Plane::from_fn(64, 48, |x, y| f32::from((14..18).contains(&x) && (9..17).contains(&y)));
        let inside = mask_in_window(&whole, window, (640, 480), 16);
        assert_eq!((inside.at(5, 6), inside.at(12, 6), inside.at(5, 14)), (1.0, 0.0, 0.0));
    }
}
