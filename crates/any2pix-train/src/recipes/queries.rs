//! Concepts as the encoder sees, hears and reads them: what a locator is asked with.

use std::path::Path;

use any2pix_encoders::audio::Waveform;
use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_nn::Generator;
use candle_core::{Device, Tensor};

use super::component;
use super::pictures::flat;
use crate::Result;
use crate::playroom::instruction::with_article;
use crate::playroom::{Split, World};

/// Embeddings of one concept, each of length 1.
struct Known {
    /// The mean picture, then single ones.
    pictures: Vec<Vec<f32>>,
    others: Vec<Vec<f32>>,
}

/// Embeddings of every concept, in the order of the concepts' ids.
pub(super) struct Queries {
    known: Vec<Known>,
    noise: f32,
}

fn unit(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
    values.iter().map(|v| v / length).collect()
}

impl Queries {
    /// `pictures` and `sounds` of every concept, and its names, through the encoder of `model`.
    pub(super) fn embedded(
        model: &Path,
        world: &World,
        (pictures, sounds): (usize, usize),
        noise: f32,
    ) -> Result<Self> {
        let imagebind = component::imagebind(model)?;
        let tokenizer = component::tokenizer(model)?;
        let concepts = world.concepts();
        let known = concepts.iter().map(|name| {
            let mut concept = embeddings(&imagebind, world, name, (pictures, sounds))?;
            let words = [with_article(name), (*name).to_string()];
            let ids = words.iter().map(|w| tokenizer.encode_text(w).map_err(component::misfit));
            let text = imagebind.encode_text(&ids.collect::<Result<Vec<_>>>()?)?;
            concept.others.extend(text.to_vec2::<f32>()?.iter().map(|row| unit(row)));
            Ok(concept)
        });
        Ok(Self { known: known.collect::<Result<_>>()?, noise })
    }

    /// The mean picture of every concept.
    ///
    /// # Shapes
    /// → `(concepts, width)`.
    pub(super) fn means(&self) -> Result<Tensor> {
        let rows = self.known.iter().map(|known| Tensor::new(&known.pictures[0][..], &Device::Cpu));
        Ok(Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
    }

    /// One of a concept's embeddings, disturbed, as a plan's embedding would be.
    fn one(&self, concept: usize, generator: &mut Generator) -> Vec<f32> {
        let known = &self.known[concept];
        let from = match generator.below(10) {
            0..=2 => &known.pictures[..1],
            3..=6 => &known.pictures[..],
            _ => &known.others[..],
        };
        let query = generator.choose(from).cloned().unwrap_or_default();
        let scale = generator.uniform_in(0.0, self.noise) / (query.len() as f32).sqrt();
        query.iter().map(|v| v + scale * generator.normal()).collect()
    }

    /// Every concept, drawn anew, and zeros: they ask for whatever stands out.
    ///
    /// # Shapes
    /// → `(concepts + 1, width)`.
    pub(super) fn all(&self, generator: &mut Generator) -> Result<Tensor> {
        let known = self.some(&(0..self.known.len()).collect::<Vec<_>>(), generator)?;
        Ok(Tensor::cat(&[&known, &known.narrow(0, 0, 1)?.zeros_like()?], 0)?)
    }

    /// # Shapes
    /// `n` concepts → `(n, width)`.
    pub(super) fn some(&self, concepts: &[usize], generator: &mut Generator) -> Result<Tensor> {
        let rows: Vec<Vec<f32>> = concepts.iter().map(|&c| self.one(c, generator)).collect();
        let width = rows.first().map_or(0, Vec::len);
        Ok(Tensor::from_vec(rows.concat(), (concepts.len(), width), &Device::Cpu)?)
    }
}

fn embeddings(
    model: &ImageBindModel,
    world: &World,
    name: &str,
    (pictures, sounds): (usize, usize),
) -> Result<Known> {
    let mut generator = Generator::new(0).fork(name);
    let pictures: Vec<_> = (0..pictures)
        .filter_map(|_| world.reference_picture(name, Split::Train, &mut generator))
        .map(|picture| flat(&picture))
        .collect();
    let singles: Vec<Vec<f32>> = model.encode_images(&pictures)?.to_vec2()?;
    let singles: Vec<Vec<f32>> = singles.iter().map(|row| unit(row)).collect();
    let width = model.config().out_embed_dim;
    let mean = (0..width).map(|i| singles.iter().map(|row| row[i]).sum()).collect::<Vec<f32>>();
    let sounds: Vec<Waveform> = (0..sounds)
        .filter_map(|_| world.augmented_clip(name, Split::Train, &mut generator))
        .map(|samples| Waveform { channels: vec![samples], sample_rate: 16_000, warnings: vec![] })
        .collect();
    let heard = model.encode_audio(&sounds)?.to_vec2::<f32>()?;
    Ok(Known {
        pictures: std::iter::once(unit(&mean)).chain(singles).collect(),
        others: heard.iter().map(|row| unit(row)).collect(),
    })
}
