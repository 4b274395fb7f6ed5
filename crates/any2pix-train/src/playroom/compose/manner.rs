//! `Manner`: edits told in words alone, and wanted things put down so that a small painter can
//! learn them: one drawing a concept, upright, in plain light, on a grid.

use std::sync::Arc;

use super::super::place::Place;
use super::super::scene::{BBox, Placed, SCENE_SIDE, Scene, fitted};
use super::{Composer, Pick};
use crate::playroom::catalogue::Habitat;

/// How edits are told and composed; the default is the whole variety of the world.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Things and scenes are referred to by words, never by pictures or sounds.
    pub words_only: bool,
    /// Pictures stay blank: for those who only read what is told.
    pub unpainted: bool,
    /// The cut-out of each concept, by its id, that wanted things are drawn from. With any, they
    /// stand on the grid of [`CELL`] pixels, where the scene alone decides, in a few sizes,
    /// without mirroring, light or shadow. Empty: any cut-out, anywhere.
    pub drawings: Arc<[usize]>,
}

/// Corners of wanted things are multiples of this: a codec's patch, in scene pixels.
const CELL: u32 = 8;
/// Replaced things keep about their size, in whole steps of this.
const SIZE_STEP: f32 = 16.0;

impl Manner {
    /// The drawing that stands for a concept.
    pub(super) fn drawing(&self, concept: usize) -> Option<usize> {
        self.drawings.get(concept).copied()
    }
}

/// Corners along one side for a thing of that length.
fn corners(length: u32) -> impl Iterator<Item = u32> + Clone {
    (0..=SCENE_SIDE.saturating_sub(length) / CELL).map(|cell| cell * CELL)
}

/// The corner nearest to `start`.
fn nearest(start: f32, length: u32) -> u32 {
    let last = SCENE_SIDE.saturating_sub(length) / CELL;
    ((start / CELL as f32).round().max(0.0) as u32).min(last) * CELL
}

/// Where a thing stands when nothing else is in the way, scene pixels.
fn usual_middle(habitat: Habitat, place: Option<Place>, height: u32) -> (f32, f32) {
    let side = SCENE_SIDE as f32;
    if let Some(place) = place {
        let area = place.area();
        let middle = |[low, high]: [f32; 2]| (low + high) * 0.5 * side;
        return (middle(area.x), middle(area.y));
    }
    let on_feet = |feet: f32| feet * side - height as f32 * 0.5;
    let y = match habitat {
        Habitat::Air => 0.34 * side,
        Habitat::Ground => on_feet(0.85),
        Habitat::Water | Habitat::Surface => on_feet(0.8),
    };
    (side * 0.5, y)
}

/// The free place on the grid that is nearest to the usual one; the least crowded if none is free.
fn free_place(
    scene: &Scene,
    (width, height): (u32, u32),
    usual: (f32, f32),
    place: Option<Place>,
) -> BBox {
    const SOME_OVERLAP: f32 = 0.05;
    let mut best = (f32::INFINITY, BBox { x: 0, y: 0, width, height });
    for (x, y) in corners(width).flat_map(|x| corners(height).map(move |y| (x, y))) {
        let candidate = BBox { x, y, width, height };
        let crowd: f32 = scene.objects.iter().map(|o| candidate.overlap(&o.bbox)).sum();
        let obeys = place.is_none_or(|place| place.holds(&candidate));
        let (dx, dy) =
            (x as f32 + width as f32 * 0.5 - usual.0, y as f32 + height as f32 * 0.5 - usual.1);
        let distance = dx.hypot(dy) / SCENE_SIDE as f32;
        let crowded = if crowd > SOME_OVERLAP { 1.0 + crowd } else { 0.0 };
        let cost = distance + 10.0 * crowded + if obeys { 0.0 } else { 100.0 };
        if cost < best.0 {
            best = (cost, candidate);
        }
    }
    best.1
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
        let bbox = match instead {
            Some(old) => {
                let size = old.width.max(old.height) as f32 / SIZE_STEP;
                let size = (size.round() * SIZE_STEP).clamp(32.0, 80.0);
                let (width, height) = fitted(&picture, size);
                let left = old.x as f32 + (old.width as f32 - width as f32) * 0.5;
                let top = (old.y + old.height) as f32 - height as f32;
                let (x, y) = (nearest(left, width), nearest(top, height));
                BBox { x, y, width, height }
            }
            None => {
                let [small, large] = entry.size.map(|size| size as f32);
                let cell = CELL as f32;
                let size = fitted(&picture, ((small + large) * 0.5 / cell).round() * cell);
                let usual = usual_middle(entry.habitat, place, size.1);
                free_place(scene, size, usual, place)
            }
        };
        Placed::new((pick.concept, pick.sprite), picture, bbox)
    }
}
