//! ImageBind by contrast: pictures, sounds and text of the same thing are drawn together.
//!
//! Every picture and every sound of a concept is told from the names of all concepts, and whole
//! scenes from each other's captions. At the start all towers say nearly the same of everything,
//! and towards targets that lie on one spot they learn nothing for thousands of steps; therefore
//! each concept also has an anchor, a free direction of the space, that pictures, sounds and names
//! are drawn to (a proxy: Movshovitz-Attias et al. 2017). Anchors are not part of the model.

use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::fbank::Fbank;
use any2pix_encoders::imagebind::{AudioTransform, ImageBindConfig, ImageBindModel, vision_input};
use any2pix_llm::Tokenizer;
use any2pix_nn::{Generator, Parameters};
use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use image::RgbImage;
use serde::Deserialize;

use super::component::{self, misfit};
use super::contrast::{against, info_nce, top1};
use super::pictures::flat;
use super::targets;
use crate::playroom::instruction::with_article;
use crate::playroom::{ConceptEntry, Split, World, augment};
use crate::prefetch::Prefetch;
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss, export};

/// What the recipe's table in the settings file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Numbers {
    /// Sounds a step.
    sounds: usize,
    /// Edits a step, of which source and target are contrasted with their captions.
    scenes: usize,
    /// Weight of the scenes.
    scene_weight: f64,
    /// Weight of pictures and sounds against names, beside that of anchors, which is 1.
    name_weight: f64,
    /// Threads that make batches.
    threads: usize,
    /// Only the first concepts: to see that the recipe learns at all.
    concepts: usize,
    /// Only the tower of sounds learns, towards the names where they stand: nothing else that
    /// builds on the encoder has to be trained again.
    only_sounds: bool,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            sounds: 24,
            scenes: 12,
            scene_weight: 0.5,
            name_weight: 0.5,
            threads: 1,
            concepts: usize::MAX,
            only_sounds: false,
        }
    }
}

/// What the anchors are called among the parameters.
const ANCHORS: &str = "anchors";

/// One step's examples.
struct Batch {
    /// `(n, 3, side, side)`: objects, then scenes.
    pictures: Tensor,
    /// Concepts of the objects.
    concepts: Vec<u32>,
    captions: Vec<Vec<u32>>,
    /// `(k, 1, mel, frames)`; the first rows of `concepts` are theirs where they have a sound.
    clips: Tensor,
    /// Which object of the batch each clip belongs to.
    owners: Vec<u32>,
    names: Vec<Vec<u32>>,
}

/// What makes batches, shared by the threads that do.
struct Source {
    world: World,
    tokenizer: Tokenizer,
    names: Vec<String>,
    transform: AudioTransform,
    fbank: Fbank,
    side: usize,
    batch: usize,
    numbers: Numbers,
}

/// What somebody may call a thing.
fn phrase(entry: &ConceptEntry, generator: &mut Generator) -> String {
    let mut name = entry.name.as_str();
    if let (true, Some(synonym)) = (generator.chance(0.25), generator.choose(&entry.synonyms)) {
        name = synonym;
    }
    match generator.below(8) {
        0 | 1 => name.to_string(),
        2 => format!("the {name}"),
        3 => format!("a photo of {}", with_article(name)),
        4 => format!("a picture of {}", with_article(name)),
        5 if name == entry.name => entry.plural.clone(),
        _ => with_article(name),
    }
}

impl Source {
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode_text(text).map_err(misfit)
    }

    fn entry(&self, concept: usize) -> Option<&ConceptEntry> {
        self.world.concept(self.names.get(concept)?)
    }

    fn picture(&self, concept: &str, split: Split, generator: &mut Generator) -> Option<RgbImage> {
        Some(flat(&self.world.reference_picture(concept, split, generator)?))
    }

    fn clip(&self, samples: &[f32]) -> Result<Tensor> {
        let length = (self.transform.sample_rate * self.transform.clip_duration) as usize;
        let heard = samples.get(..length.min(samples.len())).unwrap_or_default();
        Ok(self.transform.clip(&self.fbank, heard)?)
    }

    /// A sound of a concept, sometimes of two recordings at once.
    fn sound(&self, concept: &str, generator: &mut Generator) -> Option<Vec<f32>> {
        let mut samples = self.world.augmented_clip(concept, Split::Train, generator)?;
        if generator.chance(0.25) {
            let other = self.world.augmented_clip(concept, Split::Train, generator)?;
            let share = generator.uniform_in(0.2, 1.0);
            samples.iter_mut().zip(&other).for_each(|(sample, other)| *sample += share * other);
        }
        Some(samples)
    }

    /// Sounds of concepts drawn evenly, without pictures.
    fn sounds(&self, generator: &mut Generator) -> Result<Batch> {
        let (mut concepts, mut clips) = (Vec::new(), Vec::new());
        while clips.len() < self.batch {
            let concept = generator.below(self.names.len());
            if let Some(samples) = self.sound(&self.names[concept], generator) {
                clips.push(mask_parts(&self.clip(&samples)?, generator)?);
                concepts.push(concept as u32);
            }
        }
        let side = self.side;
        Ok(Batch {
            pictures: Tensor::zeros((0, 3, side, side), DType::F32, &Device::Cpu)?,
            owners: (0..clips.len() as u32).collect(),
            clips: stack(&clips, self)?,
            concepts,
            captions: Vec::new(),
            names: Vec::new(),
        })
    }

    fn batch(&self, generator: &mut Generator) -> Result<Batch> {
        if self.numbers.only_sounds {
            return self.sounds(generator);
        }
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        generator.shuffle(&mut order);
        let mut pictures = Vec::new();
        let (mut concepts, mut clips, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for &concept in order.iter().cycle().take(self.batch) {
            let name = &self.names[concept];
            let Some(picture) = self.picture(name, Split::Train, generator) else { continue };
            pictures.push(vision_input(&picture, self.side)?);
            if clips.len() < self.numbers.sounds
                && let Some(samples) = self.world.augmented_clip(name, Split::Train, generator)
            {
                clips.push(mask_parts(&self.clip(&samples)?, generator)?);
                owners.push(concepts.len() as u32);
            }
            concepts.push(concept as u32);
        }
        let mut captions = Vec::new();
        for _ in 0..self.numbers.scenes {
            let sample = self.world.sample(generator, Split::Train, None);
            pictures.push(vision_input(&sample.target, self.side)?);
            captions.push(self.ids(&sample.caption)?);
            // Things as they stand in scenes, in that light and at that size.
            for present in sample.objects_after.iter().take(1) {
                let known = self.names.iter().position(|name| *name == present.concept);
                if let Some(concept) = known {
                    let crop = targets::crop(&sample.target, &present.bbox, generator);
                    let at = concepts.len();
                    pictures.insert(at, vision_input(&crop, self.side)?);
                    concepts.push(concept as u32);
                }
            }
        }
        let mut names = Vec::new();
        for concept in 0..self.names.len() {
            let text = self.entry(concept).map(|entry| phrase(entry, generator));
            names.push(self.ids(&text.unwrap_or_default())?);
        }
        let pictures = Tensor::stack(&pictures, 0)?;
        Ok(Batch { pictures, concepts, captions, clips: stack(&clips, self)?, owners, names })
    }
}

/// # Shapes
/// `k` times `(1, mel, frames)` → `(k, 1, mel, frames)`, also when there is none.
fn stack(clips: &[Tensor], source: &Source) -> Result<Tensor> {
    if clips.is_empty() {
        let (mel, frames) = (source.transform.num_mel_bins, source.transform.target_length);
        return Ok(Tensor::zeros((0, 1, mel, frames), DType::F32, &Device::Cpu)?);
    }
    Ok(Tensor::stack(clips, 0)?)
}

/// Hides a band of frequencies and a stretch of time (SpecAugment).
fn mask_parts(clip: &Tensor, generator: &mut Generator) -> Result<Tensor> {
    let (_, mel, frames) = clip.dims3()?;
    let mut part = |length: usize, most: usize| {
        let hidden = generator.below(most + 1);
        let start = generator.below(length - hidden + 1);
        start..start + hidden
    };
    let (bands, times) = (part(mel, mel / 8), part(frames, frames / 6));
    let keep: Vec<f32> = (0..mel)
        .flat_map(|band| {
            let (bands, times) = (bands.clone(), times.clone());
            (0..frames).map(move |t| !(bands.contains(&band) || times.contains(&t)) as u8 as f32)
        })
        .collect();
    Ok((clip * Tensor::from_vec(keep, (1, mel, frames), &Device::Cpu)?)?)
}

/// The stage `imagebind`.
pub struct ImageBindRecipe {
    parameters: Parameters,
    model: ImageBindModel,
    /// `(concepts, out_embed_dim)`.
    anchors: Tensor,
    config: ImageBindConfig,
    source: Arc<Source>,
    batches: Prefetch<Batch>,
}

impl ImageBindRecipe {
    /// Opens the world and the tokenizer, and builds fresh towers of `imagebind/config.json`.
    pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
        let settings = &context.settings;
        let numbers: Numbers = settings.recipe()?;
        let tokenizer = component::tokenizer(&context.model)?;
        let mut config: ImageBindConfig = component::config(&context.model, "imagebind")?;
        // The last id ends a text.
        config.text_vocab_size = config.text_vocab_size.max(tokenizer.vocab_size() + 1);
        let world = World::open(&context.data).map_err(targets::no_world)?;
        let concepts = world.concepts();
        let names = concepts.iter().take(numbers.concepts).map(ToString::to_string).collect();
        let transform = config.audio_transform();
        let source = Arc::new(Source {
            world,
            tokenizer,
            names,
            fbank: Fbank::new(transform.sample_rate, transform.num_mel_bins),
            transform,
            side: config.vision_image_size,
            batch: settings.batch,
            numbers: numbers.clone(),
        });
        let maker = source.clone();
        let batches = Prefetch::new(settings.seed, numbers.threads, 2, move |_, generator| {
            maker.batch(generator)
        });
        let parameters = Parameters::new(settings.seed);
        let vb = parameters.builder(&Device::Cpu);
        let model = ImageBindModel::load(vb.clone(), &config)?;
        let shape = (source.names.len(), config.out_embed_dim);
        let anchors = vb.get_with_hints(shape, ANCHORS, Init::Randn { mean: 0.0, stdev: 0.1 })?;
        Ok(Box::new(Self { parameters, model, anchors, config, source, batches }))
    }

    /// # Shapes
    /// → `(concepts, e)`, of length 1: each concept's own name.
    fn names(&self) -> Result<Tensor> {
        let rows: Result<Vec<Vec<u32>>> =
            self.source.names.iter().map(|name| self.source.ids(&with_article(name))).collect();
        Ok(self.model.text.forward_unit(&self.model.text_input(&rows?)?)?.detach())
    }

    /// Cross entropy of sounds against the names where they stand.
    fn sound_loss(&self, batch: &Batch) -> Result<StepLoss> {
        let names = self.names()?;
        let scale = self.model.text.logit_scale()?.detach();
        let sounds = self.model.audio.forward_clips(&batch.clips)?;
        let loss = against(&sounds, &names, &scale, &batch.concepts)?;
        Ok(StepLoss::new(loss, batch.concepts.len()))
    }

    /// Pictures of every concept in `split`, `count` each: how often their name is the nearest.
    fn picture_figure(
        &self,
        names: &Tensor,
        split: Split,
        generator: &mut Generator,
    ) -> Result<f64> {
        let (mut rows, mut right) = (Vec::new(), Vec::new());
        for (concept, name) in self.source.names.iter().enumerate() {
            for _ in 0..2 {
                if let Some(picture) = self.source.picture(name, split, generator) {
                    rows.push(vision_input(&picture, self.config.vision_image_size)?);
                    right.push(concept as u32);
                }
            }
        }
        let embed = |part: &Tensor| self.model.vision.forward(part);
        top1(&in_parts(&rows, embed)?, names, &right)
    }

    /// Sounds of every concept in `split`: how often their concept's name is the nearest.
    fn sound_figure(
        &self,
        names: &Tensor,
        split: Split,
        plain: bool,
        generator: &mut Generator,
    ) -> Result<f64> {
        let (mut rows, mut right) = (Vec::new(), Vec::new());
        for (concept, name) in self.source.names.iter().enumerate() {
            let clips = self.source.world.clips(name, split);
            for clip in clips.iter().take(2) {
                let samples = match plain {
                    true => augment::plain(&clip.samples),
                    false => self.source.world.perturb(&clip.samples, generator),
                };
                rows.push(self.source.clip(&samples)?);
                right.push(concept as u32);
            }
        }
        let embed = |part: &Tensor| self.model.audio.forward_clips(part);
        top1(&in_parts(&rows, embed)?, names, &right)
    }

    /// Held-out scenes: how often their own caption is the nearest of 64.
    fn scene_figure(&self, generator: &mut Generator) -> Result<f64> {
        let (mut rows, mut captions) = (Vec::new(), Vec::new());
        for _ in 0..64 {
            let sample = self.source.world.sample(generator, Split::HeldOut, None);
            rows.push(vision_input(&sample.target, self.config.vision_image_size)?);
            captions.push(self.source.ids(&sample.caption)?);
        }
        let captions = self.model.text.forward_unit(&self.model.text_input(&captions)?)?;
        let pictures = in_parts(&rows, |part| self.model.vision.forward(part))?;
        top1(&pictures, &captions.detach(), &(0..64).collect::<Vec<u32>>())
    }
}

/// Embeds `rows` in parts that fit into the caches, without gradients.
fn in_parts(
    rows: &[Tensor],
    embed: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
) -> Result<Tensor> {
    let parts: candle_core::Result<Vec<Tensor>> =
        rows.chunks(32).map(|part| Ok(embed(&Tensor::stack(part, 0)?)?.detach())).collect();
    Ok(Tensor::cat(&parts?, 0)?)
}

impl Recipe for ImageBindRecipe {
    fn name(&self) -> &str {
        "imagebind"
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Anchors stand where the names have got to.
    fn started_warm(&mut self) -> Result<()> {
        self.parameters.assign(&[(ANCHORS.to_string(), self.names()?)].into())?;
        Ok(())
    }

    fn loss(&mut self, step: u64, _generator: &mut Generator) -> Result<StepLoss> {
        let batch = self.batches.batch(step)?;
        if self.source.numbers.only_sounds {
            return self.sound_loss(&batch);
        }
        let (objects, scenes) = (batch.concepts.len(), batch.captions.len());
        let numbers = &self.source.numbers;
        let text = |rows: &[Vec<u32>]| -> Result<Tensor> {
            Ok(self.model.text.forward_unit(&self.model.text_input(rows)?)?)
        };
        let scale = self.model.text.logit_scale()?;
        let names = text(&batch.names)?;
        let anchors = self.anchors.broadcast_div(&self.anchors.sqr()?.sum_keepdim(1)?.sqrt()?)?;
        let all: Vec<u32> = (0..self.source.names.len() as u32).collect();
        let meet = |seen: &Tensor, right: &[u32]| -> Result<(Tensor, Tensor)> {
            let anchored = against(seen, &anchors, &scale, right)?;
            let named = against(seen, &names, &scale, right)?;
            Ok(((&anchored + (&named * numbers.name_weight)?)?, named))
        };
        let name_loss = against(&names, &anchors, &scale, &all)?;
        let pictures = self.model.vision.forward(&batch.pictures)?;
        let of_objects = pictures.narrow(0, 0, objects)?.contiguous()?;
        let (picture_loss, pictures_named) = meet(&of_objects, &batch.concepts)?;
        let mut loss = (&picture_loss + &name_loss)?;
        let mut logs = vec![("names", name_loss), ("pictures", pictures_named)];
        if scenes > 1 {
            let of_scenes = pictures.narrow(0, objects, scenes)?.contiguous()?;
            let scene_loss = info_nce(&of_scenes, &text(&batch.captions)?, &scale)?;
            loss = (loss + (&scene_loss * numbers.scene_weight)?)?;
            logs.push(("scenes", scene_loss));
        }
        if !batch.owners.is_empty() {
            let sounds = self.model.audio.forward_clips(&batch.clips)?;
            let right: Vec<u32> =
                batch.owners.iter().map(|&owner| batch.concepts[owner as usize]).collect();
            let (sound_loss, sounds_named) = meet(&sounds, &right)?;
            loss = (loss + sound_loss)?;
            logs.push(("sounds", sounds_named));
        }
        let samples = objects + scenes + batch.owners.len();
        let mut report = StepLoss::new(loss, samples);
        for (name, value) in logs {
            report = report.log(name, f64::from(value.to_scalar::<f32>()?));
        }
        Ok(report)
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let names = self.names()?;
        let known = self.picture_figure(&names, Split::Train, generator)?;
        let held_out = self.picture_figure(&names, Split::HeldOut, generator)?;
        let plain = self.sound_figure(&names, Split::Train, true, generator)?;
        let bent = self.sound_figure(&names, Split::Train, false, generator)?;
        let new = self.sound_figure(&names, Split::HeldOut, true, generator)?;
        Ok(vec![
            ("known pictures, top 1".to_string(), known),
            ("held-out pictures, top 1".to_string(), held_out),
            ("known sounds, top 1".to_string(), plain),
            ("known sounds perturbed, top 1".to_string(), bent),
            ("held-out sounds, top 1".to_string(), new),
            ("held-out scenes, top 1 of 64".to_string(), self.scene_figure(generator)?),
        ])
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let mut tensors = self.parameters.tensors();
        tensors.remove(ANCHORS);
        export::component(dir, "imagebind", &self.config, tensors, DType::F16)
    }
}
