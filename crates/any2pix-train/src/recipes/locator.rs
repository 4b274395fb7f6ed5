//! The locator: where the object of an embedding is, and where it may go.
//!
//! The encoder is frozen; every concept's pictures, names and sounds are embedded once, and a
//! query is one of these, disturbed, as a plan's embedding would be.

use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::audio::Waveform;
use any2pix_encoders::image::{ImageLimits, composite};
use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_encoders::locator::{Locator, LocatorConfig, LocatorOutput, Task, place_id};
use any2pix_encoders::pixels;
use any2pix_nn::{Generator, Parameters};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::codes::Codes;
use super::{component, targets};
use crate::playroom::instruction::with_article;
use crate::playroom::{BBox, Kind, ObjectSlot, Place, Sample, Split, World};
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
    /// Weight of the boxes.
    box_weight: f64,
    /// Stand-ins take the place of the encoder's embeddings: what things look like can be learned
    /// before there is an encoder, what it calls them is learned soon after.
    stand_ins: bool,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { threads: 1, pictures: 10, sounds: 4, noise: 0.5, box_weight: 4.0, stand_ins: false }
    }
}

/// Embeddings of one concept, each of length 1.
struct Known {
    name: String,
    /// The mean picture, then single ones.
    pictures: Vec<Vec<f32>>,
    others: Vec<Vec<f32>>,
}

fn unit(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
    values.iter().map(|v| v / length).collect()
}

/// Everything about one question and its answer.
struct Item {
    picture: Tensor,
    query: Vec<f32>,
    place: u32,
    /// 1 when the thing is there, less when any plausible place would do.
    certainty: f32,
    bbox: [f32; 4],
    cells: Vec<f32>,
}

struct Batch {
    pictures: Tensor,
    queries: Tensor,
    places: Tensor,
    items: Vec<Item>,
}

struct Source {
    world: World,
    known: Vec<Known>,
    cells: usize,
    noise: f32,
}

impl Source {
    fn query(&self, concept: &str, generator: &mut Generator) -> Option<Vec<f32>> {
        let known = self.known.iter().find(|known| known.name == concept)?;
        let from = match generator.below(10) {
            0..=2 => known.pictures.get(..1)?,
            3..=6 => &known.pictures[..],
            _ => &known.others[..],
        };
        let query = generator.choose(from)?.clone();
        let scale = generator.uniform_in(0.0, self.noise) / (query.len() as f32).sqrt();
        Some(query.iter().map(|v| v + scale * generator.normal()).collect())
    }

    fn item(
        &self,
        picture: &image::RgbImage,
        object: &ObjectSlot,
        (task, place): (Task, Option<Place>),
        generator: &mut Generator,
    ) -> Result<Option<Item>> {
        let Some(query) = self.query(&object.concept, generator) else { return Ok(None) };
        let place = place_id(task, place.map(Place::word)).unwrap_or_default();
        Ok(Some(Item {
            picture: pixels(picture)?,
            query,
            place,
            certainty: if task == Task::Find { 1.0 } else { 0.25 },
            bbox: targets::unit_box(&object.bbox),
            cells: targets::cells(object, self.cells),
        }))
    }

    /// Questions that one edit answers.
    fn items(&self, sample: &Sample, generator: &mut Generator) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for object in &sample.unwanted {
            let asked = (Task::Find, said(&object.bbox, generator));
            items.extend(self.item(&sample.source, object, asked, generator)?);
        }
        for object in &sample.wanted {
            let alone = sample.objects_after.iter().filter(|p| p.concept == object.concept);
            if sample.kind != Kind::Add || generator.chance(0.4) && alone.count() == 1 {
                let asked = (Task::Find, said(&object.bbox, generator));
                items.extend(self.item(&sample.target, object, asked, generator)?);
            }
            if sample.kind == Kind::Add {
                let asked = (Task::Put, sample.place);
                items.extend(self.item(&sample.source, object, asked, generator)?);
            }
        }
        Ok(items)
    }

    fn batch(&self, size: usize, generator: &mut Generator) -> Result<Batch> {
        let kinds = [Kind::Add, Kind::Add, Kind::Remove, Kind::Replace];
        let mut items = Vec::new();
        while items.len() < size {
            let kind = generator.choose(&kinds).copied();
            let sample = self.world.sample(generator, Split::Train, kind);
            items.extend(self.items(&sample, generator)?);
        }
        items.truncate(size);
        Batch::new(items)
    }
}

/// Sometimes a thing is pointed at with a word of place that is true of it.
fn said(bbox: &BBox, generator: &mut Generator) -> Option<Place> {
    let words: Vec<Place> = Place::ALL.into_iter().filter(|place| place.holds(bbox)).collect();
    if generator.chance(0.15) { generator.choose(&words).copied() } else { None }
}

impl Batch {
    fn new(items: Vec<Item>) -> Result<Self> {
        let pictures: Vec<&Tensor> = items.iter().map(|item| &item.picture).collect();
        let width = items.first().map_or(0, |item| item.query.len());
        let queries: Vec<f32> = items.iter().flat_map(|item| item.query.clone()).collect();
        let places: Vec<u32> = items.iter().map(|item| item.place).collect();
        Ok(Self {
            pictures: Tensor::stack(&pictures, 0)?,
            queries: Tensor::from_vec(queries, (items.len(), width), &Device::Cpu)?,
            places: Tensor::new(places, &Device::Cpu)?,
            items,
        })
    }

    /// # Shapes
    /// One number an item → `(b)`.
    fn column(&self, value: impl Fn(&Item) -> f32) -> Result<Tensor> {
        let values: Vec<f32> = self.items.iter().map(value).collect();
        Ok(Tensor::new(values, &Device::Cpu)?)
    }
}

/// Which cell holds the middle of a box.
fn cell_of(bbox: [f32; 4], side: usize) -> usize {
    let at = |x: f32| ((x * side as f32) as usize).min(side - 1);
    at(bbox[1]) * side + at(bbox[0])
}

/// Softened one-hot: the middle's cell and its neighbours.
fn centre_target(bbox: [f32; 4], side: usize) -> Vec<f32> {
    let mut target: Vec<f32> = (0..side * side)
        .map(|cell| {
            let x = (cell % side) as f32 + 0.5 - bbox[0] * side as f32;
            let y = (cell / side) as f32 + 0.5 - bbox[1] * side as f32;
            libm::expf(-(x * x + y * y) / 1.4)
        })
        .collect();
    let sum: f32 = target.iter().sum::<f32>().max(1e-6);
    target.iter_mut().for_each(|value| *value /= sum);
    target
}

fn embeddings(model: &ImageBindModel, world: &World, name: &str, n: &Numbers) -> Result<Known> {
    let mut generator = Generator::new(0).fork(name);
    let pictures: Vec<_> = (0..n.pictures)
        .filter_map(|_| world.reference_picture(name, Split::Train, &mut generator))
        .map(|picture| composite(&picture, ImageLimits::default().background))
        .collect();
    let singles: Vec<Vec<f32>> = model.encode_images(&pictures)?.to_vec2()?;
    let singles: Vec<Vec<f32>> = singles.iter().map(|row| unit(row)).collect();
    let width = model.config().out_embed_dim;
    let mean = (0..width).map(|i| singles.iter().map(|row| row[i]).sum()).collect::<Vec<f32>>();
    let mut others: Vec<Vec<f32>> = Vec::new();
    let sounds: Vec<Waveform> = (0..n.sounds)
        .filter_map(|_| world.augmented_clip(name, Split::Train, &mut generator))
        .map(|samples| Waveform { channels: vec![samples], sample_rate: 16_000, warnings: vec![] })
        .collect();
    others.extend(model.encode_audio(&sounds)?.to_vec2::<f32>()?.iter().map(|row| unit(row)));
    Ok(Known {
        name: name.to_string(),
        pictures: std::iter::once(unit(&mean)).chain(singles).collect(),
        others,
    })
}

/// Every concept as the encoder sees, hears and reads it.
fn embedded(model: &Path, world: &World, numbers: &Numbers) -> Result<Vec<Known>> {
    let imagebind = component::imagebind(model)?;
    let tokenizer = component::tokenizer(model)?;
    let concepts = world.concepts();
    let known = concepts.iter().map(|name| {
        let mut concept = embeddings(&imagebind, world, name, numbers)?;
        let words = [with_article(name), (*name).to_string()];
        let ids = words.iter().map(|w| tokenizer.encode_text(w).map_err(component::misfit));
        let text = imagebind.encode_text(&ids.collect::<Result<Vec<_>>>()?)?;
        concept.others.extend(text.to_vec2::<f32>()?.iter().map(|row| unit(row)));
        Ok(concept)
    });
    known.collect()
}

/// A direction of `width` dimensions for every concept.
fn stand_ins(width: usize, world: &World) -> Vec<Known> {
    let names = world.concepts();
    let codes = Codes::new(width, &names);
    let known = names.iter().map(|name| {
        let direction = vec![unit(&codes.direction(name))];
        Known { name: (*name).to_string(), pictures: direction.clone(), others: direction }
    });
    known.collect()
}

/// The stage `locator`.
pub struct LocatorRecipe {
    parameters: Parameters,
    model: Locator,
    source: Arc<Source>,
    batches: Prefetch<Batch>,
    box_weight: f64,
}

impl LocatorRecipe {
    /// Opens the world, embeds its concepts and builds a fresh locator.
    pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
        let settings = &context.settings;
        let numbers: Numbers = settings.recipe()?;
        let config: LocatorConfig = component::config(&context.model, "locator")?;
        let world = World::open(&context.data).map_err(targets::no_world)?;
        let known = match numbers.stand_ins {
            true => stand_ins(config.embed_dim, &world),
            false => embedded(&context.model, &world, &numbers)?,
        };
        let noise = numbers.noise;
        let source = Arc::new(Source { world, known, cells: config.mask_size(), noise });
        let (maker, size) = (source.clone(), settings.batch);
        let batches = Prefetch::new(settings.seed, numbers.threads, 2, move |_, generator| {
            maker.batch(size, generator)
        });
        let parameters = Parameters::new(settings.seed);
        let model = Locator::load(parameters.builder(&Device::Cpu), &config)?;
        let box_weight = numbers.box_weight;
        Ok(Box::new(Self { parameters, model, source, batches, box_weight }))
    }

    /// Overlap of the mask with its target, weighed by certainty.
    ///
    /// # Shapes
    /// → `()`.
    fn mask_loss(&self, batch: &Batch, output: &LocatorOutput) -> Result<Tensor> {
        let (count, cells) = (batch.items.len(), self.source.cells * self.source.cells);
        let targets: Vec<f32> = batch.items.iter().flat_map(|item| item.cells.clone()).collect();
        let targets = Tensor::from_vec(targets, (count, cells), &Device::Cpu)?;
        let logits = output.mask_logits.reshape((count, cells))?;
        // max(x, 0) - x·t + ln(1 + e^-|x|): cross entropy that cannot overflow.
        let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
        let entropy = ((logits.relu()? - (&logits * &targets)?)? + soft)?.mean(1)?;
        let mask = candle_nn::ops::sigmoid(&logits)?;
        let shared = ((&mask * &targets)?.sum(1)? * 2.0)?;
        let dice = (shared / ((mask.sum(1)? + targets.sum(1)?)? + 1.0)?)?;
        let each = ((entropy * 4.0)? + (dice.neg()? + 1.0)?)?;
        Ok((each * batch.column(|item| item.certainty)?)?.mean_all()?)
    }

    /// # Shapes
    /// → `()` for the middle, `()` for the box.
    fn place_losses(&self, batch: &Batch, output: &LocatorOutput) -> Result<(Tensor, Tensor)> {
        let (count, side) = (batch.items.len(), self.source.cells);
        let targets: Vec<f32> =
            batch.items.iter().flat_map(|item| centre_target(item.bbox, side)).collect();
        let targets = Tensor::from_vec(targets, (count, side * side), &Device::Cpu)?;
        let log_probabilities = candle_nn::ops::log_softmax(&output.centre_logits, 1)?;
        let middle = (log_probabilities * targets)?.sum(1)?.mean_all()?.neg()?;
        let cells: Vec<u32> = batch
            .items
            .iter()
            .enumerate()
            .map(|(i, item)| (i * side * side + cell_of(item.bbox, side)) as u32)
            .collect();
        let boxes = output.boxes.reshape((count * side * side, 4))?;
        let ours = boxes.index_select(&Tensor::new(cells, &Device::Cpu)?, 0)?;
        let right: Vec<f32> = batch.items.iter().flat_map(|item| item.bbox).collect();
        let right = Tensor::from_vec(right, (count, 4), &Device::Cpu)?;
        Ok((middle, (ours - right)?.abs()?.mean_all()?))
    }

    fn forward(&self, batch: &Batch) -> Result<LocatorOutput> {
        Ok(self.model.forward(&batch.pictures, &batch.queries, &batch.places)?)
    }
}

/// Sums over the evaluation.
#[derive(Default)]
struct Figures {
    found: f64,
    half: f64,
    overlap: f64,
    put: f64,
    obeyed: f64,
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
        let output = self.forward(&batch)?;
        let mask = self.mask_loss(&batch, &output)?;
        let (middle, bbox) = self.place_losses(&batch, &output)?;
        let loss = ((&mask + (&middle * 0.5)?)? + (&bbox * self.box_weight)?)?;
        let value = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
        Ok(StepLoss::new(loss, batch.items.len())
            .log("mask", value(&mask)?)
            .log("middle", value(&middle)?)
            .log("box", value(&bbox)?))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let mut figures = Figures::default();
        for round in 0..96 {
            let kind = [Kind::Remove, Kind::Replace, Kind::Add][round % 3];
            let sample = self.source.world.sample(generator, Split::HeldOut, Some(kind));
            let (objects, asked) = match kind {
                Kind::Add => (&sample.wanted, (Task::Put, sample.place)),
                _ => (&sample.unwanted, (Task::Find, None)),
            };
            let Some(object) = objects.first() else { continue };
            let item = self.source.item(&sample.source, object, asked, generator)?;
            let Some(item) = item else { continue };
            let right = item.bbox;
            let location = self.forward(&Batch::new(vec![item])?)?.location(0)?;
            if kind != Kind::Add {
                let overlap = targets::iou(location.bbox, right);
                figures.found += 1.0;
                figures.overlap += f64::from(overlap);
                figures.half += f64::from(u8::from(overlap >= 0.5));
            } else if let Some(place) = sample.place {
                let [x, y, width, height] = location.bbox.map(|v| v * 128.0);
                let bbox = BBox::around(x, y, width as u32, height as u32);
                figures.put += 1.0;
                figures.obeyed += f64::from(u8::from(place.holds(&bbox)));
            }
        }
        let (found, put) = (figures.found.max(1.0), figures.put.max(1.0));
        Ok(vec![
            ("found, overlap at least half".to_string(), figures.half / found),
            ("found, mean overlap".to_string(), figures.overlap / found),
            ("words of place obeyed".to_string(), figures.obeyed / put),
        ])
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let (config, tensors) = (self.model.config(), self.parameters.tensors());
        export::component(dir, "locator", config, tensors, DType::F16)
    }
}
