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
    /// The cut-out of each concept, by its id, that wanted things are drawn from. With any, each has
    /// one size and stands on a grid of the codec's patches, where the scene alone decides, without
    /// mirroring, light or shadow. Empty: any cut-out, anywhere.
    pub drawings: Arc<[usize]>,
}

/// Corners of wanted things are multiples of this: a codec's patch, in scene pixels.
const CELL: u32 = 8;
/// How far to the left and to the right of the usual place the others are, of a scene's side.
const ASIDE: f32 = 0.31;
/// A place where this much of the thing is covered by others is not free.
const SOME_OVERLAP: f32 = 0.05;

impl Manner {
    /// The drawing that stands for a concept.
    pub(super) fn drawing(&self, concept: usize) -> Option<usize> {
        self.drawings.get(concept).copied()
    }
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

/// The usual place if it is free, else the one to its left or right; the least crowded if none is.
fn free_place(scene: &Scene, (width, height): (u32, u32), (x, y): (f32, f32)) -> BBox {
    let at = |aside: f32| {
        let left = x + aside * SCENE_SIDE as f32 - width as f32 * 0.5;
        let (x, y) = (nearest(left, width), nearest(y - height as f32 * 0.5, height));
        BBox { x, y, width, height }
    };
    let crowd = |bbox: &BBox| scene.objects.iter().map(|o| bbox.overlap(&o.bbox)).sum::<f32>();
    let places = [0.0, -ASIDE, ASIDE].map(at);
    let free = places.iter().find(|place| crowd(place) <= SOME_OVERLAP);
    let least = places.iter().min_by(|a, b| crowd(a).total_cmp(&crowd(b)));
    free.or(least).copied().unwrap_or(places[0])
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
        let [small, large] = entry.size.map(|size| size as f32);
        let cell = CELL as f32;
        let size = fitted(&picture, ((small + large) * 0.5 / cell).round() * cell);
        let bbox = match instead {
            Some(old) => {
                let left = old.x as f32 + (old.width as f32 - size.0 as f32) * 0.5;
                let top = (old.y + old.height) as f32 - size.1 as f32;
                let (x, y) = (nearest(left, size.0), nearest(top, size.1));
                BBox { x, y, width: size.0, height: size.1 }
            }
            None => free_place(scene, size, usual_middle(entry.habitat, place, size.1)),
        };
        Placed::new((pick.concept, pick.sprite), picture, bbox)
    }
}
