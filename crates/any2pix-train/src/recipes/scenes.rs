//! Pictures with all that stands in them, and questions where something may be put.

use any2pix_encoders::locator::Area;
use any2pix_encoders::pixels;
use any2pix_encoders::resize::{Filter, resize};
use any2pix_nn::Generator;
use candle_core::{Device, Tensor};
use image::RgbImage;

use super::cut::{Cut, WINDOW};
use super::pictures::flat;
use super::queries::Queries;
use super::targets;
use crate::Result;
use crate::playroom::scene::{Placed, Scene};
use crate::playroom::{Kind, Place, SCENE_SIDE, Sample, Split, World, raster};

/// A thing in a picture.
pub(super) struct Thing {
    /// Its concept's id; one more than there are for whatever stands out.
    pub(super) concept: usize,
    /// Centre, width and height, in parts of the picture's side.
    pub(super) bbox: [f32; 4],
    /// How much of every cell it covers, row by row.
    pub(super) cells: Vec<f32>,
}

/// What may be put somewhere.
pub(super) struct Wish {
    pub(super) concept: usize,
    /// Where one scene has it.
    pub(super) bbox: [f32; 4],
    /// Where it was wished to be.
    pub(super) area: Area,
}

/// A picture and what is true of it.
pub(super) struct Shown {
    pub(super) picture: Tensor,
    pub(super) things: Vec<Thing>,
    pub(super) wish: Option<Wish>,
}

/// Pictures side by side, those with a wish first.
pub(super) struct Batch {
    /// `(b, 3, side, side)` in ±1.
    pub(super) pictures: Tensor,
    /// `(concepts + 1, width)`: what stands for each concept this time, and for anything.
    pub(super) queries: Tensor,
    /// `(wishes, width)`; absent without wishes.
    pub(super) wished: Option<Tensor>,
    pub(super) shown: Vec<Shown>,
}

/// What makes batches, shared by the threads that do.
pub(super) struct Scenes {
    pub(super) world: World,
    pub(super) queries: Queries,
    /// Cells along a side.
    pub(super) cells: usize,
}

/// How often one thing is shown by itself instead of an edit with its two scenes.
const PORTRAITS: f32 = 0.2;
/// How often, of the other times, a part of a scene is shown from nearer.
const NEARER: f32 = 0.3;
/// Of a thing that the border cuts, so much must be seen.
const SEEN: f32 = 0.3;

/// Things, and all of them together as what stands out, in the place of the largest.
fn with_all(mut things: Vec<Thing>, concept: usize) -> Vec<Thing> {
    let size = |thing: &Thing| thing.bbox[2] * thing.bbox[3];
    let largest = things.iter().max_by(|a, b| size(a).total_cmp(&size(b))).map(|t| t.bbox);
    if let Some(bbox) = largest {
        let covered = |cell: usize| things.iter().map(|t| t.cells[cell]).fold(0.0, f32::max);
        let cells = (0..things[0].cells.len()).map(covered).collect();
        things.push(Thing { concept, bbox, cells });
    }
    things
}

impl Scenes {
    fn things(&self, scene: &Scene) -> Vec<Thing> {
        let known = self.world.concepts().len();
        let objects = scene.objects.iter().filter(|object| object.concept < known);
        let things: Vec<Thing> = objects
            .map(|object| {
                let corner = (i64::from(object.bbox.x), i64::from(object.bbox.y));
                let opacity = targets::opacity(&object.cutout(), corner, SCENE_SIDE);
                let cells = targets::cells(&opacity, self.cells);
                Thing { concept: object.concept, bbox: targets::unit_box(&object.bbox), cells }
            })
            .collect();
        with_all(things, known)
    }

    fn shown(&self, picture: &RgbImage, scene: &Scene, wish: Option<Wish>) -> Result<Shown> {
        Ok(Shown { picture: pixels(picture)?, things: self.things(scene), wish })
    }

    fn wish(&self, sample: &Sample) -> Option<Wish> {
        let object = sample.wanted.first().filter(|_| sample.kind == Kind::Add)?;
        let concept = self.world.concept_id(&object.concept)?;
        let bbox = targets::unit_box(&object.bbox);
        let is_known = concept < self.world.concepts().len();
        let area = sample.place.map_or(Area::ANYWHERE, Place::area);
        is_known.then_some(Wish { concept, bbox, area })
    }

    /// The pictures of one edit.
    pub(super) fn pictures(&self, sample: &Sample) -> Result<Vec<Shown>> {
        let mut pictures = Vec::new();
        if let Some(source) = &sample.recipe.source {
            pictures.push(self.shown(&sample.source, source, self.wish(sample))?);
        }
        if sample.kind != Kind::Remove {
            pictures.push(self.shown(&sample.target, &sample.recipe.target, None)?);
        }
        Ok(pictures)
    }

    /// One thing as somebody might show it.
    fn portrait(&self, generator: &mut Generator) -> Result<Option<Shown>> {
        let concepts = self.world.concepts();
        let concept = generator.below(concepts.len());
        let Some((picture, opacity)) =
            self.world.portrait(concepts[concept], Split::Train, generator)
        else {
            return Ok(None);
        };
        let Some(bbox) = targets::opaque_box(&opacity) else { return Ok(None) };
        let picture = resize(&flat(&picture), (SCENE_SIDE, SCENE_SIDE), Filter::Bicubic);
        let thing = Thing { concept, bbox, cells: targets::cells(&opacity, self.cells) };
        let things = with_all(vec![thing], concepts.len());
        Ok(Some(Shown { picture: pixels(&picture)?, things, wish: None }))
    }

    /// A part of a scene around one of its things, from nearer: what is looked at twice is looked
    /// at like this.
    fn nearer(&self, scene: &Scene, generator: &mut Generator) -> Result<Option<Shown>> {
        let known = self.world.concepts().len();
        let Some(subject) = generator.choose(&scene.objects) else { return Ok(None) };
        let cut = Cut::around(&subject.bbox, generator);
        let objects = scene.objects.iter().filter(|object| object.concept < known);
        let things: Vec<Thing> = objects.filter_map(|object| self.thing_in(&cut, object)).collect();
        let picture = pixels(&cut.of_scene(scene))?;
        let is_empty = things.is_empty();
        Ok((!is_empty).then(|| Shown { picture, things: with_all(things, known), wish: None }))
    }

    /// What a part of a scene shows of a thing, if it is enough.
    fn thing_in(&self, cut: &Cut, object: &Placed) -> Option<Thing> {
        let (left, top, width, height) = cut.place(&object.bbox);
        let cutout = raster::resize(&object.picture, width, height);
        let opacity = targets::opacity(&cutout, (left, top), WINDOW);
        let seen = opacity.pixels().filter(|pixel| pixel[0] > 0).count();
        let all = cutout.pixels().filter(|pixel| pixel[3] > 0).count();
        let bbox = targets::opaque_box(&opacity).filter(|_| seen as f32 >= SEEN * all as f32)?;
        let cells = targets::cells(&opacity, self.cells);
        Some(Thing { concept: object.concept, bbox, cells })
    }

    /// About `size` pictures of training.
    pub(super) fn batch(&self, size: usize, generator: &mut Generator) -> Result<Batch> {
        let kinds = [Kind::Add, Kind::Remove, Kind::Replace, Kind::Look];
        let mut shown = Vec::new();
        while shown.len() < size {
            if generator.chance(PORTRAITS) {
                shown.extend(self.portrait(generator)?);
                continue;
            }
            let kind = generator.choose(&kinds).copied();
            let sample = self.world.sample(generator, Split::Train, kind);
            if generator.chance(NEARER) {
                shown.extend(self.nearer(&sample.recipe.target, generator)?);
            } else {
                shown.extend(self.pictures(&sample)?);
            }
        }
        shown.truncate(size);
        self.side_by_side(shown, generator)
    }

    /// # Errors
    /// When `shown` is empty.
    pub(super) fn side_by_side(
        &self,
        mut shown: Vec<Shown>,
        generator: &mut Generator,
    ) -> Result<Batch> {
        shown.sort_by_key(|shown| shown.wish.is_none());
        let pictures: Vec<&Tensor> = shown.iter().map(|shown| &shown.picture).collect();
        let wished = shown.iter().filter_map(|shown| Some(shown.wish.as_ref()?.concept));
        let wished: Vec<usize> = wished.collect();
        let is_empty = wished.is_empty();
        Ok(Batch {
            pictures: Tensor::stack(&pictures, 0)?,
            queries: self.queries.all(generator)?,
            wished: (!is_empty).then(|| self.queries.some(&wished, generator)).transpose()?,
            shown,
        })
    }
}

impl Batch {
    /// Every (picture, concept) that is there, with its thing; the last of several alike.
    pub(super) fn present(&self) -> Vec<(usize, &Thing)> {
        let mut present: Vec<(usize, &Thing)> = Vec::new();
        for (picture, shown) in self.shown.iter().enumerate() {
            for (at, thing) in shown.things.iter().enumerate() {
                let is_again = |other: &Thing| other.concept == thing.concept;
                if !shown.things[at + 1..].iter().any(is_again) {
                    present.push((picture, thing));
                }
            }
        }
        present
    }

    /// What a yes to an absent concept costs: dearest where something else stands.
    ///
    /// # Shapes
    /// → `(b·concepts, cells²)`, of sum 1; 0 for concepts that are there.
    pub(super) fn absent(&self, concepts: usize, cells: usize) -> Result<Tensor> {
        const ELSE: f32 = 10.0;
        let mut weights = Vec::with_capacity(self.shown.len() * concepts * cells);
        for shown in &self.shown {
            let price = |cell: usize| {
                let covered = shown.things.iter().map(|thing| thing.cells[cell]);
                1.0 + (ELSE - 1.0) * covered.fold(0.0, f32::max)
            };
            let prices: Vec<f32> = (0..cells).map(price).collect();
            for concept in 0..concepts {
                let is_there = shown.things.iter().any(|thing| thing.concept == concept);
                let factor = f32::from(!is_there);
                weights.extend(prices.iter().map(|price| price * factor));
            }
        }
        let sum: f32 = weights.iter().sum::<f32>().max(1e-6);
        weights.iter_mut().for_each(|weight| *weight /= sum);
        let rows = self.shown.len() * concepts;
        Ok(Tensor::from_vec(weights, (rows, cells), &Device::Cpu)?)
    }
}
