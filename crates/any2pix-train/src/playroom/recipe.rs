//! How the pictures of an edit are drawn: two scenes and what happens to the whole, at any size.

use any2pix_nn::Generator;
use image::{GrayImage, Luma, Rgb, RgbImage};

use super::scene::{SCENE_SIDE, Scene};
use super::{colour, looks};

/// What is done to the whole target.
#[derive(Clone, Debug)]
pub enum Finish {
    /// Nothing.
    None,
    /// A look by name; weather falls as the seed says.
    Look(&'static str, u64),
    /// The palette of a picture.
    Palette(RgbImage),
    /// The mood of music.
    Mood {
        /// Major (true) or minor.
        major: bool,
        /// Beats a minute.
        tempo: u32,
        /// From 0 (soft) to 1 (loud).
        loudness: f32,
    },
}

/// How strongly a palette is taken over.
const PALETTE_STRENGTH: f32 = 0.85;
/// Differences up to this (of 255) are not a change.
const UNCHANGED: u8 = 2;

impl Finish {
    fn apply(&self, picture: RgbImage) -> RgbImage {
        match self {
            Self::None => picture,
            Self::Look(name, seed) => looks::apply(name, &picture, &mut Generator::new(*seed)),
            Self::Palette(style) => colour::match_palette(&picture, style, PALETTE_STRENGTH),
            Self::Mood { major, tempo, loudness } => {
                colour::fit_to_music(&picture, *major, *tempo, *loudness)
            }
        }
    }
}

/// How source and target are drawn.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The scene before; `None` makes a picture from nothing.
    pub source: Option<Scene>,
    /// The scene after.
    pub target: Scene,
    /// What then happens to the whole target.
    pub finish: Finish,
}

impl Recipe {
    /// Source and target as pictures of `side` pixels.
    pub fn render(&self, side: u32) -> (RgbImage, RgbImage) {
        let behind = self.target.view.render(side);
        let Some(source) = &self.source else {
            let target = self.finish.apply(self.target.compose(behind));
            return (RgbImage::from_pixel(side, side, Rgb([127; 3])), target);
        };
        // A local edit keeps the view: it is drawn once.
        let before = if source.view.same_as(&self.target.view) {
            source.compose(behind.clone())
        } else {
            source.render(side)
        };
        (before, self.finish.apply(self.target.compose(behind)))
    }

    /// [`Recipe::render`] at 128 pixels, with the mask of change.
    pub fn render_with_mask(&self, whole: bool) -> (RgbImage, RgbImage, GrayImage) {
        let (source, target) = self.render(SCENE_SIDE);
        let mask = if whole {
            GrayImage::from_pixel(SCENE_SIDE, SCENE_SIDE, Luma([255]))
        } else {
            difference(&source, &target)
        };
        (source, target, mask)
    }
}

/// 255 where two pictures differ.
pub fn difference(source: &RgbImage, target: &RgbImage) -> GrayImage {
    let mut mask = GrayImage::new(source.width(), source.height());
    for ((a, b), pixel) in source.pixels().zip(target.pixels()).zip(mask.pixels_mut()) {
        let differs = (0..3).any(|c| a[c].abs_diff(b[c]) > UNCHANGED);
        *pixel = Luma([if differs { 255 } else { 0 }]);
    }
    mask
}
