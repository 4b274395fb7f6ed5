//! Decoding token by token, keeping the state that predicted each one.

use any2pix_nn::Generator;
use candle_core::{DType, Device, Tensor};

use crate::error::LlmError;
use crate::llama::KvCache;
use crate::model::InstructAny2PixForCausalLM;

/// What may come next: a language over tokens, walked one token at a time.
pub trait Constraint {
    /// May `token` come next?
    fn allows(&self, token: u32) -> bool;
    /// `token` came.
    fn advance(&mut self, token: u32);
}

/// Every token may come at any time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unconstrained;

impl Constraint for Unconstrained {
    fn allows(&self, _: u32) -> bool {
        true
    }
    fn advance(&mut self, _: u32) {}
}

/// How the next token is drawn from the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Scores are divided by it; 0 takes the best token.
    pub temperature: f32,
    /// Only so many of the best tokens; 0 for all.
    pub top_k: usize,
    /// Only the best tokens that together reach this probability; 1 for all.
    pub top_p: f32,
}

impl Sampling {
    /// The best token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0 };

    /// What the published pipeline uses.
    pub const PUBLISHED: Self = Self { temperature: 0.3, top_k: 50, top_p: 0.6 };

    /// One token out of `candidates` (id, score); `None` when there are none. Temperature, then
    /// top-k, then top-p. Among equal scores the smaller id comes first.
    pub fn draw(&self, candidates: &[(u32, f32)], generator: &mut Generator) -> Option<u32> {
        let greedy = self.temperature <= 0.0;
        let best = candidates
            .iter()
            .copied()
            .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        if greedy {
            return Some(best.0);
        }
        let mut kept: Vec<(u32, f64)> = candidates
            .iter()
            .map(|&(id, score)| {
                (id, (f64::from(score - best.1) / f64::from(self.temperature)).exp())
            })
            .collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.top_k > 0 {
            kept.truncate(self.top_k);
        }
        let total: f64 = kept.iter().map(|(_, p)| p).sum();
        let mut mass = 0.0;
        let enough = kept
            .iter()
            .position(|(_, p)| {
                mass += p;
                mass >= f64::from(self.top_p) * total
            })
            .map_or(kept.len(), |last| last + 1);
        kept.truncate(enough);
        let mut left = f64::from(generator.uniform()) * kept.iter().map(|(_, p)| p).sum::<f64>();
        for &(id, p) in &kept {
            left -= p;
            if left < 0.0 {
                return Some(id);
            }
        }
        kept.last().map(|(id, _)| *id)
    }
}

/// Where decoding stops and how it draws.
#[derive(Clone, Copy, Debug)]
pub struct GenerationConfig {
    /// At most so many tokens.
    pub max_new_tokens: usize,
    /// The token that ends the answer; it is kept in the output.
    pub eos_token_id: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
}

/// Tokens with the states that predicted them.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The new tokens, the end token included when it came.
    pub ids: Vec<u32>,
    /// `(tokens, hidden)`: row k is the state after the final norm whose scores gave token k.
    pub hidden_states: Tensor,
}

/// Answers a prompt that is given as `inputs_embeds` `(1, n, hidden)`.
///
/// Stops at the end token, at `max_new_tokens`, or when `constraint` allows no token.
pub fn generate(
    model: &InstructAny2PixForCausalLM,
    inputs_embeds: &Tensor,
    config: &GenerationConfig,
    constraint: &mut dyn Constraint,
    generator: &mut Generator,
) -> Result<Generation, LlmError> {
    let device = inputs_embeds.device().clone();
    let mut cache = KvCache::new();
    let mut next = inputs_embeds.clone();
    let (mut ids, mut states) = (Vec::new(), Vec::new());
    while ids.len() < config.max_new_tokens {
        let hidden = model.llama.hidden_states_cached(&next, &mut cache)?;
        let state = hidden.narrow(1, hidden.dim(1)? - 1, 1)?.squeeze(1)?;
        let scores = model.llama.logits(&state)?.squeeze(0)?.to_dtype(DType::F32)?;
        let candidates: Vec<(u32, f32)> = (0u32..)
            .zip(scores.to_vec1::<f32>()?)
            .filter(|(id, _)| constraint.allows(*id))
            .collect();
        let Some(id) = config.sampling.draw(&candidates, generator) else { break };
        constraint.advance(id);
        ids.push(id);
        states.push(state);
        if id == config.eos_token_id {
            break;
        }
        next = model.llama.embed(&Tensor::new(&[[id]], &device)?)?;
    }
    Ok(Generation { ids, hidden_states: stack(&states, inputs_embeds, &device)? })
}

fn stack(states: &[Tensor], like: &Tensor, device: &Device) -> Result<Tensor, LlmError> {
    if states.is_empty() {
        return Ok(Tensor::zeros((0, like.dim(2)?), like.dtype(), device)?);
    }
    Ok(Tensor::cat(states, 0)?)
}
