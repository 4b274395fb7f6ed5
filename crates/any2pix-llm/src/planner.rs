//! `Planner`: an instruction with its embeddings to an [`EditPlan`].

use any2pix_nn::ops::Quantisation;
use any2pix_nn::{Checkpoint, Generator};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::chat_template::ChatTemplate;
use crate::config::LlamaConfig;
use crate::error::LlmError;
use crate::generation::{Generation, GenerationConfig, Sampling, generate};
use crate::grammar::{PlanConstraint, PlanGrammar};
use crate::instruction::{Embedding, MediaKind, Piece};
use crate::llama::linears_of;
use crate::llama_cpp;
use crate::model::InstructAny2PixForCausalLM;
use crate::plan::{EditPlan, References};
use crate::tokenizer::Tokenizer;

/// Bytes of text in an instruction that are read at all.
pub const MAX_INSTRUCTION_BYTES: usize = 32_000;

/// The part of `config.json` that says how the model is spoken to. Published files have none
/// of it; the defaults are theirs.
#[derive(Clone, Debug, Deserialize)]
pub struct PlannerConfig {
    /// Name of the [`ChatTemplate`].
    #[serde(default = "default_template")]
    pub chat_template: String,
    /// The form of an answer.
    #[serde(default = "PlanGrammar::published")]
    pub plan_grammar: PlanGrammar,
    /// Cosine from which on a slot stands for a reference; published weights always mean one.
    #[serde(default = "default_min_cosine")]
    pub retrieval_min_cosine: f32,
}

fn default_template() -> String {
    "vicuna_v1".to_string()
}

fn default_min_cosine() -> f32 {
    -1.0
}

/// The language model with all that it needs to plan.
pub struct Planner {
    model: InstructAny2PixForCausalLM,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    llama: LlamaConfig,
    config: PlannerConfig,
    sampling: Sampling,
    device: Device,
}

/// A prompt as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids, `<s>` first.
    pub ids: Vec<u32>,
    /// For each `<video>` among them: where it is, and which reference it stands for.
    pub media: Vec<(usize, usize)>,
}

impl Prompt {
    /// Frames and encodes an instruction.
    pub fn encode(
        instruction: &[Piece],
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Self, LlmError> {
        let control = tokenizer.control();
        let ids = tokenizer.encode(&template.prompt(instruction, &control))?;
        let places = (0..ids.len()).filter(|at| ids[*at] == control.video);
        let references = instruction.iter().filter_map(|piece| match piece {
            Piece::Media(index, _) => Some(*index),
            Piece::Text(_) => None,
        });
        let media = places.zip(references).collect();
        Ok(Self { ids, media })
    }
}

impl Planner {
    /// Builds the planner from the bytes of `config.json`, of `tokenizer.json` and the weights,
    /// whose linear layers are kept in `format` if one is given. Layers that are quantised already,
    /// as those of a GGUF file, keep their blocks.
    pub fn load(
        (config_json, tokenizer_json): (&[u8], &[u8]),
        weights: &Checkpoint,
        format: Option<Quantisation>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, LlmError> {
        let llama = LlamaConfig::from_json(config_json)?;
        let config: PlannerConfig = serde_json::from_slice(config_json)
            .map_err(|e| LlmError::Config { key: "config.json", reason: e.to_string() })?;
        let tokenizer = Tokenizer::from_json(tokenizer_json, None)?;
        let translated;
        let weights = if llama_cpp::is_llama_cpp(weights) {
            translated = llama_cpp::as_hugging_face(weights, &llama)?;
            &translated
        } else {
            weights
        };
        let vb = weights.builder(dtype, device);
        let linear = linears_of(weights, format);
        let model = InstructAny2PixForCausalLM::load_with(vb, &llama, &linear)?;
        let ignored = InstructAny2PixForCausalLM::ignored_prefixes(&llama);
        weights.finish(&ignored.iter().map(String::as_str).collect::<Vec<_>>())?;
        Self::new(model, tokenizer, llama, config, device)
    }

    /// Puts a planner together from parts, for instance during training.
    pub fn new(
        model: InstructAny2PixForCausalLM,
        tokenizer: Tokenizer,
        llama: LlamaConfig,
        config: PlannerConfig,
        device: &Device,
    ) -> Result<Self, LlmError> {
        if tokenizer.vocab_size() > llama.vocab_size {
            let reason = format!(
                "it has {} tokens, the model knows {}",
                tokenizer.vocab_size(),
                llama.vocab_size
            );
            return Err(LlmError::Tokenizer { reason });
        }
        let template = ChatTemplate::named(&config.chat_template)?;
        let sampling = Sampling::GREEDY;
        let device = device.clone();
        Ok(Self { model, tokenizer, template, llama, config, sampling, device })
    }

    /// Draws tokens by `sampling` instead of taking the best.
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Plans the edit that `instruction` asks for; `embeddings[i]` is that of reference i, of
    /// any norm. The same instruction gives the same plan.
    pub fn plan(
        &self,
        instruction: &[Piece],
        embeddings: &[Embedding],
    ) -> Result<EditPlan, LlmError> {
        self.plan_with(instruction, embeddings, &[], &mut Generator::new(0))
    }

    /// [`Planner::plan`] with the names that objects may have, each once (any, when there are none),
    /// and the generator that sampling draws from.
    pub fn plan_with(
        &self,
        instruction: &[Piece],
        embeddings: &[Embedding],
        names: &[String],
        generator: &mut Generator,
    ) -> Result<EditPlan, LlmError> {
        self.check(instruction, embeddings)?;
        let prompt = Prompt::encode(instruction, &self.template, &self.tokenizer)?;
        let longest = self.config.plan_grammar.longest_answer(&self.template.preamble);
        if prompt.ids.len() + longest > self.llama.max_position_embeddings {
            return Err(LlmError::ContextTooShort {
                prompt: prompt.ids.len(),
                answer: longest,
                context: self.llama.max_position_embeddings,
            });
        }
        let answer = self.answer((&prompt, names), embeddings, longest, generator)?;
        let states = &answer.hidden_states;
        let slots = |step: usize| -> Result<Embedding, LlmError> {
            let embedding = self.model.predict(&states.narrow(0, step, 1)?)?;
            Ok(embedding.squeeze(0)?.to_dtype(DType::F32)?.to_vec1()?)
        };
        let (kinds, mentions) = mentioned(instruction, embeddings.len());
        let min_cosine = self.config.retrieval_min_cosine;
        let references = References { embeddings, kinds: &kinds, mentions: &mentions, min_cosine };
        let mut plan = EditPlan::read(&answer.ids, slots, &self.tokenizer, &references)?;
        let spelled = |key, value: Option<String>| {
            value.map(|value| self.config.plan_grammar.canonical(key, &value))
        };
        plan.place = spelled("place", plan.place);
        plan.look = spelled("look", plan.look);
        Ok(plan)
    }

    fn check(&self, instruction: &[Piece], embeddings: &[Embedding]) -> Result<(), LlmError> {
        let mut bytes = 0;
        for piece in instruction {
            match piece {
                Piece::Text(text) => bytes += text.len(),
                Piece::Media(index, _) if *index >= embeddings.len() => {
                    let count = embeddings.len();
                    return Err(LlmError::NoSuchReference { index: *index, count });
                }
                Piece::Media(..) => {}
            }
        }
        if bytes > MAX_INSTRUCTION_BYTES {
            return Err(LlmError::InstructionTooLong { bytes, limit: MAX_INSTRUCTION_BYTES });
        }
        let expected = self.llama.mm_hidden_size;
        match embeddings.iter().position(|e| e.len() != expected) {
            Some(index) => {
                Err(LlmError::EmbeddingWidth { index, width: embeddings[index].len(), expected })
            }
            None => Ok(()),
        }
    }

    fn answer(
        &self,
        (prompt, names): (&Prompt, &[String]),
        embeddings: &[Embedding],
        max_new_tokens: usize,
        generator: &mut Generator,
    ) -> Result<Generation, LlmError> {
        let dtype = self.model.llama.dtype();
        let ids = Tensor::new(prompt.ids.as_slice(), &self.device)?.unsqueeze(0)?;
        let positions: Vec<u32> = prompt.media.iter().map(|(at, _)| *at as u32).collect();
        let values: Vec<f32> =
            prompt.media.iter().flat_map(|(_, index)| embeddings[*index].iter().copied()).collect();
        let shape = (positions.len(), self.llama.mm_hidden_size);
        let media = if positions.is_empty() {
            None
        } else {
            let raw = Tensor::from_vec(values, shape, &self.device)?;
            Some(self.model.normalise(&raw)?.to_dtype(dtype)?)
        };
        let inputs_embeds = self.model.inputs_embeds(&ids, &positions, media.as_ref())?;
        let config = GenerationConfig {
            max_new_tokens,
            eos_token_id: self.tokenizer.control().eos,
            sampling: self.sampling,
        };
        let (grammar, preamble) = (&self.config.plan_grammar, &self.template.preamble);
        let mut constraint = PlanConstraint::new(grammar, names, preamble, &self.tokenizer);
        generate(&self.model, &inputs_embeds, &config, &mut constraint, generator)
    }
}

/// What each reference is, and how often the instruction mentions it; one that it never mentions
/// counts as a sound, since it cannot be the base.
fn mentioned(instruction: &[Piece], count: usize) -> (Vec<MediaKind>, Vec<usize>) {
    let (mut kinds, mut mentions) = (vec![MediaKind::Audio; count], vec![0; count]);
    for piece in instruction {
        if let Piece::Media(index, kind) = piece
            && let (Some(slot), Some(times)) = (kinds.get_mut(*index), mentions.get_mut(*index))
        {
            *slot = *kind;
            *times += 1;
        }
    }
    (kinds, mentions)
}
