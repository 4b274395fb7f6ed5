//! Words of place: where in a picture something shall be.

use any2pix_encoders::locator::Area;
use any2pix_nn::Generator;
use serde::{Deserialize, Serialize};

use super::scene::{BBox, SCENE_SIDE};

/// A part of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Place {
    Left,
    Right,
    Top,
    Bottom,
    Center,
    TopLeft,
    TopRight,
    BottomLeft,
    BottomRight,
}

impl Place {
    /// All of them; the position in this list is the place's id.
    pub const ALL: [Self; 9] = [
        Self::Left,
        Self::Right,
        Self::Top,
        Self::Bottom,
        Self::Center,
        Self::TopLeft,
        Self::TopRight,
        Self::BottomLeft,
        Self::BottomRight,
    ];

    /// The word in a plan: `LEFT`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "LEFT",
            Self::Right => "RIGHT",
            Self::Top => "TOP",
            Self::Bottom => "BOTTOM",
            Self::Center => "CENTER",
            Self::TopLeft => "TOP-LEFT",
            Self::TopRight => "TOP-RIGHT",
            Self::BottomLeft => "BOTTOM-LEFT",
            Self::BottomRight => "BOTTOM-RIGHT",
        }
    }

    /// How people say it, to stand behind "put it".
    pub fn phrases(self) -> &'static [&'static str] {
        match self {
            Self::Left => &["on the left", "on the left side", "to the left", "at the left"],
            Self::Right => &["on the right", "on the right side", "to the right", "at the right"],
            Self::Top => &["at the top", "in the upper part", "up high", "near the top"],
            Self::Bottom => &["at the bottom", "in the lower part", "down low", "near the bottom"],
            Self::Center => {
                &["in the middle", "in the center", "in the centre", "right in the middle"]
            }
            Self::TopLeft => &["in the top left corner", "at the top left", "in the upper left"],
            Self::TopRight => {
                &["in the top right corner", "at the top right", "in the upper right"]
            }
            Self::BottomLeft => {
                &["in the bottom left corner", "at the bottom left", "in the lower left"]
            }
            Self::BottomRight => {
                &["in the bottom right corner", "at the bottom right", "in the lower right"]
            }
        }
    }

    /// Where the centre lies.
    pub fn area(self) -> Area {
        Area::named(self.word()).unwrap_or(Area::ANYWHERE)
    }

    /// Whether the middle of `bbox` lies in this part.
    pub fn holds(self, bbox: &BBox) -> bool {
        let (x, y) = bbox.centre();
        self.area().holds(x, y)
    }

    /// A point in this part, scene pixels; away from its edges.
    pub fn sample(self, generator: &mut Generator) -> (f32, f32) {
        let side = SCENE_SIDE as f32;
        let area = self.area();
        let mut within = |[low, high]: [f32; 2]| {
            let (low, high) = (low.max(0.14), high.min(0.86));
            let rim = (high - low) * 0.12;
            generator.uniform_in(low + rim, high - rim) * side
        };
        (within(area.x), within(area.y))
    }
}
