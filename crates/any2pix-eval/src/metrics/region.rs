//! Boxes: overlap with the truth, and words of place.

use serde::{Deserialize, Serialize};

/// A box in fractions of the picture: left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame(pub [f64; 4]);

impl Frame {
    /// Its area; 0 for a box inside out.
    pub fn area(&self) -> f64 {
        let [left, top, right, bottom] = self.0;
        (right - left).max(0.0) * (bottom - top).max(0.0)
    }

    /// Its middle.
    pub fn center(&self) -> (f64, f64) {
        let [left, top, right, bottom] = self.0;
        (0.5 * (left + right), 0.5 * (top + bottom))
    }

    /// Intersection over union.
    pub fn iou(&self, other: &Self) -> f64 {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        let shared = Self([a.max(e), b.max(f), c.min(g), d.min(h)]).area();
        let union = self.area() + other.area() - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }

    /// Whether its middle lies where the word of place says; nothing for a word that is unknown.
    ///
    /// "Left" is the left half, "center" the middle half both ways, a corner both halves.
    pub fn is_at(&self, place: &str) -> Option<bool> {
        let (x, y) = self.center();
        let mut known = false;
        let mut there = true;
        for word in place.to_lowercase().split(|c: char| !c.is_alphabetic()) {
            let obeyed = match word {
                "left" => x < 0.5,
                "right" => x > 0.5,
                "top" | "upper" | "above" => y < 0.5,
                "bottom" | "lower" | "below" => y > 0.5,
                "center" | "centre" | "middle" => {
                    (0.25..=0.75).contains(&x) && (0.25..=0.75).contains(&y)
                }
                _ => continue,
            };
            known = true;
            there &= obeyed;
        }
        known.then_some(there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_shared_area_over_all_area() {
        let a = Frame([0.0, 0.0, 0.5, 0.5]);
        assert!((a.iou(&a) - 1.0).abs() < 1e-12);
        assert!((a.iou(&Frame([0.25, 0.0, 0.75, 0.5])) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(a.iou(&Frame([0.6, 0.6, 0.9, 0.9])), 0.0);
    }

    #[test]
    fn words_of_place_are_halves_corners_and_the_middle() {
        let frame = Frame([0.1, 0.6, 0.3, 0.9]);
        assert_eq!(frame.is_at("LEFT"), Some(true));
        assert_eq!(frame.is_at("bottom_left"), Some(true));
        assert_eq!(frame.is_at("top left"), Some(false));
        assert_eq!(frame.is_at("middle"), Some(false));
        assert_eq!(frame.is_at("somewhere"), None);
    }
}
