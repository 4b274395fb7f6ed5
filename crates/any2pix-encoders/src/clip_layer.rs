//! The pre-norm transformer layer that both of CLIP's towers are made of.

use any2pix_nn::ops::{self, Mask};
use any2pix_nn::{LayerNorm, Linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Deserializer};

/// Activation of the MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`.
    #[default]
    QuickGelu,
    /// Exact.
    Gelu,
}

/// Class names; the parts of a whole CLIP's config call them `null`.
pub(crate) fn class_names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// ε of layer norms whose config says none.
pub(crate) fn default_eps() -> f64 {
    1e-5
}

/// The projection at `vb`, if `architectures` names `class`, which has one.
pub(crate) fn projection(
    vb: VarBuilder,
    (architectures, class): (&[String], &str),
    (from, to): (usize, usize),
) -> candle_core::Result<Option<Linear>> {
    let projected = architectures.iter().any(|name| name == class);
    projected.then(|| Linear::load_no_bias(vb, from, to)).transpose()
}

/// Size of a [`Layer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerConfig {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    pub(crate) eps: f64,
    pub(crate) mask: Mask,
}

impl LayerConfig {
    /// The head's width is what the heads share out; a width that they cannot share is refused.
    fn check(&self) -> candle_core::Result<()> {
        if self.heads == 0 || !self.hidden_size.is_multiple_of(self.heads) {
            candle_core::bail!(
                "hidden_size {} is no multiple of num_attention_heads {}",
                self.hidden_size,
                self.heads
            );
        }
        Ok(())
    }
}

/// The layers of a tower, `encoder.layers.*`.
#[derive(Clone, Debug)]
pub(crate) struct Encoder(Vec<Layer>);

impl Encoder {
    pub(crate) fn load(
        vb: VarBuilder,
        count: usize,
        config: LayerConfig,
    ) -> candle_core::Result<Self> {
        let layer = |i: usize| Layer::load(vb.pp(format!("layers.{i}")), config);
        (0..count).map(layer).collect::<candle_core::Result<_>>().map(Self)
    }

    /// `x` and the state after every layer, then the last of them once more.
    ///
    /// # Shapes
    /// `(b, n, hidden_size)` → all of the same shape.
    pub(crate) fn forward(&self, mut x: Tensor) -> candle_core::Result<(Vec<Tensor>, Tensor)> {
        let mut hidden_states = vec![x.clone()];
        for layer in &self.0 {
            x = layer.forward(&x)?;
            hidden_states.push(x.clone());
        }
        Ok((hidden_states, x))
    }
}

#[derive(Clone, Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    config: LayerConfig,
}

impl Layer {
    fn load(vb: VarBuilder, config: LayerConfig) -> candle_core::Result<Self> {
        config.check()?;
        let (dim, eps) = (config.hidden_size, config.eps);
        let attention = vb.pp("self_attn");
        let square = |name: &str| Linear::load(attention.pp(name), dim, dim);
        Ok(Self {
            layer_norm1: LayerNorm::load(vb.pp("layer_norm1"), dim, eps)?,
            q_proj: square("q_proj")?,
            k_proj: square("k_proj")?,
            v_proj: square("v_proj")?,
            out_proj: square("out_proj")?,
            layer_norm2: LayerNorm::load(vb.pp("layer_norm2"), dim, eps)?,
            fc1: Linear::load(vb.pp("mlp.fc1"), dim, config.intermediate_size)?,
            fc2: Linear::load(vb.pp("mlp.fc2"), config.intermediate_size, dim)?,
            config,
        })
    }

    /// # Shapes
    /// `(b, n, hidden_size)` → the same.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let heads = self.config.heads;
        let h = self.layer_norm1.forward(x)?;
        let (q, k, v) =
            (self.q_proj.forward(&h)?, self.k_proj.forward(&h)?, self.v_proj.forward(&h)?);
        let scale = 1.0 / ((x.dim(2)? / heads) as f64).sqrt();
        let mixed = ops::attention(&q, &k, &v, heads, heads, scale, self.config.mask)?;
        let x = (x + self.out_proj.forward(&mixed)?)?;
        let h = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let h = match self.config.activation {
            Activation::QuickGelu => ops::quick_gelu(&h)?,
            Activation::Gelu => ops::gelu(&h)?,
        };
        &x + self.fc2.forward(&h)?
    }
}
