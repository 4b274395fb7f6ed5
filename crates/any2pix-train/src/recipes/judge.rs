//! The judge: a classifier of crops of clean scenes that also tells whether two pictures show the
//! same thing, trained apart from all that it judges.
//!
//! It is an instrument, not a contestant: it is shown every cut-out of the world, held-out ones
//! too, so that it can tell what stands in a result. The scenes that it judges it never saw.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::judge::{JudgeConfig, ObjectClassifier, crop_around};
use any2pix_encoders::locator::iou;
use any2pix_encoders::pixels;
use any2pix_encoders::resize::{Filter, resize};
use any2pix_nn::{Generator, Parameters};
use candle_core::{D, DType, Device, Tensor};
use image::{RgbImage, RgbaImage};
use serde::Deserialize;

use super::pictures::flat;
use super::{component, contrast, targets};
use crate::playroom::{Kind, Present, Sample, Split, World};
use crate::prefetch::Prefetch;
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss, export};

/// What the recipe's table in the settings file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Numbers {
    /// Threads that make batches.
    threads: usize,
    /// Weight that a wrong class keeps in the target.
    smoothing: f64,
    /// Weight of the likeness of pictures of one thing.
    likeness: f64,
    /// What their cosine is multiplied with.
    sharpness: f64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { threads: 1, smoothing: 0.05, likeness: 0.5, sharpness: 14.0 }
    }
}

struct Source {
    world: World,
    names: Vec<String>,
    side: u32,
}

/// A crop of a picture.
struct Crop {
    picture: RgbImage,
    /// What it shows; none for a thing that no class stands for.
    class: Option<u32>,
    /// The same thing in another picture.
    other: Option<RgbImage>,
}

/// Pictures, those with a class first.
struct Batch {
    /// `(b, 3, side, side)` in ±1.
    pictures: Tensor,
    classes: Vec<u32>,
    /// Rows that show the same thing; no thing is in two pairs.
    pairs: Vec<[u32; 2]>,
}

impl Source {
    fn class(&self, concept: &str) -> Option<u32> {
        self.names.iter().position(|name| name == concept).map(|at| at as u32)
    }

    fn portrait(&self, sprite: &Arc<RgbaImage>, split: Split, draw: &mut Generator) -> RgbImage {
        flat(&self.world.portrait_of(sprite, split, draw).0)
    }

    /// The things of one edit's result, each also in a picture of its own.
    fn things(&self, sample: &Sample, split: Split, generator: &mut Generator) -> Vec<Crop> {
        let known = self.names.len();
        let mut seen = BTreeSet::new();
        let objects = sample.recipe.target.objects.iter();
        objects
            .map(|object| Crop {
                picture: targets::crop(&sample.target, &object.bbox, generator),
                class: (object.concept < known).then_some(object.concept as u32),
                other: seen
                    .insert((object.concept, object.sprite))
                    .then(|| self.portrait(&object.picture, split, generator)),
            })
            .collect()
    }

    /// Places of one edit's result where nothing stands.
    fn places(&self, sample: &Sample, generator: &mut Generator) -> Vec<Crop> {
        let empty = |picture| {
            let class = Some(self.names.len() as u32);
            Crop { picture, class, other: None }
        };
        if sample.kind == Kind::Remove {
            let gone = sample.unwanted.iter();
            return gone
                .map(|o| empty(targets::crop(&sample.target, &o.bbox, generator)))
                .collect();
        }
        if !generator.chance(0.15) {
            return Vec::new();
        }
        let range = |index| if index < 2 { 0.15..0.85 } else { 0.15..0.35 };
        let bbox = std::array::from_fn(|i| generator.uniform_in(range(i).start, range(i).end));
        let is_free = |p: &Present| iou(targets::unit_box(&p.bbox), bbox) < 0.02;
        let is_free = sample.objects_after.iter().all(is_free);
        is_free.then(|| empty(crop_around(&sample.target, bbox))).into_iter().collect()
    }

    /// Cut-outs of one concept, each in two pictures: rare things are seen as often as frequent
    /// ones, and things of one kind are told from each other.
    fn cutouts(&self, split: Split, generator: &mut Generator) -> Vec<Crop> {
        const OF_A_KIND: usize = 3;
        let Some(name) = generator.choose(&self.names) else { return Vec::new() };
        let mut sprites = self.world.sprites(name, split);
        let mut crops = Vec::new();
        for _ in 0..OF_A_KIND.min(sprites.len()) {
            let sprite = sprites.swap_remove(generator.below(sprites.len()));
            let mut shown = || self.portrait(&sprite.picture, split, generator);
            crops.push(Crop { picture: shown(), class: self.class(name), other: Some(shown()) });
        }
        crops
    }

    /// `size` crops of edits of either split, and what pairs with them.
    fn batch(&self, size: usize, generator: &mut Generator) -> Result<Batch> {
        let kinds = [Kind::Add, Kind::Remove, Kind::Replace, Kind::Background];
        let mut crops = Vec::new();
        while crops.len() < size {
            let kind = generator.choose(&kinds).copied();
            let split = *generator.choose(&[Split::Train, Split::HeldOut]).unwrap_or(&Split::Train);
            let sample = self.world.sample(generator, split, kind);
            crops.extend(self.things(&sample, split, generator));
            crops.extend(self.places(&sample, generator));
            if generator.chance(0.4) {
                crops.extend(self.cutouts(split, generator));
            }
        }
        crops.truncate(size);
        self.side_by_side(crops)
    }

    fn side_by_side(&self, mut crops: Vec<Crop>) -> Result<Batch> {
        crops.sort_by_key(|crop| crop.class.is_none());
        let classes: Vec<u32> = crops.iter().filter_map(|crop| crop.class).collect();
        let row =
            |picture: &RgbImage| pixels(&resize(picture, (self.side, self.side), Filter::Bicubic));
        let mut rows =
            crops.iter().map(|crop| row(&crop.picture)).collect::<Result<Vec<_>, _>>()?;
        let mut pairs = Vec::new();
        for (index, other) in
            crops.iter().enumerate().filter_map(|(i, c)| Some((i, c.other.as_ref()?)))
        {
            pairs.push([index as u32, rows.len() as u32]);
            rows.push(row(other)?);
        }
        Ok(Batch { pictures: Tensor::stack(&rows, 0)?, classes, pairs })
    }
}

impl Batch {
    /// One side of all pairs.
    fn side(&self, of: &Tensor, side: usize) -> Result<Tensor> {
        let rows: Vec<u32> = self.pairs.iter().map(|pair| pair[side]).collect();
        Ok(of.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}

/// The stage `judge`.
pub struct JudgeRecipe {
    parameters: Parameters,
    model: ObjectClassifier,
    source: Arc<Source>,
    batches: Prefetch<Batch>,
    numbers: Numbers,
}

impl JudgeRecipe {
    /// Opens the world and builds a fresh classifier of its concepts.
    pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
        let settings = &context.settings;
        let numbers: Numbers = settings.recipe()?;
        let world = World::open(&context.data).map_err(targets::no_world)?;
        let names: Vec<String> = world.concepts().iter().map(ToString::to_string).collect();
        let config: JudgeConfig = component::config(&context.model, "judge")?;
        let config = JudgeConfig { concepts: names.clone(), ..config };
        let source = Arc::new(Source { world, names, side: config.sample_size as u32 });
        let (maker, size) = (source.clone(), settings.batch);
        let batches = Prefetch::new(settings.seed, numbers.threads, 2, move |_, generator| {
            maker.batch(size, generator)
        });
        let parameters = Parameters::new(settings.seed);
        let model = ObjectClassifier::load(parameters.builder(&Device::Cpu), &config)?;
        Ok(Box::new(Self { parameters, model, source, batches, numbers }))
    }
}

impl Recipe for JudgeRecipe {
    fn name(&self) -> &str {
        "judge"
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, step: u64, _generator: &mut Generator) -> Result<StepLoss> {
        let batch = self.batches.batch(step)?;
        let seen = self.model.forward(&batch.pictures)?;
        let named = seen.logits.narrow(0, 0, batch.classes.len())?;
        let right = Tensor::new(batch.classes.as_slice(), &Device::Cpu)?;
        let log_probabilities = candle_nn::ops::log_softmax(&named, D::Minus1)?;
        let hit = candle_nn::loss::nll(&log_probabilities, &right)?;
        let spread = log_probabilities.mean_all()?.neg()?;
        let Numbers { smoothing, likeness, sharpness, .. } = self.numbers;
        let mut loss = ((hit * (1.0 - smoothing))? + (spread * smoothing)?)?;
        let mut alike = 0.0;
        if !batch.pairs.is_empty() {
            let (a, b) = (batch.side(&seen.likeness, 0)?, batch.side(&seen.likeness, 1)?);
            let sharpness = Tensor::new(sharpness as f32, &Device::Cpu)?;
            let pairs = contrast::info_nce(&a, &b, &sharpness)?;
            alike = f64::from(pairs.to_scalar::<f32>()?);
            loss = (loss + (pairs * likeness)?)?;
        }
        Ok(StepLoss::new(loss, batch.classes.len()).log("alike", alike))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let mut hits = [(0.0, 0.0); 3];
        for _ in 0..8 {
            let batch = self.source.batch(48, generator)?;
            let seen = self.model.forward(&batch.pictures)?;
            let named = seen.logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
            for (named, class) in named.iter().zip(&batch.classes) {
                let figure = &mut hits[usize::from(*class as usize == self.model.nothing())];
                figure.0 += f64::from(u8::from(named == class));
                figure.1 += 1.0;
            }
            let own: Vec<u32> = (0..batch.pairs.len() as u32).collect();
            let (a, b) = (batch.side(&seen.likeness, 0)?, batch.side(&seen.likeness, 1)?);
            hits[2].0 += contrast::top1(&a, &b, &own)? * own.len() as f64;
            hits[2].1 += own.len() as f64;
        }
        let rate = |(hits, count): (f64, f64)| hits / f64::max(count, 1.0);
        Ok(vec![
            ("things of new scenes".to_string(), rate(hits[0])),
            ("empty places of new scenes".to_string(), rate(hits[1])),
            ("the same thing among those of a batch".to_string(), rate(hits[2])),
        ])
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let (config, tensors) = (self.model.config(), self.parameters.tensors());
        export::component(dir, "judge", config, tensors, DType::F16)
    }
}
