//! `Cut`: a square part of a scene, drawn larger.

use any2pix_nn::Generator;
use image::{RgbImage, imageops};

use crate::playroom::sample::Sample;
use crate::playroom::scene::{BBox, SCENE_SIDE, Scene};

/// Side of a window in pixels.
pub(super) const WINDOW: u32 = 128;

/// A square part of a scene, in scene pixels.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) side: u32,
}

impl Cut {
    /// A square that holds `region` with some room, not always in its middle.
    pub(super) fn around(region: &BBox, generator: &mut Generator) -> Self {
        let longest = region.width.max(region.height) as f32;
        let wanted = (longest + 8.0) * generator.uniform_in(1.15, 2.2);
        let side = (wanted as u32).clamp(40, SCENE_SIDE);
        let mut corner = |start: u32, length: u32| {
            let room = side.saturating_sub(length) as f32;
            let before = room * generator.uniform_in(0.2, 0.8);
            (start as f32 - before).round().clamp(0.0, (SCENE_SIDE - side) as f32) as u32
        };
        let (x, y) = (corner(region.x, region.width), corner(region.y, region.height));
        Self { x, y, side }
    }

    /// Pixels of the window for each of the scene.
    fn scale(&self) -> f32 {
        WINDOW as f32 / self.side as f32
    }

    /// Side of the whole scene at the window's scale.
    fn whole(&self) -> u32 {
        ((SCENE_SIDE as f32 * self.scale()).round() as u32).max(WINDOW)
    }

    /// The window of a scene that was drawn at the window's scale.
    fn window(&self, drawn: &RgbImage) -> RgbImage {
        let most = drawn.width() - WINDOW;
        let corner = |start: u32| ((start as f32 * self.scale()).round() as u32).min(most);
        imageops::crop_imm(drawn, corner(self.x), corner(self.y), WINDOW, WINDOW).to_image()
    }

    /// Source and target, drawn at the window's scale.
    pub(super) fn of(&self, sample: &Sample) -> (RgbImage, RgbImage) {
        let (source, target) = sample.recipe.render(self.whole());
        (self.window(&source), self.window(&target))
    }

    /// A scene without effects, drawn at the window's scale.
    pub(super) fn of_scene(&self, scene: &Scene) -> RgbImage {
        self.window(&scene.render(self.whole()))
    }

    /// Left, top, width and height of a scene box in the window.
    pub(super) fn place(&self, bbox: &BBox) -> (i64, i64, u32, u32) {
        let scale = self.scale();
        let at = |value: i64| (value as f32 * scale).round() as i64;
        let start = |value: u32, corner: u32| at(i64::from(value)) - at(i64::from(corner));
        let length = |value: u32| at(i64::from(value)).max(1) as u32;
        let (width, height) = (length(bbox.width), length(bbox.height));
        (start(bbox.x, self.x), start(bbox.y, self.y), width, height)
    }
}
