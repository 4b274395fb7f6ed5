//! DINO: a vision transformer taught without labels, whose class token tells likeness.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::ops::{self, Mask};
use any2pix_nn::{Conv2d, LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use image::RgbImage;
use serde::Deserialize;

use crate::clip_layer::Activation;
use crate::clip_vision::normalised;
use crate::resize::{Filter, center_crop, resize_short_side};

/// Tensors of published files that stand after the class token, where nobody reads.
pub const IGNORED: &[&str] = &["pooler."];

/// What the short side becomes before the middle is cut out.
const SHORT_SIDE: u32 = 256;
/// Mean of ImageNet, for each of R, G, B.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of the same.
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// `config.json` of a `ViTModel`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DinoConfig {
    /// Width.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// The MLP's activation.
    pub hidden_act: Activation,
    /// Of the layer norms.
    pub layer_norm_eps: f64,
    /// Side of the pictures.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Colours of a picture.
    pub num_channels: usize,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
}

#[derive(Clone, Debug)]
struct Layer {
    layernorm_before: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    layernorm_after: LayerNorm,
    intermediate: Linear,
    output: Linear,
    heads: usize,
    activation: Activation,
}

impl Layer {
    fn load(vb: VarBuilder, config: &DinoConfig) -> Result<Self> {
        let (dim, eps) = (config.hidden_size, config.layer_norm_eps);
        let attention = vb.pp("attention");
        let square = |name: &str| {
            let vb = attention.pp("attention").pp(name);
            if config.qkv_bias {
                Linear::load(vb, dim, dim)
            } else {
                Linear::load_no_bias(vb, dim, dim)
            }
        };
        Ok(Self {
            layernorm_before: LayerNorm::load(vb.pp("layernorm_before"), dim, eps)?,
            query: square("query")?,
            key: square("key")?,
            value: square("value")?,
            attention_output: Linear::load(attention.pp("output.dense"), dim, dim)?,
            layernorm_after: LayerNorm::load(vb.pp("layernorm_after"), dim, eps)?,
            intermediate: Linear::load(vb.pp("intermediate.dense"), dim, config.intermediate_size)?,
            output: Linear::load(vb.pp("output.dense"), config.intermediate_size, dim)?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.layernorm_before.forward(x)?;
        let (q, k, v) = (self.query.forward(&h)?, self.key.forward(&h)?, self.value.forward(&h)?);
        let scale = 1.0 / ((x.dim(2)? / self.heads) as f64).sqrt();
        let mixed = ops::attention(&q, &k, &v, self.heads, self.heads, scale, Mask::None)?;
        let x = ops::add(x, &self.attention_output.forward(&mixed)?)?;
        let h = self.intermediate.forward(&self.layernorm_after.forward(&x)?)?;
        let h = match self.activation {
            Activation::QuickGelu => ops::quick_gelu(&h)?,
            Activation::Gelu => ops::gelu(&h)?,
        };
        ops::add(&x, &self.output.forward(&h)?)
    }
}

/// Picture → class token and patches.
#[derive(Clone, Debug)]
pub struct Dino {
    cls_token: Tensor,
    projection: Conv2d,
    position_embeddings: Tensor,
    layers: Vec<Layer>,
    layernorm: LayerNorm,
    image_size: u32,
}

impl Dino {
    /// Under the names of `ViTModel`.
    pub fn load(vb: VarBuilder, config: &DinoConfig) -> Result<Self> {
        let DinoConfig { hidden_size: dim, image_size, patch_size, .. } = *config;
        if patch_size == 0 || image_size < patch_size || image_size > SHORT_SIDE as usize {
            candle_core::bail!("patches of {patch_size} of {image_size} cut out of {SHORT_SIDE}");
        }
        let heads = config.num_attention_heads;
        if heads == 0 || !dim.is_multiple_of(heads) {
            candle_core::bail!("hidden_size {dim} is no multiple of num_attention_heads {heads}");
        }
        let embeddings = vb.pp("embeddings");
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        let tokens = (image_size / patch_size).pow(2) + 1;
        Ok(Self {
            cls_token: embeddings.get_with_hints((1, 1, dim), "cls_token", small)?,
            projection: Conv2d::load(
                embeddings.pp("patch_embeddings.projection"),
                config.num_channels,
                dim,
                Conv2dConfig { kernel: patch_size, stride: patch_size, padding: 0 },
            )?,
            position_embeddings: embeddings.get_with_hints(
                (1, tokens, dim),
                "position_embeddings",
                small,
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(vb.pp(format!("encoder.layer.{i}")), config))
                .collect::<Result<_>>()?,
            layernorm: LayerNorm::load(vb.pp("layernorm"), dim, config.layer_norm_eps)?,
            image_size: image_size as u32,
        })
    }

    /// A picture as the published comparisons show it: short side to 256, the middle square.
    ///
    /// # Shapes
    /// → `(3, image_size, image_size)`, f32.
    pub fn input(&self, picture: &RgbImage) -> Result<Tensor> {
        let resized = resize_short_side(picture, SHORT_SIDE, Filter::Bicubic);
        normalised(&center_crop(&resized, (self.image_size, self.image_size)), MEAN, STD)
    }

    /// The last hidden state, after the norm; the class token is its first row.
    ///
    /// # Shapes
    /// `pixel_values` `(b, 3, image_size, image_size)`, normalised → `(b, 1 + patches, hidden)`.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let pixels = pixel_values.permute((0, 2, 3, 1))?.contiguous()?;
        let patches = self.projection.forward(&pixels)?;
        let (batch, rows, columns, dim) = patches.dims4()?;
        let patches = patches.reshape((batch, rows * columns, dim))?;
        let cls = self.cls_token.broadcast_as((batch, 1, dim))?;
        let mut x = Tensor::cat(&[&cls, &patches], 1)?.broadcast_add(&self.position_embeddings)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.layernorm.forward(&x)
    }
}
