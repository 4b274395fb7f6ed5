//! The judge: a classifier of crops of clean scenes, trained apart from all that it judges.
//!
//! It is an instrument, not a contestant: it is shown every cut-out of the world, held-out ones
//! too, so that it can tell what stands in a result. The scenes that it judges it never saw.

use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::judge::{JudgeConfig, ObjectClassifier, crop_around};
use any2pix_encoders::pixels;
use any2pix_encoders::resize::{Filter, resize};
use any2pix_nn::{Generator, Parameters};
use candle_core::{D, DType, Device, Tensor};
use image::RgbImage;
use serde::Deserialize;

use super::{component, targets};
use crate::playroom::{Kind, Sample, Split, World};
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
}

impl Default for Numbers {
    fn default() -> Self {
        Self { threads: 1, smoothing: 0.05 }
    }
}

struct Source {
    world: World,
    names: Vec<String>,
    side: u32,
}

type Batch = (Tensor, Vec<u32>);

impl Source {
    fn class(&self, concept: &str) -> Option<u32> {
        self.names.iter().position(|name| name == concept).map(|at| at as u32)
    }

    /// Crops of one edit: things of the target, and what is left where things were.
    fn crops(
        &self,
        sample: &Sample,
        split: Split,
        generator: &mut Generator,
    ) -> Vec<(RgbImage, u32)> {
        let mut crops = Vec::new();
        for present in &sample.objects_after {
            if let Some(class) = self.class(&present.concept) {
                crops.push((targets::crop(&sample.target, &present.bbox, generator), class));
            }
        }
        let nothing = self.names.len() as u32;
        if sample.kind == Kind::Remove {
            for object in &sample.unwanted {
                crops.push((targets::crop(&sample.target, &object.bbox, generator), nothing));
            }
        } else if generator.chance(0.15) {
            let bbox = std::array::from_fn(|i| {
                if i < 2 {
                    generator.uniform_in(0.15, 0.85)
                } else {
                    generator.uniform_in(0.15, 0.35)
                }
            });
            let free = |p: &crate::playroom::Present| {
                targets::iou(targets::unit_box(&p.bbox), bbox) < 0.02
            };
            if sample.objects_after.iter().all(free) {
                crops.push((crop_around(&sample.target, bbox), nothing));
            }
        }
        // Cut-outs by concept, so that rare things are seen as often as frequent ones.
        if let Some(name) = generator.choose(&self.names)
            && let Some(picture) = self.world.reference_picture(name, split, generator)
            && let Some(class) = self.class(name)
        {
            crops.push((image::DynamicImage::ImageRgba8(picture).into_rgb8(), class));
        }
        crops
    }

    /// `size` crops of edits of either split.
    fn batch(&self, size: usize, generator: &mut Generator) -> Result<Batch> {
        let kinds = [Kind::Add, Kind::Remove, Kind::Replace, Kind::Background];
        let (mut rows, mut classes) = (Vec::new(), Vec::new());
        while rows.len() < size {
            let kind = generator.choose(&kinds).copied();
            let split = *generator.choose(&[Split::Train, Split::HeldOut]).unwrap_or(&Split::Train);
            let sample = self.world.sample(generator, split, kind);
            for (crop, class) in self.crops(&sample, split, generator) {
                rows.push(pixels(&resize(&crop, (self.side, self.side), Filter::Bicubic))?);
                classes.push(class);
            }
        }
        rows.truncate(size);
        classes.truncate(size);
        Ok((Tensor::stack(&rows, 0)?, classes))
    }
}

/// The stage `judge`.
pub struct JudgeRecipe {
    parameters: Parameters,
    model: ObjectClassifier,
    source: Arc<Source>,
    batches: Prefetch<Batch>,
    smoothing: f64,
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
        Ok(Box::new(Self { parameters, model, source, batches, smoothing: numbers.smoothing }))
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
        let (crops, classes) = self.batches.batch(step)?;
        let logits = self.model.forward(&crops)?;
        let right = Tensor::new(classes.as_slice(), &Device::Cpu)?;
        let log_probabilities = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        let hit = candle_nn::loss::nll(&log_probabilities, &right)?;
        let spread = log_probabilities.mean_all()?.neg()?;
        let loss = ((hit * (1.0 - self.smoothing))? + (spread * self.smoothing)?)?;
        Ok(StepLoss::new(loss, classes.len()))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let mut hits = [(0.0, 0.0); 2];
        for _ in 0..8 {
            let (crops, classes) = self.source.batch(48, generator)?;
            let seen = self.model.forward(&crops)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
            for (seen, class) in seen.iter().zip(&classes) {
                let figure = &mut hits[usize::from(*class as usize == self.model.nothing())];
                figure.0 += f64::from(u8::from(seen == class));
                figure.1 += 1.0;
            }
        }
        let rate = |(hits, count): (f64, f64)| hits / f64::max(count, 1.0);
        Ok(vec![
            ("things of new scenes".to_string(), rate(hits[0])),
            ("empty places of new scenes".to_string(), rate(hits[1])),
        ])
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let (config, tensors) = (self.model.config(), self.parameters.tensors());
        export::component(dir, "judge", config, tensors, DType::F16)
    }
}
