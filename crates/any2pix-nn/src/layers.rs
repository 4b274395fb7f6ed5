//! Layers with the checkpoint's field names: `weight`, `bias`.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::ops::{self, Frozen, Quantised};

/// torch's default for linear and convolution layers: uniform in ±1/√fan_in.
fn fan_in_uniform(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// What a layer multiplies with: tensors that are trained, or weights packed for the kernels.
#[derive(Clone, Debug)]
enum Weights {
    Tensors(Tensor, Option<Tensor>),
    Frozen(Frozen),
}

impl Weights {
    fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(match Frozen::of(&weight, bias.as_ref())? {
            Some(frozen) => Self::Frozen(frozen),
            None => Self::Tensors(weight, bias),
        })
    }
}

/// `x · weightᵀ + bias`; `weight` `(out, in)`.
#[derive(Clone, Debug)]
pub struct Linear(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Plain(Weights),
    Quantised(Quantised),
}

impl Linear {
    /// With bias.
    pub fn load(vb: VarBuilder, in_features: usize, out_features: usize) -> Result<Self> {
        let init = fan_in_uniform(in_features);
        let weight = vb.get_with_hints((out_features, in_features), "weight", init)?;
        Self::from_tensors(weight, Some(vb.get_with_hints(out_features, "bias", init)?))
    }

    /// Without bias.
    pub fn load_no_bias(vb: VarBuilder, in_features: usize, out_features: usize) -> Result<Self> {
        let init = fan_in_uniform(in_features);
        let shape = (out_features, in_features);
        Self::from_tensors(vb.get_with_hints(shape, "weight", init)?, None)
    }

    /// With bias; a fresh layer starts at zero, so that it adds nothing until it is trained.
    pub fn load_zero(vb: VarBuilder, in_features: usize, out_features: usize) -> Result<Self> {
        let zero = Init::Const(0.0);
        let weight = vb.get_with_hints((out_features, in_features), "weight", zero)?;
        Self::from_tensors(weight, Some(vb.get_with_hints(out_features, "bias", zero)?))
    }

    /// Over tensors that are already there.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self(Kind::Plain(Weights::new(weight, bias)?)))
    }

    /// Over quantised weights, without bias.
    pub fn from_quantised(weight: Quantised) -> Self {
        Self(Kind::Quantised(weight))
    }

    /// # Shapes
    /// `(.., in)` → `(.., out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kind::Plain(Weights::Tensors(weight, bias)) => ops::linear(x, weight, bias.as_ref()),
            Kind::Plain(Weights::Frozen(frozen)) => frozen.linear(x),
            Kind::Quantised(quantised) => quantised.linear(x),
        }
    }
}

/// 2-D convolution; `weight` `(out, in, k, k)`, activations channels-last.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weights: Weights,
    stride: usize,
    padding: usize,
}

/// The numbers of a [`Conv2d`] that its weight does not tell.
#[derive(Clone, Copy, Debug)]
pub struct Conv2dConfig {
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
}

impl Conv2dConfig {
    /// 3×3 that keeps the size.
    pub const K3: Self = Self { kernel: 3, stride: 1, padding: 1 };
    /// 1×1.
    pub const K1: Self = Self { kernel: 1, stride: 1, padding: 0 };

    fn weight(&self, vb: &VarBuilder, channels: (usize, usize), init: Init) -> Result<Tensor> {
        vb.get_with_hints((channels.0, channels.1, self.kernel, self.kernel), "weight", init)
    }
}

impl Conv2d {
    /// With bias.
    pub fn load(
        vb: VarBuilder,
        in_channels: usize,
        out_channels: usize,
        config: Conv2dConfig,
    ) -> Result<Self> {
        let init = fan_in_uniform(in_channels * config.kernel * config.kernel);
        let weight = config.weight(&vb, (out_channels, in_channels), init)?;
        Self::new(config, weight, Some(vb.get_with_hints(out_channels, "bias", init)?))
    }

    /// Without bias.
    pub fn load_no_bias(
        vb: VarBuilder,
        in_channels: usize,
        out_channels: usize,
        config: Conv2dConfig,
    ) -> Result<Self> {
        let init = fan_in_uniform(in_channels * config.kernel * config.kernel);
        Self::new(config, config.weight(&vb, (out_channels, in_channels), init)?, None)
    }

    /// With bias; a fresh layer starts at zero, so that it adds nothing until it is trained.
    pub fn load_zero(
        vb: VarBuilder,
        in_channels: usize,
        out_channels: usize,
        config: Conv2dConfig,
    ) -> Result<Self> {
        let zero = Init::Const(0.0);
        let weight = config.weight(&vb, (out_channels, in_channels), zero)?;
        Self::new(config, weight, Some(vb.get_with_hints(out_channels, "bias", zero)?))
    }

    fn new(config: Conv2dConfig, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let Conv2dConfig { stride, padding, .. } = config;
        Ok(Self { weights: Weights::new(weight, bias)?, stride, padding })
    }

    /// # Shapes
    /// `(b, h, w, in)` → `(b, h', w', out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Tensors(weight, bias) => {
                ops::conv2d(x, weight, bias.as_ref(), self.stride, self.padding)
            }
            Weights::Frozen(frozen) => frozen.conv2d(x, self.stride, self.padding),
        }
    }
}

/// Group normalisation over channels-last activations.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `channels` is a multiple of `groups`.
    pub fn load(vb: VarBuilder, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        let weight = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
        let bias = vb.get_with_hints(channels, "bias", Init::Const(0.0))?;
        Ok(Self { weight, bias, groups, eps })
    }

    /// # Shapes
    /// `(b, .., c)` → the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.groups, self.eps, false)
    }

    /// The norm, then SiLU.
    ///
    /// # Shapes
    /// `(b, .., c)` → the same.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.groups, self.eps, true)
    }
}

/// Layer normalisation over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Over `size` channels.
    pub fn load(vb: VarBuilder, size: usize, eps: f64) -> Result<Self> {
        let weight = vb.get_with_hints(size, "weight", Init::Const(1.0))?;
        let bias = vb.get_with_hints(size, "bias", Init::Const(0.0))?;
        Ok(Self { weight, bias, eps })
    }

    /// # Shapes
    /// `(.., c)` → the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// Root-mean-square normalisation over the last dimension.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Over `size` channels.
    pub fn load(vb: VarBuilder, size: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: vb.get_with_hints(size, "weight", Init::Const(1.0))?, eps })
    }

    /// # Shapes
    /// `(.., c)` → the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

/// A table of vectors; `weight` `(count, size)`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// `count` vectors of `size`.
    pub fn load(vb: VarBuilder, count: usize, size: usize) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self { weight: vb.get_with_hints((count, size), "weight", init)? })
    }

    /// # Shapes
    /// `ids` (u32 or i64) of any shape `(..)` → `(.., size)`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut shape = ids.dims().to_vec();
        shape.push(self.weight.dim(1)?);
        self.weight.index_select(&ids.flatten_all()?, 0)?.reshape(shape)
    }

    /// `(count, size)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}
