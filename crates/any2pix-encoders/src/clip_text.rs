//! CLIPTextModel and CLIPTextModelWithProjection: what SDXL reads its prompt with.

use any2pix_nn::ops::Mask;
use any2pix_nn::{Embedding, LayerNorm, Linear};
use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

pub use crate::clip_layer::Activation;
use crate::clip_layer::{Encoder, LayerConfig, class_names, default_eps, projection};

/// `config.json` of a CLIP text encoder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClipTextConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Longest text, in tokens.
    pub max_position_embeddings: usize,
    /// The MLP's activation.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Width of `text_embeds`.
    #[serde(default)]
    pub projection_dim: usize,
    /// Of the layer norms.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    /// Which token is pooled; 2 stands for "the largest id", as in old configs.
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
    /// Class names; one of them says whether there is a projection.
    #[serde(default, deserialize_with = "class_names")]
    pub architectures: Vec<String>,
}

impl ClipTextConfig {
    /// A text's ids as the model was trained to read them, where its tokenizer adds nothing: cut
    /// to leave room for the end, closed with it, and filled up with it to the longest text.
    pub fn closed(&self, ids: &[u32]) -> Vec<u32> {
        let mut row = ids.to_vec();
        row.truncate(self.max_position_embeddings.saturating_sub(1));
        row.resize(self.max_position_embeddings, self.eos_token_id);
        row
    }

    fn layer(&self) -> LayerConfig {
        LayerConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            eps: self.layer_norm_eps,
            mask: Mask::Causal,
        }
    }
}

fn default_eos() -> u32 {
    2
}

/// Old configs say 2 whatever the vocabulary's end token is.
const LEGACY_EOS: u32 = 2;

/// What a text encoder gives.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// `(b, n, hidden)` each: the embeddings, then after every layer; before the final norm.
    pub hidden_states: Vec<Tensor>,
    /// `(b, n, hidden)`: the last of them after the final norm.
    pub last_hidden_state: Tensor,
    /// `(b, hidden)`: the same at the end-of-text token.
    pub pooler_output: Tensor,
    /// `(b, projection_dim)`: projected, when the model has a projection.
    pub text_embeds: Option<Tensor>,
}

impl ClipTextOutput {
    /// What SDXL conditions on: the hidden state before the last layer.
    pub fn penultimate(&self) -> Result<&Tensor> {
        match self.hidden_states.len().checked_sub(2).and_then(|i| self.hidden_states.get(i)) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("a text encoder without layers has no penultimate state"),
        }
    }
}

/// A CLIP text encoder, with a projection or without.
#[derive(Clone, Debug)]
pub struct ClipTextModel {
    token_embedding: Embedding,
    position_embedding: Embedding,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    eos_token_id: u32,
}

impl ClipTextModel {
    /// Builds what `architectures` names.
    pub fn load(vb: VarBuilder, config: &ClipTextConfig) -> Result<Self> {
        let (dim, model) = (config.hidden_size, vb.pp("text_model"));
        let embeddings = model.pp("embeddings");
        let kind = (&config.architectures[..], "CLIPTextModelWithProjection");
        let text_projection =
            projection(vb.pp("text_projection"), kind, (dim, config.projection_dim))?;
        Ok(Self {
            token_embedding: Embedding::load(
                embeddings.pp("token_embedding"),
                config.vocab_size,
                dim,
            )?,
            position_embedding: Embedding::load(
                embeddings.pp("position_embedding"),
                config.max_position_embeddings,
                dim,
            )?,
            encoder: Encoder::load(model.pp("encoder"), config.num_hidden_layers, config.layer())?,
            final_layer_norm: LayerNorm::load(
                model.pp("final_layer_norm"),
                dim,
                config.layer_norm_eps,
            )?,
            text_projection,
            eos_token_id: config.eos_token_id,
        })
    }

    /// # Shapes
    /// `ids` `(b, n)`, u32 or i64.
    pub fn forward(&self, ids: &Tensor) -> Result<ClipTextOutput> {
        let (batch, length) = ids.dims2()?;
        let positions = self.position_embedding.weight().narrow(0, 0, length)?;
        let embedded = self.token_embedding.forward(ids)?.broadcast_add(&positions)?;
        let (hidden_states, last) = self.encoder.forward(embedded)?;
        let last_hidden_state = self.final_layer_norm.forward(&last)?;
        let flat = last_hidden_state.reshape((batch * length, ()))?;
        let pooler_output = flat.index_select(&self.ends(ids)?, 0)?;
        let text_embeds = match &self.text_projection {
            Some(projection) => Some(projection.forward(&pooler_output)?),
            None => None,
        };
        Ok(ClipTextOutput { hidden_states, last_hidden_state, pooler_output, text_embeds })
    }

    /// Where each row's end-of-text token stands in the flattened rows; the first position of a
    /// row without one.
    fn ends(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let ends: Vec<u32> = rows
            .iter()
            .enumerate()
            .map(|(i, row)| {
                let wanted = match self.eos_token_id {
                    LEGACY_EOS => row.iter().copied().max().unwrap_or(0),
                    id => id,
                };
                let at = row.iter().position(|&id| id == wanted).unwrap_or(0);
                (i * row.len() + at) as u32
            })
            .collect();
        Tensor::new(ends, ids.device())
    }
}
