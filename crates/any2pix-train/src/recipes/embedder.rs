//! `Embedder`: the frozen ImageBind model over Playroom samples.

use std::collections::BTreeMap;
use std::path::Path;

use any2pix_encoders::audio::Waveform;
use any2pix_encoders::{ImageBindConfig, ImageBindModel, imagebind};
use any2pix_llm::Embedding;
use any2pix_nn::Checkpoint;
use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::codes::Codes;
use super::pictures::flat;
use crate::playroom::World;
use crate::playroom::sample::{Media, Sample};
use crate::playroom::splits::Split;
use crate::{Result, TrainError};

/// Cut-outs that a concept's prototype is the mean of, at most.
const PROTOTYPE_SPRITES: usize = 16;
/// The rate of the Playroom's sounds.
const SAMPLE_RATE: u32 = 16_000;

/// A sample's references and target as embeddings.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// One for each of the sample's media.
    pub media: Vec<Embedding>,
    /// The picture after the edit.
    pub target: Embedding,
}

enum Eyes {
    ImageBind(Box<ImageBindModel>),
    StandIns(Box<Codes>),
}

/// Frozen towers, and what each concept looks like on average.
pub struct Embedder {
    eyes: Eyes,
    prototypes: BTreeMap<String, Embedding>,
}

fn waveform(samples: &[f32]) -> Waveform {
    let channels = vec![samples.to_vec()];
    Waveform { channels, sample_rate: SAMPLE_RATE, warnings: Vec::new() }
}

impl Embedder {
    /// Loads `imagebind` of the model directory `dir` and looks at every concept of the world.
    pub fn open(dir: &Path, world: &World) -> Result<Self> {
        let folder = dir.join("imagebind");
        let path = folder.join("config.json");
        let text = std::fs::read(&path).map_err(TrainError::io(&path))?;
        let config: ImageBindConfig = serde_json::from_slice(&text)
            .map_err(|e| TrainError::Config { path, reason: e.to_string() })?;
        let weights = Checkpoint::open(folder.join("model.safetensors"))?;
        let imagebind = ImageBindModel::load(weights.builder(DType::F32, &Device::Cpu), &config)?;
        weights.finish(imagebind::IGNORED)?;
        let mut prototypes = BTreeMap::new();
        for concept in world.concepts() {
            let sprites = world.sprites(concept, Split::Train);
            let pictures: Vec<RgbImage> =
                sprites.iter().take(PROTOTYPE_SPRITES).map(|s| flat(&s.picture)).collect();
            if let Some(mean) = mean(&imagebind.encode_images(&pictures)?.to_vec2()?) {
                prototypes.insert(concept.to_string(), mean);
            }
        }
        Ok(Self { eyes: Eyes::ImageBind(Box::new(imagebind)), prototypes })
    }

    /// Stand-ins of `width` dimensions.
    pub fn stand_ins(width: usize, world: &World) -> Self {
        let names = world.concepts();
        let codes = Codes::new(width, &names);
        let prototypes =
            names.iter().map(|name| (name.to_string(), codes.direction(name))).collect();
        Self { eyes: Eyes::StandIns(Box::new(codes)), prototypes }
    }

    /// What a concept of training looks like on average.
    pub fn prototype(&self, concept: &str) -> Option<&Embedding> {
        self.prototypes.get(concept)
    }

    /// References and targets of all samples.
    pub fn embed(&self, samples: &[Sample]) -> Result<Vec<Embedded>> {
        match &self.eyes {
            Eyes::ImageBind(imagebind) => embed(imagebind, samples),
            Eyes::StandIns(codes) => Ok(samples.iter().map(|s| codes.embed(s)).collect()),
        }
    }
}

/// Each kind of medium in one pass.
fn embed(imagebind: &ImageBindModel, samples: &[Sample]) -> Result<Vec<Embedded>> {
    let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
    for sample in samples {
        pictures.push(sample.target.clone());
        for medium in &sample.media {
            match medium {
                Media::Image { picture, .. } => pictures.push(flat(picture)),
                Media::Audio { samples, .. } => sounds.push(waveform(samples)),
            }
        }
    }
    let rows = |tensor: Tensor| tensor.to_vec2::<f32>();
    let mut pictures = rows(imagebind.encode_images(&pictures)?)?.into_iter();
    let mut sounds = rows(imagebind.encode_audio(&sounds)?)?.into_iter();
    let embedded = samples.iter().map(|sample| {
        let target = pictures.next().unwrap_or_default();
        let media = sample.media.iter().map(|medium| match medium {
            Media::Image { .. } => pictures.next().unwrap_or_default(),
            Media::Audio { .. } => sounds.next().unwrap_or_default(),
        });
        Embedded { media: media.collect(), target }
    });
    Ok(embedded.collect())
}

fn mean(embeddings: &[Embedding]) -> Option<Embedding> {
    let mut sum = embeddings.first()?.clone();
    for embedding in &embeddings[1..] {
        sum.iter_mut().zip(embedding).for_each(|(s, v)| *s += v);
    }
    Some(sum)
}
