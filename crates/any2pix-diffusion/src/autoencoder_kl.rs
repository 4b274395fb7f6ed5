//! `AutoencoderKL`: Stable Diffusion's picture codec.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm, Linear, ops};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::DiffusionError;
use crate::autoencoder::{Autoencoder, DiagonalGaussian, to_channels_first, to_channels_last};
use crate::unet::resnet::{Downsample2D, ResnetBlock2D, ResnetConfig, Upsample2D};

const EPS: f64 = 1e-6;

/// config.json of an `AutoencoderKL`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderKLConfig {
    /// Channels of a picture in.
    pub in_channels: usize,
    /// Channels of a picture out.
    pub out_channels: usize,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Resnets in an encoder block; decoder blocks have one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of every norm.
    pub norm_num_groups: usize,
    /// What latents are multiplied with for the UNet.
    pub scaling_factor: f64,
    /// What is subtracted from them before that.
    pub shift_factor: Option<f64>,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the mid blocks have an attention.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKLConfig {
    fn resnet(&self, in_channels: usize, out_channels: usize) -> ResnetConfig {
        let groups = self.norm_num_groups;
        ResnetConfig { in_channels, out_channels, temb_channels: None, groups, eps: EPS }
    }

    fn check(&self) -> std::result::Result<(), DiffusionError> {
        let groups = self.norm_num_groups;
        let odd = groups == 0 || self.block_out_channels.iter().any(|c| c % groups != 0);
        let (key, value) = if self.block_out_channels.is_empty() {
            ("block_out_channels", "[]".to_string())
        } else if odd {
            ("norm_num_groups", groups.to_string())
        } else {
            return Ok(());
        };
        Err(DiffusionError::Unsupported { component: "AutoencoderKL", key, value })
    }
}

/// Attention over all positions, one head.
#[derive(Clone, Debug)]
struct AttentionBlock {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl AttentionBlock {
    fn load(vb: VarBuilder, channels: usize, groups: usize) -> Result<Self> {
        Ok(Self {
            group_norm: GroupNorm::load(vb.pp("group_norm"), groups, channels, EPS)?,
            to_q: Linear::load(vb.pp("to_q"), channels, channels)?,
            to_k: Linear::load(vb.pp("to_k"), channels, channels)?,
            to_v: Linear::load(vb.pp("to_v"), channels, channels)?,
            to_out: Linear::load(vb.pp("to_out.0"), channels, channels)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let hidden = self.group_norm.forward(x)?.reshape((b, h * w, c))?;
        let q = self.to_q.forward(&hidden)?;
        let (k, v) = (self.to_k.forward(&hidden)?, self.to_v.forward(&hidden)?);
        let scale = 1.0 / (c as f64).sqrt();
        let attended = ops::attention(&q, &k, &v, 1, 1, scale, ops::Mask::None)?;
        ops::add(&self.to_out.forward(&attended)?.reshape((b, h, w, c))?, x)
    }
}

/// Resnet, attention, resnet.
#[derive(Clone, Debug)]
struct MidBlock {
    resnets: [ResnetBlock2D; 2],
    attention: Option<AttentionBlock>,
}

impl MidBlock {
    fn load(vb: VarBuilder, channels: usize, config: &AutoencoderKLConfig) -> Result<Self> {
        let resnet = config.resnet(channels, channels);
        let attention = config
            .mid_block_add_attention
            .then(|| AttentionBlock::load(vb.pp("attentions.0"), channels, config.norm_num_groups));
        Ok(Self {
            resnets: [
                ResnetBlock2D::load(vb.pp("resnets.0"), &resnet)?,
                ResnetBlock2D::load(vb.pp("resnets.1"), &resnet)?,
            ],
            attention: attention.transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut hidden = self.resnets[0].forward(x, None)?;
        if let Some(attention) = &self.attention {
            hidden = attention.forward(&hidden)?;
        }
        self.resnets[1].forward(&hidden, None)
    }
}

/// Resnets, then a change of size.
#[derive(Clone, Debug)]
struct Block<Resize> {
    resnets: Vec<ResnetBlock2D>,
    resize: Option<Resize>,
}

impl<Resize> Block<Resize> {
    fn load(
        vb: &VarBuilder,
        config: &AutoencoderKLConfig,
        (from, to): (usize, usize),
        layers: usize,
        resize: Option<Resize>,
    ) -> Result<Self> {
        let resnets = (0..layers)
            .map(|i| {
                let resnet = config.resnet(if i == 0 { from } else { to }, to);
                ResnetBlock2D::load(vb.pp("resnets").pp(i), &resnet)
            })
            .collect::<Result<_>>()?;
        Ok(Self { resnets, resize })
    }

    fn forward_resnets(&self, x: &Tensor) -> Result<Tensor> {
        let mut hidden = x.clone();
        for resnet in &self.resnets {
            hidden = resnet.forward(&hidden, None)?;
        }
        Ok(hidden)
    }
}

#[derive(Clone, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Block<Downsample2D>>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(vb: VarBuilder, config: &AutoencoderKLConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let down_blocks = (0..channels.len())
            .map(|i| {
                let (vb, to) = (vb.pp("down_blocks").pp(i), channels[i]);
                let resize = (i + 1 < channels.len())
                    .then(|| Downsample2D::load(vb.pp("downsamplers.0"), to, 0))
                    .transpose()?;
                let widths = (channels[i.saturating_sub(1)], to);
                Block::load(&vb, config, widths, config.layers_per_block, resize)
            })
            .collect::<Result<_>>()?;
        let k3 = Conv2dConfig::K3;
        let (norm, groups) = (vb.pp("conv_norm_out"), config.norm_num_groups);
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), config.in_channels, first, k3)?,
            down_blocks,
            mid_block: MidBlock::load(vb.pp("mid_block"), last, config)?,
            conv_norm_out: GroupNorm::load(norm, groups, last, EPS)?,
            conv_out: Conv2d::load(vb.pp("conv_out"), last, 2 * config.latent_channels, k3)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut hidden = self.conv_in.forward(x)?;
        for block in &self.down_blocks {
            hidden = block.forward_resnets(&hidden)?;
            if let Some(downsampler) = &block.resize {
                hidden = downsampler.forward(&hidden)?;
            }
        }
        let hidden = self.mid_block.forward(&hidden)?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden)?)
    }
}

#[derive(Clone, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<Block<Upsample2D>>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(vb: VarBuilder, config: &AutoencoderKLConfig) -> Result<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let up_blocks = (0..channels.len())
            .map(|i| {
                let (vb, to) = (vb.pp("up_blocks").pp(i), channels[i]);
                let resize = (i + 1 < channels.len())
                    .then(|| Upsample2D::load(vb.pp("upsamplers.0"), to))
                    .transpose()?;
                let widths = (channels[i.saturating_sub(1)], to);
                Block::load(&vb, config, widths, config.layers_per_block + 1, resize)
            })
            .collect::<Result<_>>()?;
        let k3 = Conv2dConfig::K3;
        let (norm, groups) = (vb.pp("conv_norm_out"), config.norm_num_groups);
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), config.latent_channels, first, k3)?,
            mid_block: MidBlock::load(vb.pp("mid_block"), first, config)?,
            up_blocks,
            conv_norm_out: GroupNorm::load(norm, groups, last, EPS)?,
            conv_out: Conv2d::load(vb.pp("conv_out"), last, config.out_channels, k3)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut hidden = self.mid_block.forward(&self.conv_in.forward(x)?)?;
        for block in &self.up_blocks {
            hidden = block.forward_resnets(&hidden)?;
            if let Some(upsampler) = &block.resize {
                hidden = upsampler.forward(&hidden, None)?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden)?)
    }
}

/// The codec.
#[derive(Clone, Debug)]
pub struct AutoencoderKL {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    config: AutoencoderKLConfig,
}

impl AutoencoderKL {
    /// Builds the model from `vb`.
    pub fn load(
        vb: VarBuilder,
        config: &AutoencoderKLConfig,
    ) -> std::result::Result<Self, DiffusionError> {
        config.check()?;
        let conv = |name: &str, wanted: bool, channels: usize| {
            wanted
                .then(|| Conv2d::load(vb.pp(name), channels, channels, Conv2dConfig::K1))
                .transpose()
        };
        let channels = config.latent_channels;
        Ok(Self {
            encoder: Encoder::load(vb.pp("encoder"), config)?,
            decoder: Decoder::load(vb.pp("decoder"), config)?,
            quant_conv: conv("quant_conv", config.use_quant_conv, 2 * channels)?,
            post_quant_conv: conv("post_quant_conv", config.use_post_quant_conv, channels)?,
            config: config.clone(),
        })
    }

    /// Mean and log variance, not split and not clamped.
    ///
    /// # Shapes
    /// `image` `(b, 3, h, w)` → `(b, 2c, h/f, w/f)`.
    pub fn moments(&self, image: &Tensor) -> Result<Tensor> {
        let hidden = self.encoder.forward(&to_channels_last(image)?)?;
        let moments = match &self.quant_conv {
            Some(conv) => conv.forward(&hidden)?,
            None => hidden,
        };
        to_channels_first(&moments)
    }
}

impl Autoencoder for AutoencoderKL {
    fn encode(&self, image: &Tensor) -> Result<DiagonalGaussian> {
        DiagonalGaussian::from_moments(&self.moments(image)?)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = to_channels_last(latents)?;
        let hidden = match &self.post_quant_conv {
            Some(conv) => conv.forward(&latents)?,
            None => latents,
        };
        to_channels_first(&self.decoder.forward(&hidden)?)
    }

    fn scaling_factor(&self) -> f64 {
        self.config.scaling_factor
    }

    fn shift_factor(&self) -> f64 {
        self.config.shift_factor.unwrap_or_default()
    }

    fn latent_channels(&self) -> usize {
        self.config.latent_channels
    }

    fn spatial_factor(&self) -> usize {
        1 << (self.config.block_out_channels.len() - 1)
    }
}
