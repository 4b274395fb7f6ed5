//! `GPT2Model`: the prior's backbone, over embeddings instead of token ids.

use any2pix_nn::{Embedding, LayerNorm, ops};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

/// config.json of a GPT-2, as far as it matters here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gpt2Config {
    /// Longest sequence.
    pub n_positions: usize,
    /// Width.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads.
    pub n_head: usize,
    /// ε of every norm.
    #[serde(default = "default_eps")]
    pub layer_norm_epsilon: f64,
}

fn default_eps() -> f64 {
    1e-5
}

/// GPT-2's linear layer, which stores its weight as `(in, out)`.
#[derive(Clone, Debug)]
struct Conv1D {
    weight: Tensor,
    bias: Tensor,
}

impl Conv1D {
    fn load(vb: VarBuilder, from: usize, to: usize, stdev: f64) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev };
        Ok(Self {
            weight: vb.get_with_hints((from, to), "weight", init)?,
            bias: vb.get_with_hints(to, "bias", Init::Const(0.0))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight.t()?, Some(&self.bias))
    }
}

#[derive(Clone, Debug)]
struct Block {
    ln_1: LayerNorm,
    c_attn: Conv1D,
    attn_c_proj: Conv1D,
    ln_2: LayerNorm,
    c_fc: Conv1D,
    mlp_c_proj: Conv1D,
    heads: usize,
}

impl Block {
    fn load(vb: VarBuilder, config: &Gpt2Config) -> Result<Self> {
        let (width, eps) = (config.n_embd, config.layer_norm_epsilon);
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        // GPT-2 starts what is added to the residual smaller, the deeper the model
        let small = 0.02 / (2.0 * config.n_layer as f64).sqrt();
        Ok(Self {
            ln_1: LayerNorm::load(vb.pp("ln_1"), width, eps)?,
            c_attn: Conv1D::load(attn.pp("c_attn"), width, 3 * width, 0.02)?,
            attn_c_proj: Conv1D::load(attn.pp("c_proj"), width, width, small)?,
            ln_2: LayerNorm::load(vb.pp("ln_2"), width, eps)?,
            c_fc: Conv1D::load(mlp.pp("c_fc"), width, 4 * width, 0.02)?,
            mlp_c_proj: Conv1D::load(mlp.pp("c_proj"), 4 * width, width, small)?,
            heads: config.n_head,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.dim(2)?;
        let scale = 1.0 / ((width / self.heads) as f64).sqrt();
        let qkv = self.c_attn.forward(&self.ln_1.forward(x)?)?;
        let part = |i: usize| qkv.narrow(2, i * width, width)?.contiguous();
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let mask = ops::Mask::Causal;
        let attended = ops::attention(&q, &k, &v, self.heads, self.heads, scale, mask)?;
        let x = ops::add(x, &self.attn_c_proj.forward(&attended)?)?;
        let fed = self.c_fc.forward(&self.ln_2.forward(&x)?)?;
        ops::add(&x, &self.mlp_c_proj.forward(&ops::gelu_tanh(&fed)?)?)
    }
}

/// Positions, blocks, a final norm.
#[derive(Clone, Debug)]
pub struct Gpt2Model {
    wpe: Embedding,
    h: Vec<Block>,
    ln_f: LayerNorm,
}

impl Gpt2Model {
    /// Builds the model from `vb`; `wte` is not read.
    pub fn load(vb: VarBuilder, config: &Gpt2Config) -> Result<Self> {
        let (width, eps) = (config.n_embd, config.layer_norm_epsilon);
        Ok(Self {
            wpe: Embedding::load(vb.pp("wpe"), config.n_positions, width)?,
            h: (0..config.n_layer)
                .map(|i| Block::load(vb.pp("h").pp(i), config))
                .collect::<Result<_>>()?,
            ln_f: LayerNorm::load(vb.pp("ln_f"), width, eps)?,
        })
    }

    /// # Shapes
    /// `inputs_embeds` `(b, n, e)` → `(b, n, e)`, causal.
    pub fn forward(&self, inputs_embeds: &Tensor) -> Result<Tensor> {
        let positions = self.wpe.weight().narrow(0, 0, inputs_embeds.dim(1)?)?;
        let mut hidden = inputs_embeds.broadcast_add(&positions)?;
        for block in &self.h {
            hidden = block.forward(&hidden)?;
        }
        self.ln_f.forward(&hidden)
    }
}
