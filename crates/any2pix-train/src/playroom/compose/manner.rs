//! `Manner`: edits told in words alone, and wanted things put down so that a small painter can
//! learn them: one drawing a concept, upright, in plain light, on a grid.

use std::sync::Arc;

use image::{RgbaImage, imageops};

use super::super::colour;
use super::super::instruction::Role;
use super::super::place::Place;
use super::super::raster;
use super::super::scene::{BBox, PLAIN_LIGHT, Placed, SCENE_SIDE, Scene, View, fitted};
use super::{Composer, Pick};
use crate::playroom::catalogue::Habitat;

/// How edits are told and composed; the default is the whole variety of the world.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Things and scenes are referred to by words, never by pictures or sounds.
    pub words_only: bool,
    /// In training, things that already stand in a scene have other proportions and colours than
    /// their cut-outs: who finds them shall not know them by heart.
    pub varied: bool,
    /// Pictures stay blank: for those who only read what is told.
    pub unpainted: bool,
    /// The cut-out of each concept, by its id, that wanted things are drawn from. With any, each has
    /// one size, stands in the middle of the lower edge of a square of [`SQUARE`] on a coarse grid,
    /// in a free place if there is one, which the scene alone decides, without mirroring, light or
    /// shadow; and pictures from nothing show one or two of them before a backdrop. Empty: any
    /// cut-out, anywhere, before any picture.
    pub drawings: Arc<[usize]>,
}

/// Side of the square that a drawing stands in, scene pixels.
pub const SQUARE: u32 = 64;
/// Corners of squares are multiples of this.
const GRID: u32 = 16;
/// The longer side of a drawing is at least this.
const SMALLEST: u32 = 44;
/// Most things of a picture from nothing.
const TOGETHER: usize = 2;
/// How often nothing stands before a backdrop.
const BARE: f32 = 0.1;
/// How often a varied thing has other colours, too.
const REPAINTED: f32 = 0.6;
/// A place where this much of the thing is covered by others is not free.
const SOME_OVERLAP: f32 = 0.05;

impl Manner {
    /// The drawing that stands for a concept.
    pub(super) fn drawing(&self, concept: usize) -> Option<usize> {
        self.drawings.get(concept).copied()
    }
}

/// Where a cut-out stands in its square; `largest` is how large things of its kind get.
fn in_square(picture: &RgbaImage, largest: u32) -> BBox {
    let (width, height) = fitted(picture, largest.clamp(SMALLEST, SQUARE) as f32);
    BBox { x: (SQUARE - width) / 2, y: SQUARE - height, width, height }
}

/// The corner of the square that a drawing at `bbox` stands in.
pub fn square_of(bbox: &BBox) -> (u32, u32) {
    let left = bbox.x.saturating_sub(SQUARE.saturating_sub(bbox.width) / 2);
    (left, (bbox.y + bbox.height).saturating_sub(SQUARE))
}

/// A cut-out in its square, the rest of which is clear.
pub(in crate::playroom) fn drawn(picture: &RgbaImage, largest: u32) -> RgbaImage {
    let BBox { x, y, width, height } = in_square(picture, largest);
    let mut square = RgbaImage::new(SQUARE, SQUARE);
    let scaled = raster::resize(picture, width, height);
    imageops::replace(&mut square, &scaled, i64::from(x), i64::from(y));
    square
}

/// The square's edge nearest to `start`.
fn nearest(start: f32) -> u32 {
    let last = (SCENE_SIDE - SQUARE) / GRID;
    ((start / GRID as f32).round().max(0.0) as u32).min(last) * GRID
}

/// The middle of the square when nothing else is in the way, scene pixels.
fn usual_middle(habitat: Habitat, place: Option<Place>) -> (f32, f32) {
    let side = SCENE_SIDE as f32;
    if let Some(place) = place {
        let area = place.area();
        let middle = |[low, high]: [f32; 2]| (low + high) * 0.5 * side;
        return (middle(area.x), middle(area.y));
    }
    let on_feet = |feet: f32| feet * side - SQUARE as f32 * 0.5;
    let y = match habitat {
        Habitat::Air => 0.34 * side,
        Habitat::Ground => on_feet(0.85),
        Habitat::Water | Habitat::Surface => on_feet(0.8),
    };
    (side * 0.5, y)
}

/// All corners of squares.
fn corners() -> impl Iterator<Item = (u32, u32)> {
    let at = || (0..=(SCENE_SIDE - SQUARE) / GRID).map(|cell| cell * GRID);
    at().flat_map(move |y| at().map(move |x| (x, y)))
}

/// A thing that stands at `inside` in a square whose corner `may` be taken: in the free one that is
/// nearest to the `usual`, in the least crowded if none is free; in the usual one if none may be
/// taken.
fn free_place(
    scene: &Scene,
    inside: &BBox,
    usual: (f32, f32),
    may: impl Fn((u32, u32), &BBox) -> bool,
) -> BBox {
    let crowd = |bbox: &BBox| scene.objects.iter().map(|o| bbox.overlap(&o.bbox)).sum::<f32>();
    let cost = |(x, y): (u32, u32)| {
        let bbox = BBox { x: x + inside.x, y: y + inside.y, ..*inside };
        let crowd = crowd(&bbox);
        let away = (x as f32 - usual.0).powi(2) + (y as f32 - usual.1).powi(2);
        let crowd = if crowd <= SOME_OVERLAP { 0.0 } else { crowd };
        may((x, y), &bbox).then_some((crowd, away, bbox))
    };
    let dearer =
        |a: &(f32, f32, _), b: &(f32, f32, _)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1));
    let best = corners().filter_map(cost).min_by(dearer);
    best.map_or_else(|| in_scene(inside, usual), |(_, _, bbox)| bbox)
}

/// How high the square of a thing of `habitat` stands when nothing else is in the way.
fn usual_top(habitat: Habitat) -> f32 {
    usual_middle(habitat, None).1 - SQUARE as f32 * 0.5
}

/// What stands at `inside` in a square whose corner is as near to `corner` as the grid allows.
fn in_scene(inside: &BBox, corner: (f32, f32)) -> BBox {
    let (x, y) = (nearest(corner.0) + inside.x, nearest(corner.1) + inside.y);
    BBox { x, y, ..*inside }
}

impl Composer<'_> {
    /// Puts a wanted thing down as the manner says.
    pub(super) fn put_wanted(
        &mut self,
        scene: &Scene,
        pick: &Pick,
        place: Option<Place>,
        instead: Option<&BBox>,
    ) -> Placed {
        if self.manner.drawing(pick.concept).is_none() {
            return self.put(scene, pick, place, instead);
        }
        let entry = self.entry(pick.concept);
        let picture = entry.sprites[pick.sprite].picture.clone();
        let inside = in_square(&picture, entry.size[1]);
        let half = SQUARE as f32 * 0.5;
        let (x, y) = match instead {
            Some(old) => {
                let feet = (old.y + old.height) as f32;
                (old.x as f32 + old.width as f32 * 0.5, feet - half)
            }
            None => usual_middle(entry.habitat, place),
        };
        let usual = (x - half, y - half);
        let beside = |at: u32, usual: f32| nearest(usual).abs_diff(at) <= GRID;
        let bbox = free_place(scene, &inside, usual, |(x, y), bbox| match place {
            Some(place) => place.holds(bbox),
            None => beside(y, usual.1) && (instead.is_none() || beside(x, usual.0)),
        });
        Placed::new((pick.concept, pick.sprite), picture, bbox)
    }

    /// One or two drawings, which `picks` gets, or none, before a backdrop: what a caption names
    /// first stands on the left.
    pub(super) fn drawn_scene(&mut self, picks: &mut Vec<Pick>) -> Scene {
        let mut scene = Scene { view: self.drawn_view(), objects: Vec::new() };
        if self.generator.chance(BARE) {
            return scene;
        }
        let mut taken = Vec::new();
        for _ in 0..1 + self.generator.below(TOGETHER) {
            let pick = self.pick(&taken, Role::Wanted);
            taken.push(pick.concept);
            picks.push(pick);
        }
        // Captions name what stands further back first.
        picks.sort_by_key(|pick| nearest(usual_top(self.entry(pick.concept).habitat)));
        for (pick, column) in picks.iter().zip([0.0, (SCENE_SIDE - SQUARE) as f32]) {
            let entry = self.entry(pick.concept);
            let picture = entry.sprites[pick.sprite].picture.clone();
            let inside = in_square(&picture, entry.size[1]);
            let bbox = in_scene(&inside, (column, usual_top(entry.habitat)));
            scene.insert(Placed::new((pick.concept, pick.sprite), picture, bbox));
        }
        scene
    }

    /// A cut-out as somebody else might have drawn it.
    pub(super) fn varied(&mut self, picture: &RgbaImage) -> RgbaImage {
        let (width, height) = picture.dimensions();
        let width = width as f32 * self.generator.uniform_in(0.85, 1.18);
        let mut picture = raster::resize(picture, (width as u32).max(1), height);
        if self.generator.chance(REPAINTED) {
            let mut within = |low, high| self.generator.uniform_in(low, high);
            let (degrees, saturation, value) =
                (within(-30.0, 30.0), within(0.6, 1.3), within(0.8, 1.15));
            colour::turn(&mut picture, degrees, saturation, value);
        }
        picture
    }

    /// A place as a backdrop shows it.
    fn drawn_view(&mut self) -> View {
        let world = self.world;
        let backdrops = &world.backdrops;
        let (background, picture) = &backdrops[self.generator.below(backdrops.len())];
        let square = [0, 0, picture.width()];
        let (background, picture) = (*background, picture.clone());
        View { background, picture, square, flip: false, light: PLAIN_LIGHT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_found_again_from_what_stands_in_it() {
        for (width, height, largest) in [(30, 90, 30), (80, 20, 90), (64, 63, 51)] {
            let inside = in_square(&RgbaImage::new(width, height), largest);
            assert!(inside.width.max(inside.height) >= SMALLEST);
            for corner in [(0, 0), (16, 48), (64, 64)] {
                let bbox = in_scene(&inside, (corner.0 as f32, corner.1 as f32));
                assert_eq!(square_of(&bbox), corner);
            }
        }
    }
}
