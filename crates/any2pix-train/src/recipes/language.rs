//! What the planner's three stages share: examples, batches, the loss, the component.

use std::path::Path;

use any2pix_llm::planner::Prompt;
use any2pix_llm::tokenizer::Segment;
use any2pix_llm::{
    ChatTemplate, Embedding, InstructAny2PixForCausalLM, LlamaConfig, LlmError, Piece, Planner,
    PlannerConfig, Tokenizer,
};
use any2pix_nn::Parameters;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::{Result, TrainError, export};

/// A part of an answer that is to be learned.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerPart {
    /// Words and control tokens of our own.
    Text(String),
    /// One `<video>`; the state that predicts it shall give this embedding, if there is one.
    Slot(Option<Embedding>),
}

/// One conversation to learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What the user says.
    pub instruction: Vec<Piece>,
    /// Embeddings of the references, any norm.
    pub references: Vec<Embedding>,
    /// What the model shall say.
    pub answer: Vec<AnswerPart>,
}

/// An [`Example`] as token ids.
struct Row {
    ids: Vec<u32>,
    prompt: usize,
    media: Vec<(usize, Embedding)>,
    slots: Vec<(usize, Embedding)>,
}

/// Examples side by side, padded at the end (what follows the last token has no say).
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    ids: Vec<u32>,
    rows: usize,
    media_at: Vec<u32>,
    media: Vec<f32>,
    states: Vec<u32>,
    tokens: Vec<u32>,
    slots_at: Vec<u32>,
    slots: Vec<f32>,
}

impl Batch {
    /// How many examples.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// No example fitted.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

/// How examples become ids: the tokenizer, the frame of words, the sizes.
pub struct Frame {
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// The words around an instruction.
    pub template: ChatTemplate,
    /// Longest row; longer examples are left out.
    pub context: usize,
    /// L2 norm of embeddings.
    pub norm: f32,
}

fn scaled(embedding: &[f32], norm: f32) -> Embedding {
    let length = embedding.iter().map(|v| v * v).sum::<f32>().sqrt() + 1e-9;
    embedding.iter().map(|v| v / length * norm).collect()
}

impl Frame {
    fn row(&self, example: &Example) -> Result<Row, LlmError> {
        let prompt = Prompt::encode(&example.instruction, &self.template, &self.tokenizer)?;
        let media = prompt
            .media
            .iter()
            .filter_map(|(at, index)| {
                Some((*at, scaled(example.references.get(*index)?, self.norm)))
            })
            .collect();
        let video = self.tokenizer.control().video;
        let mut segments = vec![Segment::Text(" ".to_string())];
        let mut targets = Vec::new();
        for part in &example.answer {
            match part {
                AnswerPart::Text(text) => segments.extend(self.tokenizer.trusted_segments(text)),
                AnswerPart::Slot(target) => {
                    segments.push(Segment::Control(video));
                    targets.push(target.as_ref());
                }
            }
        }
        segments.push(Segment::Control(self.tokenizer.control().eos));
        let start = prompt.ids.len();
        let mut ids = prompt.ids;
        ids.extend(self.tokenizer.encode_continuation(&segments, false)?);
        let places = (start..ids.len()).filter(|at| ids[*at] == video);
        let slots = places
            .zip(targets)
            .filter_map(|(at, target)| Some((at, scaled(target?, self.norm))))
            .collect();
        Ok(Row { ids, prompt: start, media, slots })
    }

    /// Puts examples side by side.
    pub fn batch(&self, examples: &[Example]) -> Result<Batch> {
        let rows: Vec<Row> = examples
            .iter()
            .map(|example| self.row(example))
            .collect::<Result<Vec<_>, _>>()
            .map_err(language)?
            .into_iter()
            .filter(|row| row.ids.len() <= self.context)
            .collect();
        let length = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let mut batch = Batch {
            ids: vec![0; rows.len() * length],
            rows: rows.len(),
            media_at: Vec::new(),
            media: Vec::new(),
            states: Vec::new(),
            tokens: Vec::new(),
            slots_at: Vec::new(),
            slots: Vec::new(),
        };
        for (number, row) in rows.iter().enumerate() {
            let start = number * length;
            batch.ids[start..start + row.ids.len()].copy_from_slice(&row.ids);
            for (at, embedding) in &row.media {
                batch.media_at.push((start + at) as u32);
                batch.media.extend(embedding);
            }
            // The state before a token is the one that predicts it.
            for at in row.prompt..row.ids.len() {
                batch.states.push((start + at - 1) as u32);
                batch.tokens.push(row.ids[at]);
            }
            for (at, embedding) in &row.slots {
                batch.slots_at.push((start + at - 1) as u32);
                batch.slots.extend(embedding);
            }
        }
        Ok(batch)
    }
}

/// An error of the language model's crate as one of ours.
pub fn language(error: LlmError) -> TrainError {
    match error {
        LlmError::Compute(error) => TrainError::Tensor(error),
        LlmError::Checkpoint(error) => TrainError::Checkpoint(error),
        other => TrainError::Data {
            what: other.to_string(),
            hint: "are models/…/llm/config.json and tokenizer.json the ones of this model?".into(),
        },
    }
}

/// The two parts of the loss of a batch.
pub struct LanguageLoss {
    /// Mean cross entropy of the answers' tokens.
    pub text: Tensor,
    /// Mean squared error of the slots' embeddings; absent without slots.
    pub embedding: Option<Tensor>,
    /// Part of the answers' tokens that were the likeliest.
    pub right: f64,
    /// Mean cosine of the slots' embeddings with their targets.
    pub cosine: f64,
}

fn rows_of(values: &[f32], count: usize) -> candle_core::Result<Tensor> {
    let width = values.len() / count.max(1);
    Tensor::from_slice(values, (count, width), &Device::Cpu)
}

impl LanguageLoss {
    /// Runs the model over `batch`.
    pub fn of(model: &InstructAny2PixForCausalLM, batch: &Batch) -> candle_core::Result<Self> {
        let device = Device::Cpu;
        let length = batch.ids.len() / batch.rows.max(1);
        let ids = Tensor::from_slice(&batch.ids, (batch.rows, length), &device)?;
        let media = match batch.media_at.len() {
            0 => None,
            count => Some(rows_of(&batch.media, count)?),
        };
        let inputs_embeds = model.inputs_embeds(&ids, &batch.media_at, media.as_ref())?;
        let hidden_states = model.llama.hidden_states(&inputs_embeds)?.flatten_to(1)?;
        let at = |places: &[u32]| hidden_states.index_select(&Tensor::new(places, &device)?, 0);
        let logits = model.llama.logits(&at(&batch.states)?)?;
        let tokens = Tensor::new(batch.tokens.as_slice(), &device)?;
        let likeliest = logits.detach().argmax(1)?.eq(&tokens)?;
        let right = likeliest.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
        let text = candle_nn::loss::cross_entropy(&logits, &tokens)?;
        let (mut embedding, mut cosine) = (None, 0.0);
        if !batch.slots_at.is_empty() {
            let predicted = model.predict(&at(&batch.slots_at)?)?;
            let targets = rows_of(&batch.slots, batch.slots_at.len())?;
            cosine = mean_cosine(&predicted.detach(), &targets)?;
            embedding = Some((predicted - targets)?.sqr()?.mean_all()?);
        }
        Ok(Self { text, embedding, right: f64::from(right), cosine })
    }

    /// Cross entropy plus `weight` times the regression.
    pub fn total(&self, weight: f64) -> candle_core::Result<Tensor> {
        match &self.embedding {
            Some(embedding) => &self.text + (embedding * weight)?,
            None => Ok(self.text.clone()),
        }
    }
}

fn mean_cosine(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    let dot = |x: &Tensor, y: &Tensor| (x * y)?.sum(1);
    let norms = ((dot(a, a)? * dot(b, b)?)?.sqrt()? + 1e-9)?;
    let cosine = (dot(a, b)? / norms)?.mean_all()?.to_scalar::<f32>()?;
    Ok(f64::from(cosine))
}

/// The component `llm` in training.
pub struct LanguageModel {
    /// The network; its tensors are the parameters.
    pub model: InstructAny2PixForCausalLM,
    /// What is trained.
    pub parameters: Parameters,
    config: Value,
    llama: LlamaConfig,
    planner: PlannerConfig,
    tokenizer_json: Vec<u8>,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(TrainError::io(path))
}

impl LanguageModel {
    /// Builds `llm` of the model directory `dir`, fresh from `seed`.
    pub fn open(dir: &Path, seed: u64) -> Result<Self> {
        let folder = dir.join("llm");
        let config = read(&folder.join("config.json"))?;
        let tokenizer_json = read(&folder.join("tokenizer.json"))?;
        Self::new(&config, tokenizer_json, seed)
    }

    /// A fresh model from the bytes of `config.json` and `tokenizer.json`.
    pub fn new(config_json: &[u8], tokenizer_json: Vec<u8>, seed: u64) -> Result<Self> {
        let llama = LlamaConfig::from_json(config_json).map_err(language)?;
        let wrong = |e: serde_json::Error| {
            language(LlmError::Config { key: "config.json", reason: e.to_string() })
        };
        let config: Value = serde_json::from_slice(config_json).map_err(wrong)?;
        let planner = serde_json::from_value(config.clone()).map_err(wrong)?;
        let parameters = Parameters::new(seed);
        let vb = parameters.builder(&Device::Cpu);
        let model = InstructAny2PixForCausalLM::load(vb, &llama)?;
        Ok(Self { model, parameters, config, llama, planner, tokenizer_json })
    }

    /// Width of an embedding.
    pub fn embedding_width(&self) -> usize {
        self.llama.mm_hidden_size
    }

    /// How examples become ids.
    pub fn frame(&self) -> Result<Frame> {
        let tokenizer = Tokenizer::from_json(&self.tokenizer_json, None).map_err(language)?;
        let template = ChatTemplate::named(&self.planner.chat_template).map_err(language)?;
        let context = self.llama.max_position_embeddings;
        Ok(Frame { tokenizer, template, context, norm: self.llama.embedding_norm as f32 })
    }

    /// A planner over the weights as they are now.
    pub fn planner(&self) -> Result<Planner> {
        let tokenizer = Tokenizer::from_json(&self.tokenizer_json, None).map_err(language)?;
        let (llama, config) = (self.llama.clone(), self.planner.clone());
        Planner::new(self.model.clone(), tokenizer, llama, config, &Device::Cpu).map_err(language)
    }

    /// Writes the component into the model directory.
    pub fn export(&self, dir: &Path) -> Result<()> {
        let tensors = self.parameters.tensors();
        export::component(dir, "llm", &self.config, tensors, DType::BF16)?;
        export::write_whole(&dir.join("llm/tokenizer.json"), &self.tokenizer_json)
    }
}
