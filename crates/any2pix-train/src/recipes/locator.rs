//! The locator: where the object of an embedding is, and where it may go.
//!
//! The encoder is frozen; every concept's pictures, names and sounds are embedded once. Of every
//! picture all concepts are asked: those that are there shall be found, the others nowhere.

use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::locator::{Area, Found, Locator, LocatorConfig, Seen, iou};
use any2pix_nn::{Generator, Parameters, ops};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::queries::Queries;
use super::scenes::{Batch, Scenes, Thing, Wish};
use super::{component, targets};
use crate::playroom::{Kind, Split, World};
use crate::prefetch::Prefetch;
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss, export};

/// What the recipe's table in the settings file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Numbers {
    /// Threads that make batches.
    threads: usize,
    /// Pictures of a concept that queries come from.
    pictures: usize,
    /// Sounds of a concept that queries come from.
    sounds: usize,
    /// Length of the disturbance of a query, as a part of its own length, at most.
    noise: f32,
    /// Weight of the middles.
    middle_weight: f64,
    /// Weight of the boxes.
    box_weight: f64,
    /// Weight of where things may be put; any plausible place would do.
    put_weight: f64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            threads: 1,
            pictures: 10,
            sounds: 4,
            noise: 0.5,
            middle_weight: 0.5,
            box_weight: 1.0,
            put_weight: 0.2,
        }
    }
}

/// The stage `locator`.
pub struct LocatorRecipe {
    parameters: Parameters,
    model: Locator,
    scenes: Arc<Scenes>,
    batches: Prefetch<Batch>,
    numbers: Numbers,
}

impl LocatorRecipe {
    /// Opens the world, embeds its concepts and builds a fresh locator.
    pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
        let settings = &context.settings;
        let numbers: Numbers = settings.recipe()?;
        let config: LocatorConfig = component::config(&context.model, "locator")?;
        let world = World::open(&context.data).map_err(targets::no_world)?;
        let (counts, noise) = ((numbers.pictures, numbers.sounds), numbers.noise);
        let queries = Queries::embedded(&context.model, &world, counts, noise)?;
        let scenes = Arc::new(Scenes { world, queries, cells: config.mask_size() });
        let (maker, size) = (scenes.clone(), settings.batch);
        let batches = Prefetch::new(settings.seed, numbers.threads, 2, move |_, generator| {
            maker.batch(size, generator)
        });
        let parameters = Parameters::new(settings.seed);
        let model = Locator::load(parameters.builder(&Device::Cpu), &config)?;
        Ok(Box::new(Self { parameters, model, scenes, batches, numbers }))
    }
}

/// Overlap of masks with their targets: cross entropy, half of it from around the thing, and Dice.
///
/// # Shapes
/// `logits` `(n, cells²)` of `n` things → `()`.
fn mask_loss(logits: &Tensor, things: &[&Thing], side: usize) -> Result<Tensor> {
    let shape = (things.len(), side * side);
    let targets: Vec<f32> = things.iter().flat_map(|thing| thing.cells.clone()).collect();
    let targets = Tensor::from_vec(targets, shape, &Device::Cpu)?;
    let weights: Vec<f32> = things.iter().flat_map(|thing| near_weights(thing, side)).collect();
    let weights = Tensor::from_vec(weights, shape, &Device::Cpu)?;
    let entropy = ((ops::softplus(logits)? - (logits * &targets)?)? * weights)?.sum(1)?;
    let mask = candle_nn::ops::sigmoid(logits)?;
    let shared = ((&mask * &targets)?.sum(1)? * 2.0)?;
    let dice = (shared / ((mask.sum(1)? + targets.sum(1)?)? + 1.0)?)?;
    Ok(((entropy * 2.0)? + (dice.neg()? + 1.0)?)?.mean_all()?)
}

/// Weights of the cells, of sum 1: half for a box around the thing, half for the rest.
fn near_weights(thing: &Thing, side: usize) -> Vec<f32> {
    const AROUND: f32 = 1.5;
    let [x, y, width, height] = thing.bbox;
    let span = |middle: f32, length: f32| {
        let half = length * 0.5 * AROUND;
        [middle - half, middle + half]
    };
    let near = Area { x: span(x, width), y: span(y, height) }.cells(side);
    let count = near.iter().filter(|is_near| **is_near).count();
    let share = |part: usize| 0.5 / part.max(1) as f32;
    let (inner, outer) = (share(count), share(near.len() - count));
    near.into_iter().map(|is_near| if is_near { inner } else { outer }).collect()
}

/// Cross entropy of the centre's cell and its neighbours, within an area.
///
/// # Shapes
/// `logits` `(n, cells²)` → `()`.
fn middle_loss(logits: &Tensor, right: &[([f32; 4], Area)], side: usize) -> Result<Tensor> {
    let shape = (right.len(), side * side);
    let (mut targets, mut closed) = (Vec::new(), Vec::new());
    for (bbox, area) in right {
        let open = area.cells(side);
        targets.extend(centre_target(*bbox, side, &open));
        closed.extend(open.iter().map(|open| if *open { 0f32 } else { -1e4 }));
    }
    let logits = (logits + Tensor::from_vec(closed, shape, &Device::Cpu)?)?;
    let log_probabilities = candle_nn::ops::log_softmax(&logits, 1)?;
    let targets = Tensor::from_vec(targets, shape, &Device::Cpu)?;
    Ok((log_probabilities * targets)?.sum(1)?.mean_all()?.neg()?)
}

/// Softened one-hot: the middle's cell and its neighbours, where it is open.
fn centre_target(bbox: [f32; 4], side: usize, open: &[bool]) -> Vec<f32> {
    let near = |(cell, open): (usize, &bool)| {
        let x = (cell % side) as f32 + 0.5 - bbox[0] * side as f32;
        let y = (cell / side) as f32 + 0.5 - bbox[1] * side as f32;
        libm::expf(-(x * x + y * y) / 1.4) * f32::from(*open)
    };
    let mut target: Vec<f32> = open.iter().enumerate().map(near).collect();
    let sum: f32 = target.iter().sum::<f32>().max(1e-6);
    target.iter_mut().for_each(|value| *value /= sum);
    target
}

/// The cell of a box's middle, and those around it.
fn middle_cells(bbox: [f32; 4], side: usize, reach: usize) -> Vec<usize> {
    let at = |value: f32| ((value * side as f32) as usize).min(side - 1);
    let span = |middle: usize| middle.saturating_sub(reach)..(middle + reach + 1).min(side);
    let (columns, rows) = (span(at(bbox[0])), span(at(bbox[1])));
    rows.flat_map(|row| columns.clone().map(move |column| row * side + column)).collect()
}

/// Mean distance of the numbers, and 1 - overlap.
///
/// # Shapes
/// `ours`, `right` `(n, 4)`: centre, width, height → `()`.
fn box_loss(ours: &Tensor, right: &Tensor) -> Result<Tensor> {
    let corners = |boxes: &Tensor| -> Result<(Tensor, Tensor, Tensor)> {
        let (centre, size) = (boxes.narrow(1, 0, 2)?, boxes.narrow(1, 2, 2)?);
        let half = (&size * 0.5)?;
        let area = (size.narrow(1, 0, 1)? * size.narrow(1, 1, 1)?)?;
        Ok(((&centre - &half)?, (centre + half)?, area))
    };
    let ((low, high, area), (right_low, right_high, right_area)) =
        (corners(ours)?, corners(right)?);
    let span = (high.minimum(&right_high)? - low.maximum(&right_low)?)?.relu()?;
    let shared = (span.narrow(1, 0, 1)? * span.narrow(1, 1, 1)?)?;
    let joint = ((area + right_area)? - &shared)?;
    let overlap = (shared / (joint + 1e-6)?)?.mean_all()?;
    Ok((((ours - right)?.abs()?.mean_all()? * 4.0)? + (overlap.neg()? + 1.0)?)?)
}

fn rows(values: impl Iterator<Item = usize>) -> Result<Tensor> {
    let rows: Vec<u32> = values.map(|row| row as u32).collect();
    Ok(Tensor::new(rows, &Device::Cpu)?)
}

impl LocatorRecipe {
    /// Masks, middles and boxes of what is there, and the masks of what is not.
    fn find_losses(&self, batch: &Batch, seen: &Seen, found: &Found) -> Result<[Tensor; 4]> {
        let (pictures, concepts, cells) = found.mask_logits.dims3()?;
        let flat = |t: &Tensor| t.reshape((pictures * concepts, cells));
        let (masks, middles) = (flat(&found.mask_logits)?, flat(&found.centre_logits)?);
        let absent = (ops::softplus(&masks)? * batch.absent(concepts, cells)?)?.sum_all()?;
        let present = batch.present();
        let of = rows(present.iter().map(|(picture, thing)| picture * concepts + thing.concept))?;
        let things: Vec<&Thing> = present.iter().map(|(_, thing)| *thing).collect();
        let mask = mask_loss(&masks.index_select(&of, 0)?, &things, seen.side)?;
        let right: Vec<_> = things.iter().map(|thing| (thing.bbox, Area::ANYWHERE)).collect();
        let middle = middle_loss(&middles.index_select(&of, 0)?, &right, seen.side)?;
        let (mut at, mut right) = (Vec::new(), Vec::new());
        for (picture, thing) in &present {
            for cell in middle_cells(thing.bbox, seen.side, 1) {
                at.push(picture * cells + cell);
                right.extend(thing.bbox);
            }
        }
        let right = Tensor::from_vec(right, (at.len(), 4), &Device::Cpu)?;
        let boxes = seen.boxes.reshape((pictures * cells, 4))?;
        let bbox = box_loss(&boxes.index_select(&rows(at.into_iter())?, 0)?, &right)?;
        Ok([mask, absent, middle, bbox])
    }

    /// Where wished things went, and how large they were.
    fn put_loss(&self, batch: &Batch, seen: &Seen) -> Result<Option<Tensor>> {
        let Some(wished) = &batch.wished else { return Ok(None) };
        let wishes: Vec<&Wish> = batch.shown.iter().filter_map(|s| s.wish.as_ref()).collect();
        let room = self.model.put(&seen.first(wishes.len())?, wished)?;
        let right: Vec<_> = wishes.iter().map(|wish| (wish.bbox, wish.area)).collect();
        let middle = middle_loss(&room.centre_logits, &right, seen.side)?;
        let cells = seen.side * seen.side;
        let at = wishes.iter().enumerate().flat_map(|(row, wish)| {
            middle_cells(wish.bbox, seen.side, 0).into_iter().map(move |cell| row * cells + cell)
        });
        let sizes = room.sizes.reshape((wishes.len() * cells, 2))?.index_select(&rows(at)?, 0)?;
        let right: Vec<f32> = wishes.iter().flat_map(|wish| [wish.bbox[2], wish.bbox[3]]).collect();
        let right = Tensor::from_vec(right, (wishes.len(), 2), &Device::Cpu)?;
        let size = (sizes - right)?.abs()?.mean_all()?;
        Ok(Some((middle + (size * 20.0)?)?))
    }
}

/// Sums over the evaluation.
#[derive(Default)]
struct Figures {
    found: f64,
    half: f64,
    overlap: f64,
    wishes: f64,
    room: f64,
}

impl LocatorRecipe {
    /// Looks for what an edit takes away, or for where it would put something.
    fn look(&self, kind: Kind, figures: &mut Figures, generator: &mut Generator) -> Result<()> {
        let sample = self.scenes.world.sample(generator, Split::HeldOut, Some(kind));
        let Some(shown) = self.scenes.pictures(&sample)?.into_iter().next() else { return Ok(()) };
        let batch = self.scenes.side_by_side(vec![shown], generator)?;
        let seen = self.model.see(&batch.pictures)?;
        if let Some(loss) = self.put_loss(&batch, &seen)? {
            figures.wishes += 1.0;
            figures.room += f64::from(loss.to_scalar::<f32>()?);
        }
        let Some(object) = sample.unwanted.first() else { return Ok(()) };
        let Some(concept) = self.scenes.world.concept_id(&object.concept) else { return Ok(()) };
        let found = self.model.find(&seen, &batch.queries)?;
        let location = found.location(&seen, (0, concept), Area::ANYWHERE)?;
        let overlap = iou(location.bbox, targets::unit_box(&object.bbox));
        figures.found += 1.0;
        figures.overlap += f64::from(overlap);
        figures.half += f64::from(u8::from(overlap >= 0.5));
        Ok(())
    }
}

impl Recipe for LocatorRecipe {
    fn name(&self) -> &str {
        "locator"
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, step: u64, _generator: &mut Generator) -> Result<StepLoss> {
        let batch = self.batches.batch(step)?;
        let seen = self.model.see(&batch.pictures)?;
        let found = self.model.find(&seen, &batch.queries)?;
        let [mask, absent, middle, bbox] = self.find_losses(&batch, &seen, &found)?;
        let put = self.put_loss(&batch, &seen)?;
        let n = &self.numbers;
        let mut loss = (&mask + &absent)?;
        loss = ((loss + (&middle * n.middle_weight)?)? + (&bbox * n.box_weight)?)?;
        if let Some(put) = &put {
            loss = (loss + (put * n.put_weight)?)?;
        }
        let value = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
        let put = put.as_ref().map_or(Ok(0.0), value)?;
        Ok(StepLoss::new(loss, batch.shown.len())
            .log("mask", value(&mask)?)
            .log("absent", value(&absent)?)
            .log("middle", value(&middle)?)
            .log("box", value(&bbox)?)
            .log("put", put))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let mut figures = Figures::default();
        for round in 0..150 {
            let kind = [Kind::Remove, Kind::Replace, Kind::Add][round % 3];
            self.look(kind, &mut figures, generator)?;
        }
        let found = figures.found.max(1.0);
        Ok(vec![
            ("found, overlap at least half".to_string(), figures.half / found),
            ("found, mean overlap".to_string(), figures.overlap / found),
            ("room, loss".to_string(), figures.room / figures.wishes.max(1.0)),
        ])
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let (config, tensors) = (self.model.config(), self.parameters.tensors());
        export::component(dir, "locator", config, tensors, DType::F16)
    }
}
