//! Stage `prior`: from an embedding of words, of a sound or of a plan, and a score, to the
//! embedding of the picture.

use std::path::Path;

use any2pix_diffusion::latents::with_norm;
use any2pix_diffusion::prior_transformer::{
    PriorInputs, PriorTransformer, PriorTransformerConfig, RefineConfig, SourceType,
    score_embedding,
};
use any2pix_encoders::audio::Waveform;
use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_llm::Tokenizer;
use any2pix_nn::{Generator, Parameters};
use candle_core::{D, Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use serde::Deserialize;

use super::component;
use crate::playroom::World;
use crate::playroom::splits::Split;
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss};

/// Sample rate of the world's sounds.
const SAMPLE_RATE: u32 = 16_000;
/// Scenes that are encoded at once.
const CHUNK: usize = 32;
/// Scenes that `evaluate` looks at.
const HELD_OUT: usize = 256;
/// How often the unconditional half of guidance is trained.
const UNCONDITIONAL: f32 = 0.1;

/// Numbers under `[recipe]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriorSettings {
    /// Scenes that are encoded once and then drawn from.
    pool: usize,
}

/// Scenes as embeddings.
struct Pool {
    /// Of the picture `(n, e)`.
    pictures: Tensor,
    /// Of its caption `(n, e)`.
    captions: Tensor,
    /// Of a sound of something in it `(n, e)`; zeros where nothing in it sounds.
    sounds: Tensor,
    sounding: Vec<bool>,
    scores: Vec<f64>,
}

/// One scene before it is encoded.
struct Raw {
    picture: RgbImage,
    caption: String,
    sound: Option<Vec<f32>>,
    score: f64,
}

/// A batch for the prior.
struct Rows {
    src_type: Vec<SourceType>,
    embeddings: Tensor,
    score: Tensor,
    targets: Tensor,
}

/// The stage.
pub struct PriorRecipe {
    parameters: Parameters,
    prior: PriorTransformer,
    config: PriorTransformerConfig,
    settings: PriorSettings,
    batch: usize,
    seed: u64,
    world: World,
    imagebind: ImageBindModel,
    tokenizer: Tokenizer,
    pool: Option<Pool>,
}

impl PriorRecipe {
    /// Opens the world and the encoder, and starts a fresh prior.
    pub fn open(context: &StageContext) -> Result<Self> {
        let settings: PriorSettings = context.settings.recipe()?;
        let config: PriorTransformerConfig = component::config(&context.model, "prior")?;
        let seed = context.settings.seed;
        let parameters = Parameters::new(seed);
        let vb = parameters.builder(&Device::Cpu);
        let prior = PriorTransformer::load(vb, &config).map_err(component::misfit)?;
        Ok(Self {
            world: World::open(&context.data).map_err(component::misfit)?,
            imagebind: component::imagebind(&context.model)?,
            tokenizer: component::tokenizer(&context.model)?,
            batch: context.settings.batch,
            pool: None,
            parameters,
            prior,
            config,
            settings,
            seed,
        })
    }

    fn encode(&self, split: Split, count: usize, generator: &Generator) -> Result<Pool> {
        let chunks: Vec<[Tensor; 3]> = Vec::new();
        let (mut chunks, mut sounding, mut scores) = (chunks, Vec::new(), Vec::new());
        for start in (0..count).step_by(CHUNK) {
            let raws: Vec<Raw> = (start..count.min(start + CHUNK))
                .into_par_iter()
                .map(|i| draw(&self.world, split, &mut generator.fork(&format!("scene {i}"))))
                .collect();
            sounding.extend(raws.iter().map(|raw| raw.sound.is_some()));
            scores.extend(raws.iter().map(|raw| raw.score));
            chunks.push(self.encode_chunk(raws)?);
        }
        let all = |part: usize| {
            Tensor::cat(&chunks.iter().map(|chunk| &chunk[part]).collect::<Vec<_>>(), 0)
        };
        let (pictures, captions, sounds) = (all(0)?, all(1)?, all(2)?);
        Ok(Pool { pictures, captions, sounds, sounding, scores })
    }

    /// Pictures, captions, sounds.
    fn encode_chunk(&self, raws: Vec<Raw>) -> Result<[Tensor; 3]> {
        let ids = raws
            .iter()
            .map(|raw| self.tokenizer.encode_text(&raw.caption).map_err(component::misfit))
            .collect::<Result<Vec<_>>>()?;
        let captions = self.imagebind.encode_text(&ids)?.detach();
        let silent = vec![0.0; SAMPLE_RATE as usize];
        let mut kept = Vec::new();
        let (mut pictures, mut waves) = (Vec::new(), Vec::new());
        for raw in raws {
            kept.push(f32::from(raw.sound.is_some()));
            pictures.push(raw.picture);
            let channels = vec![raw.sound.unwrap_or_else(|| silent.clone())];
            waves.push(Waveform { channels, sample_rate: SAMPLE_RATE, warnings: Vec::new() });
        }
        let kept = Tensor::from_vec(kept, (pictures.len(), 1), &Device::Cpu)?;
        let sounds = self.imagebind.encode_audio(&waves)?.detach().broadcast_mul(&kept)?;
        Ok([self.imagebind.encode_images(&pictures)?.detach(), captions, sounds])
    }

    /// Rows of a pool as the prior meets them: words, a sound, or a plan's guess, which is noisy
    /// and leans towards other pictures.
    fn rows(&self, pool: &Pool, picked: &[usize], generator: &mut Generator) -> Result<Rows> {
        let norm = self.imagebind.config().embedding_norm;
        let width = self.config.embed_dim;
        let (mut src_type, mut rows, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for &i in picked {
            let modality = generator.uniform();
            let (source, row) = if modality < 0.25 {
                (SourceType::Text, pool.captions.narrow(0, i, 1)?)
            } else if modality < 0.45 && pool.sounding[i] {
                (SourceType::Audio, pool.sounds.narrow(0, i, 1)?)
            } else {
                let other = generator.below(pool.scores.len());
                let lean = f64::from(generator.uniform_in(0.0, 0.4));
                let loud = f64::from(generator.uniform_in(0.0, 1.2)) * norm / (width as f64).sqrt();
                let own = (pool.pictures.narrow(0, i, 1)? * (1.0 - lean))?;
                let mixed = (own + (pool.pictures.narrow(0, other, 1)? * lean)?)?;
                let noise = (generator.randn((1, width), &Device::Cpu)? * loud)?;
                (SourceType::Video, (mixed + noise)?)
            };
            src_type.push(source);
            rows.push(row);
            scores.push(pool.scores[i]);
        }
        let index: Vec<u32> = picked.iter().map(|i| *i as u32).collect();
        let index = Tensor::new(index, &Device::Cpu)?;
        let asked = RefineConfig::default();
        Ok(Rows {
            src_type,
            embeddings: with_norm(&Tensor::cat(&rows, 0)?, asked.input_norm)?,
            score: score_embedding(&scores, &Device::Cpu)?,
            targets: pool.pictures.index_select(&index, 0)?,
        })
    }

    fn predict(&self, rows: &Rows) -> Result<Tensor> {
        Ok(self.prior.forward(&PriorInputs {
            src_type: &rows.src_type,
            imagebind: &rows.embeddings,
            crossattn_clip: None,
            score: &rows.score,
            noisy_inputs: None,
        })?)
    }
}

/// A scene with its caption, a sound of something in it, and its score.
fn draw(world: &World, split: Split, generator: &mut Generator) -> Raw {
    let sample = world.sample(generator, split, None);
    let present = generator.choose(&sample.objects_after).map(|object| object.concept.clone());
    let sound = present.and_then(|concept| world.augmented_clip(&concept, split, generator));
    let score = f64::from(sample.aesthetic);
    Raw { picture: sample.target, caption: sample.caption, sound, score }
}

/// Cosine of each pair of rows.
///
/// # Shapes
/// Two of `(b, e)` → `(b)`.
fn cosine(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    (with_norm(a, 1.0)? * with_norm(b, 1.0)?)?.sum(D::Minus1)
}

impl Recipe for PriorRecipe {
    fn name(&self) -> &str {
        "prior"
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, _step: u64, generator: &mut Generator) -> Result<StepLoss> {
        let pool = match self.pool.take() {
            Some(pool) => pool,
            None => {
                let seed = Generator::new(self.seed).fork("prior pool");
                self.encode(Split::Train, self.settings.pool, &seed)?
            }
        };
        let picked: Vec<usize> =
            (0..self.batch).map(|_| generator.below(pool.scores.len())).collect();
        let mut rows = self.rows(&pool, &picked, generator)?;
        self.pool = Some(pool);
        let keep: Vec<f32> =
            picked.iter().map(|_| f32::from(!generator.chance(UNCONDITIONAL))).collect();
        let keep = Tensor::from_vec(keep, (self.batch, 1), &Device::Cpu)?;
        rows.embeddings = rows.embeddings.broadcast_mul(&keep)?;
        // the published unconditional score is a constant, not a sinusoid
        let constant = RefineConfig::default().negative_score;
        let plain = (keep.affine(-1.0, 1.0)? * constant)?;
        rows.score = rows.score.broadcast_mul(&keep)?.broadcast_add(&plain)?;
        let predicted = self.predict(&rows)?;
        let norm = self.imagebind.config().embedding_norm;
        let error = (((&predicted - &rows.targets)? / norm)?.sqr()?.sum(D::Minus1)?).mean_all()?;
        let alike = cosine(&predicted, &rows.targets)?.mean_all()?;
        let shown = f64::from(alike.to_scalar::<f32>()?);
        Ok(StepLoss::new((error + alike.affine(-1.0, 1.0)?)?, self.batch).log("cosine", shown))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let pool = self.encode(Split::HeldOut, HELD_OUT, generator)?;
        let all: Vec<usize> = (0..HELD_OUT).collect();
        let rows = self.rows(&pool, &all, generator)?;
        let after = cosine(&self.predict(&rows)?.detach(), &rows.targets)?.to_vec1::<f32>()?;
        let before = cosine(&rows.embeddings, &rows.targets)?.to_vec1::<f32>()?;
        let mut figures = Vec::new();
        let kinds =
            [("text", SourceType::Text), ("sound", SourceType::Audio), ("plan", SourceType::Video)];
        for (name, kind) in kinds {
            let mean = |values: &[f32]| {
                let of = |(v, s): (&f32, &SourceType)| (*s == kind).then_some(f64::from(*v));
                let kept: Vec<f64> = values.iter().zip(&rows.src_type).filter_map(of).collect();
                kept.iter().sum::<f64>() / kept.len().max(1) as f64
            };
            figures.push((format!("{name}_cosine"), mean(&after)));
            figures.push((format!("{name}_cosine_before"), mean(&before)));
        }
        Ok(figures)
    }

    fn export(&self, dir: &Path) -> Result<()> {
        component::export(dir, "prior", &self.parameters)
    }
}
