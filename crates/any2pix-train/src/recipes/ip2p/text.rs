//! Stage `ip2p_text`: a text encoder whose tokens behind the text say what it asks for.
//!
//! The published system takes CLIP's, which hundreds of millions of captions taught the names of
//! things. A small one learns from the world's own instructions, by telling their kind, objects,
//! place and look in one token, and by the query that finds the thing it speaks of. Those behind it, which no instruction is long enough to reach,
//! tell what the wanted things look like, and what is behind them. The UNet then reads all tokens,
//! as it would read CLIP's.

use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::clip_text::ClipTextModel;
use any2pix_nn::{Generator, Linear, Parameters};
use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;

use super::pairs::{Kinds, draw_kind};
use super::{Reader, TEXT_ENCODER, Words, codec, drawings};
use crate::playroom::looks::LOOKS;
use crate::playroom::splits::Split;
use crate::playroom::{Kind, Manner, Place, Sample, World};
use crate::prefetch::Prefetch;
use crate::recipes::component;
use crate::recipes::queries::Queries;
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss, export};

/// Numbers under `[recipe]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextSettings {
    /// How often each kind of edit is read.
    kinds: Kinds,
    /// How often a caption is read instead of an instruction.
    captions: f32,
}

/// What is told of an instruction, each as one of so many.
const QUESTIONS: [&str; 6] = ["kind", "wanted", "unwanted", "place", "look", "setting"];

/// The questions whose answers a locator is asked for: the second where the first has none.
const ASKED_FOR: [usize; 2] = [2, 1];
/// How much an error in a drawing counts beside the questions.
const DRAWING_WEIGHT: f64 = 4.0;
/// Pictures and sounds that embeddings of concepts come from.
const EXAMPLES: (usize, usize) = (10, 1);

/// Instructions and what is true of them.
struct Batch {
    texts: Vec<String>,
    /// One row a question.
    answers: Vec<Vec<u32>>,
    /// Rows of [`drawings::told`], one after another for each text.
    told: Vec<u32>,
}

/// What the model says of a batch, and what is right.
struct Said {
    /// Of each question logits `(b, choices)` and answers `(b)`.
    answers: Vec<(Tensor, Tensor)>,
    /// Squared error of the drawings as a part of all that there is to tell.
    undrawn: Tensor,
    /// Squared error of the query, which has length 1.
    unasked: Option<Tensor>,
}

/// Instructions that `evaluate` reads.
const HELD_OUT: usize = 512;

/// The stage.
pub struct TextRecipe {
    parameters: Parameters,
    model: ClipTextModel,
    heads: Vec<Linear>,
    drawing_head: Linear,
    /// `(rows, drawings::TOKENS, numbers)`, see [`drawings::told`].
    drawings: Tensor,
    /// `(concepts + 1, embed_dim)`: what a locator is asked for each concept with, then nothing.
    queries: Tensor,
    reader: Reader,
    batches: Prefetch<Batch>,
    asker: Arc<Asker>,
}

/// Draws instructions.
struct Asker {
    world: World,
    manner: Manner,
    words: Words,
    /// What backgrounds show; the position in this list is the answer.
    settings: Vec<String>,
    kinds: Kinds,
    captions: f32,
}

impl Asker {
    fn batch(&self, size: usize, split: Split, generator: &mut Generator) -> Batch {
        let mut answers = vec![Vec::with_capacity(size); QUESTIONS.len()];
        let (mut texts, mut told) = (Vec::with_capacity(size), Vec::new());
        for _ in 0..size {
            let is_caption = generator.chance(self.captions);
            let kind = match is_caption {
                true => Kind::Generate,
                false => draw_kind(&self.kinds, generator),
            };
            let sample = self.world.sample_in(&self.manner, generator, split, kind);
            texts.push(match is_caption {
                true => sample.caption.clone(),
                false => self.words.of(&sample),
            });
            for (row, answer) in answers.iter_mut().zip(self.answers(&sample)) {
                row.push(answer as u32);
            }
            told.extend(drawings::rows_told(&self.world, &sample).map(|row| row as u32));
        }
        Batch { texts, answers, told }
    }

    /// How many answers each question has; the last of each but the kind's says "none".
    fn choices(&self) -> [usize; QUESTIONS.len()] {
        let concepts = self.world.concepts().len() + 1;
        let settings = self.settings.len() + 1;
        [Kind::ALL.len(), concepts, concepts, Place::ALL.len() + 1, LOOKS.len() + 1, settings]
    }

    fn answers(&self, sample: &Sample) -> [usize; QUESTIONS.len()] {
        let [_, concepts, _, places, looks, settings] = self.choices();
        let concept = |slot: Option<&crate::playroom::ObjectSlot>| {
            let id = slot.and_then(|slot| self.world.concept_id(&slot.concept));
            id.unwrap_or(concepts - 1).min(concepts - 1)
        };
        let place = sample.place.and_then(|place| Place::ALL.iter().position(|p| *p == place));
        let look = sample.look.as_ref().and_then(|l| LOOKS.iter().position(|k| k.name == *l));
        // Only a caption tells what is behind.
        let setting = (sample.kind == Kind::Generate).then(|| {
            let behind = self.world.setting(&sample.recipe.target.view);
            self.settings.iter().position(|setting| setting == behind)
        });
        let setting = setting.flatten();
        [
            Kind::ALL.iter().position(|kind| *kind == sample.kind).unwrap_or_default(),
            concept(sample.wanted.first()),
            concept(sample.unwanted.first()),
            place.unwrap_or(places - 1),
            look.unwrap_or(looks - 1),
            setting.unwrap_or(settings - 1),
        ]
    }
}

impl TextRecipe {
    /// Opens the world and starts a fresh encoder.
    pub fn open(context: &StageContext) -> Result<Self> {
        let settings: TextSettings = context.settings.recipe()?;
        let reader = Reader::open(&context.model)?;
        let world = World::open(&context.data).map_err(component::misfit)?;
        let TextSettings { kinds, captions } = settings;
        let told = world.settings().into_iter().map(str::to_string).collect();
        let typical = drawings::typical(&world, &component::imagebind(&context.model)?)?;
        let drawings = drawings::told(&world, &typical, &codec(&context.model)?)?;
        let manner = Manner { words_only: true, drawings: typical.into(), ..Manner::default() };
        let manner = Manner { unpainted: true, ..manner };
        let asker = Asker { world, manner, words: Words::read()?, settings: told, kinds, captions };
        let seed = context.settings.seed;
        let parameters = Parameters::new(seed);
        let vb = parameters.builder(&Device::Cpu);
        let model = ClipTextModel::load(vb.clone(), &reader.config)?;
        let width = reader.config.hidden_size;
        let heads = QUESTIONS.iter().zip(asker.choices());
        let heads = heads.map(|(name, n)| Linear::load(vb.pp("heads").pp(name), width, n));
        let heads = heads.collect::<candle_core::Result<_>>()?;
        let queries = Queries::embedded(&context.model, &asker.world, EXAMPLES, 0.0)?.means()?;
        let none = queries.narrow(0, 0, 1)?.zeros_like()?;
        let queries = Tensor::cat(&[queries, none], 0)?;
        let numbers = drawings.dim(D::Minus1)?;
        let drawing_head = Linear::load(vb.pp("heads.drawing"), width, numbers)?;
        let asker = Arc::new(asker);
        let (shared, size) = (asker.clone(), context.settings.batch);
        let batches = Prefetch::new(seed, 2, 4, move |_, generator| {
            Ok(shared.batch(size, Split::Train, generator))
        });
        Ok(Self {
            parameters,
            model,
            heads,
            drawing_head,
            drawings,
            queries,
            reader,
            batches,
            asker,
        })
    }

    fn said(&self, batch: &Batch) -> Result<Said> {
        let ids = self.reader.ids(batch.texts.iter().map(String::as_str))?;
        let read = self.model.forward(&ids)?;
        let last = read.last_hidden_state;
        let tokens = drawings::GROUPS * drawings::TOKENS;
        let Some(behind) = last.dim(1)?.checked_sub(tokens + 1) else {
            return Err(component::misfit("the text encoder has too few positions"));
        };
        let knowing = last.narrow(1, behind, 1)?.squeeze(1)?.contiguous()?;
        let pair = |(head, right): (&Linear, &Vec<u32>)| {
            Ok((head.forward(&knowing)?, Tensor::new(right.as_slice(), &Device::Cpu)?))
        };
        let answers = self.heads.iter().zip(&batch.answers).map(pair).collect::<Result<_>>()?;
        let drawn =
            self.drawing_head.forward(&last.narrow(1, behind + 1, tokens)?.contiguous()?)?;
        let told = Tensor::new(batch.told.as_slice(), &Device::Cpu)?;
        let told = self.drawings.index_select(&told, 0)?.reshape(drawn.shape())?;
        let error = (drawn - &told)?.sqr()?.mean_all()?;
        let all = f64::from(told.sqr()?.mean_all()?.to_scalar::<f32>()?);
        let unasked = read.text_embeds.map(|query| self.unasked(&query, batch)).transpose()?;
        Ok(Said { answers, undrawn: (error / all.max(1e-6))?, unasked })
    }

    fn unasked(&self, query: &Tensor, batch: &Batch) -> Result<Tensor> {
        let nothing = self.queries.dim(0)? as u32 - 1;
        let [unwanted, wanted] = ASKED_FOR.map(|question| &batch.answers[question]);
        let first = |(unwanted, wanted): (&u32, &u32)| {
            if *unwanted == nothing { *wanted } else { *unwanted }
        };
        let asked: Vec<u32> = unwanted.iter().zip(wanted).map(first).collect();
        let right = self.queries.index_select(&Tensor::new(asked, &Device::Cpu)?, 0)?;
        Ok((query - right)?.sqr()?.sum(1)?.mean_all()?)
    }
}

impl Recipe for TextRecipe {
    fn name(&self) -> &str {
        "ip2p_text"
    }

    fn component(&self) -> &str {
        TEXT_ENCODER
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, step: u64, _: &mut Generator) -> Result<StepLoss> {
        let batch = self.batches.batch(step)?;
        let said = self.said(&batch)?;
        let undrawn = f64::from(said.undrawn.to_scalar::<f32>()?);
        let mut loss = (said.undrawn * DRAWING_WEIGHT)?;
        let mut unasked = 0.0;
        if let Some(error) = said.unasked {
            unasked = f64::from(error.to_scalar::<f32>()?);
            loss = (loss + error)?;
        }
        for (logits, right) in said.answers {
            loss = (loss + candle_nn::loss::cross_entropy(&logits, &right)?)?;
        }
        let loss = StepLoss::new(loss, batch.texts.len());
        Ok(loss.log("undrawn", undrawn).log("unasked", unasked))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let batch = self.asker.batch(HELD_OUT, Split::HeldOut, generator);
        let mut all = Tensor::ones(HELD_OUT, DType::F32, &Device::Cpu)?;
        let mut figures = Vec::new();
        let said = self.said(&batch)?;
        for (name, (logits, right)) in QUESTIONS.iter().zip(said.answers) {
            let hits = logits.argmax(D::Minus1)?.eq(&right)?.to_dtype(DType::F32)?;
            all = (all * &hits)?;
            figures.push(((*name).to_string(), f64::from(hits.mean_all()?.to_scalar::<f32>()?)));
        }
        for (name, error) in [("undrawn", Some(said.undrawn)), ("unasked", said.unasked)] {
            let Some(error) = error else { continue };
            figures.push((name.to_string(), f64::from(error.to_scalar::<f32>()?)));
        }
        figures.push(("all".to_string(), f64::from(all.mean_all()?.to_scalar::<f32>()?)));
        Ok(figures)
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let config: serde_json::Value = component::config(dir, TEXT_ENCODER)?;
        let tensors = self.parameters.tensors().into_iter();
        let tensors = tensors.filter(|(name, _)| !name.starts_with("heads."));
        export::component(dir, TEXT_ENCODER, &config, tensors, DType::F16)
    }
}
