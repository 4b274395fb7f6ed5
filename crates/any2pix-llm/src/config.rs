//! `LlamaConfig`: what the language model is, with Hugging Face's keys.

use serde::Deserialize;

use crate::error::LlmError;

/// `config.json` of a Llama with the two ImageBind projectors.
///
/// Unknown keys are ignored: published files carry many that change nothing here.
#[derive(Clone, Debug, Deserialize)]
pub struct LlamaConfig {
    /// Rows of the embedding table and of the output head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; absent means as many as query heads.
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    /// Width of one head; absent means `hidden_size / num_attention_heads`.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Rotary scaling; not supported, so it must be absent.
    #[serde(default)]
    pub rope_scaling: Option<serde_json::Value>,
    /// The gate's activation; `silu` is the one there is.
    #[serde(default = "default_hidden_act")]
    pub hidden_act: String,
    /// The output head is the embedding table.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Width of an ImageBind embedding.
    pub mm_hidden_size: usize,
    /// Kind of the projectors; `mlp2x_gelu` is the one there is.
    #[serde(default = "default_projector")]
    pub mm_projector_type: String,
    /// L2 norm to which embeddings are scaled before they enter.
    #[serde(default = "default_embedding_norm")]
    pub embedding_norm: f64,
    /// Begins a sequence.
    #[serde(default = "default_bos")]
    pub bos_token_id: u32,
    /// Ends an answer.
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
}

fn default_rope_theta() -> f64 {
    10_000.0
}

fn default_hidden_act() -> String {
    "silu".to_string()
}

fn default_projector() -> String {
    "mlp2x_gelu".to_string()
}

fn default_embedding_norm() -> f64 {
    20.0
}

fn default_bos() -> u32 {
    1
}

fn default_eos() -> u32 {
    2
}

/// No model that this program could hold exceeds it in any count; a config that does is wrong.
const LARGEST: usize = 1 << 20;

impl LlamaConfig {
    /// Reads and checks a `config.json`.
    pub fn from_json(json: &[u8]) -> Result<Self, LlmError> {
        let config: Self = serde_json::from_slice(json)
            .map_err(|e| LlmError::Config { key: "config.json", reason: e.to_string() })?;
        config.check()?;
        Ok(config)
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// An error naming the first value that no model can have.
    pub fn check(&self) -> Result<(), LlmError> {
        let refuse = |key, reason: String| Err(LlmError::Config { key, reason });
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("head_dim", self.head_dim()),
            ("max_position_embeddings", self.max_position_embeddings),
            ("mm_hidden_size", self.mm_hidden_size),
        ] {
            if value == 0 || value > LARGEST {
                return refuse(key, format!("{value} is not in 1..={LARGEST}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            let reason = format!("{} does not divide the query heads", self.kv_heads());
            return refuse("num_key_value_heads", reason);
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let reason = format!("{} does not divide hidden_size", self.num_attention_heads);
            return refuse("num_attention_heads", reason);
        }
        if !self.head_dim().is_multiple_of(2) {
            return refuse("head_dim", "rotary positions need an even width".to_string());
        }
        if self.hidden_act != "silu" {
            return refuse("hidden_act", format!("`{}` is not supported", self.hidden_act));
        }
        if self.mm_projector_type != "mlp2x_gelu" {
            let reason = format!("`{}` is not supported", self.mm_projector_type);
            return refuse("mm_projector_type", reason);
        }
        if self.rope_scaling.as_ref().is_some_and(|v| !v.is_null()) {
            return refuse("rope_scaling", "scaled rotary positions are not supported".into());
        }
        Ok(())
    }
}
