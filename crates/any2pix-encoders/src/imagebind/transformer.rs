//! The pre-norm transformer that all of ImageBind's towers share.

use any2pix_nn::ops::{self, Mask};
use any2pix_nn::{LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Size of a trunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrunkConfig {
    pub(super) embed_dim: usize,
    pub(super) num_blocks: usize,
    pub(super) num_heads: usize,
    /// One learned key and value after the sequence (`add_bias_kv`).
    pub(super) bias_kv: bool,
    /// A norm before the first block.
    pub(super) pre_norm: bool,
    pub(super) causal: bool,
}

pub(super) const EPS: f64 = 1e-6;

impl TrunkConfig {
    /// Fresh layers that write to the residual stream start small, the more of them the smaller.
    fn residual_std(&self) -> f64 {
        (self.embed_dim as f64).powf(-0.5) * (2.0 * self.num_blocks.max(1) as f64).powf(-0.5)
    }
}

/// A fresh layer starts normal and without bias, as CLIP's: random biases would drown the small
/// differences between inputs, and a contrastive loss then makes everything the same.
fn dense(vb: VarBuilder, inputs: usize, outputs: usize, stdev: f64) -> Result<Linear> {
    let normal = Init::Randn { mean: 0.0, stdev };
    let weight = vb.get_with_hints((outputs, inputs), "weight", normal)?;
    let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
    Linear::from_tensors(weight, Some(bias))
}

/// torch's `MultiheadAttention` with packed projections.
#[derive(Clone, Debug)]
struct Attention {
    in_proj: Linear,
    out_proj: Linear,
    bias_kv: Option<(Tensor, Tensor)>,
    heads: usize,
    mask: Mask,
}

impl Attention {
    fn load(vb: VarBuilder, config: &TrunkConfig) -> Result<Self> {
        let dim = config.embed_dim;
        let init = Init::Randn { mean: 0.0, stdev: (dim as f64).powf(-0.5) };
        let weight = vb.get_with_hints((3 * dim, dim), "in_proj_weight", init)?;
        let bias = vb.get_with_hints(3 * dim, "in_proj_bias", Init::Const(0.0))?;
        let bias_kv = if config.bias_kv {
            let init = Init::Randn { mean: 0.0, stdev: 0.02 };
            let token = |name: &str| vb.get_with_hints((1, 1, dim), name, init);
            Some((token("bias_k")?, token("bias_v")?))
        } else {
            None
        };
        Ok(Self {
            in_proj: Linear::from_tensors(weight, Some(bias))?,
            out_proj: dense(vb.pp("out_proj"), dim, dim, config.residual_std())?,
            bias_kv,
            heads: config.num_heads,
            mask: if config.causal { Mask::Causal } else { Mask::None },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, _, dim) = x.dims3()?;
        let qkv = self.in_proj.forward(x)?;
        let part = |index: usize| qkv.narrow(2, index * dim, dim)?.contiguous();
        let (q, mut k, mut v) = (part(0)?, part(1)?, part(2)?);
        if let Some((bias_k, bias_v)) = &self.bias_kv {
            k = Tensor::cat(&[&k, &bias_k.broadcast_as((batch, 1, dim))?], 1)?;
            v = Tensor::cat(&[&v, &bias_v.broadcast_as((batch, 1, dim))?], 1)?;
        }
        let scale = 1.0 / ((dim / self.heads) as f64).sqrt();
        let mixed = ops::attention(&q, &k, &v, self.heads, self.heads, scale, self.mask)?;
        self.out_proj.forward(&mixed)
    }
}

#[derive(Clone, Debug)]
struct Block {
    norm_1: LayerNorm,
    attn: Attention,
    norm_2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn load(vb: VarBuilder, config: &TrunkConfig) -> Result<Self> {
        let dim = config.embed_dim;
        Ok(Self {
            norm_1: LayerNorm::load(vb.pp("norm_1"), dim, EPS)?,
            attn: Attention::load(vb.pp("attn"), config)?,
            norm_2: LayerNorm::load(vb.pp("norm_2"), dim, EPS)?,
            fc1: dense(vb.pp("mlp.fc1"), dim, 4 * dim, (2.0 * dim as f64).powf(-0.5))?,
            fc2: dense(vb.pp("mlp.fc2"), 4 * dim, dim, config.residual_std())?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = ops::add(x, &self.attn.forward(&self.norm_1.forward(x)?)?)?;
        let hidden = ops::gelu(&self.fc1.forward(&self.norm_2.forward(&x)?)?)?;
        ops::add(&x, &self.fc2.forward(&hidden)?)
    }
}

/// A stack of blocks.
#[derive(Clone, Debug)]
pub(super) struct Trunk {
    pre_norm: Option<LayerNorm>,
    blocks: Vec<Block>,
}

impl Trunk {
    pub(super) fn load(vb: VarBuilder, config: &TrunkConfig) -> Result<Self> {
        let pre_norm = if config.pre_norm {
            Some(LayerNorm::load(vb.pp("pre_transformer_layer.0"), config.embed_dim, EPS)?)
        } else {
            None
        };
        let blocks = (0..config.num_blocks)
            .map(|i| Block::load(vb.pp(format!("blocks.{i}")), config))
            .collect::<Result<_>>()?;
        Ok(Self { pre_norm, blocks })
    }

    /// # Shapes
    /// `(b, n, embed_dim)` → the same.
    pub(super) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let mut x = match &self.pre_norm {
            Some(norm) => norm.forward(tokens)?,
            None => tokens.clone(),
        };
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x)
    }
}

/// Divides the last dimension by its Euclidean norm.
pub(super) fn normalize(x: &Tensor) -> Result<Tensor> {
    let norm = x.sqr()?.sum_keepdim(candle_core::D::Minus1)?.sqrt()?;
    x.broadcast_div(&norm.maximum(1e-12)?)
}
