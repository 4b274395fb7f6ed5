//! `UNet2DConditionModel`: SDXL's UNet, and SD 1.5's, with IP-Adapter attention.

mod attention_control;
mod config;
mod down;
mod mid;
pub mod resnet;
pub mod transformer_2d;
mod up;

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::tap::tap;
use any2pix_nn::timesteps::sinusoid;
use any2pix_nn::{Conv2d, GroupNorm, Linear, ops};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

pub use attention_control::{AttentionControl, AttentionStore, CrossAttention};
pub use config::{PerBlock, UNet2DConditionModelConfig};
pub use transformer_2d::{Context, ImagePrompt};

use crate::DiffusionError;
use crate::autoencoder::{to_channels_first, to_channels_last};
use crate::denoise::NoisePredictor;
use down::DownBlock2D;
use mid::UNetMidBlock2DCrossAttn;
use resnet::ResnetBlock2D;
use transformer_2d::{Attention, Transformer2DModel};
use up::UpBlock2D;

/// A view with upstream's axes, for taps.
fn nchw(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))
}

/// Linear, SiLU, linear.
#[derive(Clone, Debug)]
struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    fn load(vb: VarBuilder, from: usize, to: usize) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(vb.pp("linear_1"), from, to)?,
            linear_2: Linear::load(vb.pp("linear_2"), to, to)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&ops::silu(&self.linear_1.forward(x)?)?)
    }
}

/// What SDXL knows besides the tokens.
#[derive(Clone, Debug)]
pub struct AddedConditions {
    /// Pooled text `(b, p)`.
    pub text_embeds: Tensor,
    /// Sizes and crops `(b, k)`: original height and width, crop top and left, target height and
    /// width (base), or with the aesthetic score last (refiner).
    pub time_ids: Tensor,
}

/// Everything that one prediction depends on besides sample and timestep.
#[derive(Clone, Debug)]
pub struct UNetConditions {
    /// Text tokens and image-prompt tokens.
    pub context: Context,
    /// Needed when the config says `text_time`.
    pub added: Option<AddedConditions>,
}

/// The UNet.
#[derive(Clone, Debug)]
pub struct UNet2DConditionModel {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<DownBlock2D>,
    mid_block: UNetMidBlock2DCrossAttn,
    up_blocks: Vec<UpBlock2D>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    config: UNet2DConditionModelConfig,
}

impl UNet2DConditionModel {
    /// Builds the model from `vb`.
    pub fn load(
        vb: VarBuilder,
        config: &UNet2DConditionModelConfig,
    ) -> std::result::Result<Self, DiffusionError> {
        config.check()?;
        let blocks = config.block_out_channels.len();
        let (first, eps) = (config.block_out_channels[0], config.norm_eps);
        let temb = config.time_embed_dim();
        let add_embedding = match (config.has_text_time(), config.add_embedding_width()?) {
            (true, width) => Some(TimestepEmbedding::load(vb.pp("add_embedding"), width, temb)?),
            (false, _) => None,
        };
        let (down, up) = (vb.pp("down_blocks"), vb.pp("up_blocks"));
        let norm_out = vb.pp("conv_norm_out");
        let (into, out, k3) = (config.in_channels, config.out_channels, Conv2dConfig::K3);
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), into, first, k3)?,
            time_embedding: TimestepEmbedding::load(vb.pp("time_embedding"), first, temb)?,
            add_embedding,
            down_blocks: (0..blocks)
                .map(|i| DownBlock2D::load(down.pp(i), config, i))
                .collect::<Result<_>>()?,
            mid_block: UNetMidBlock2DCrossAttn::load(vb.pp("mid_block"), config)?,
            up_blocks: (0..blocks)
                .map(|i| UpBlock2D::load(up.pp(i), config, i))
                .collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(norm_out, config.norm_num_groups, first, eps)?,
            conv_out: Conv2d::load_zero(vb.pp("conv_out"), first, out, k3)?,
            config: config.clone(),
        })
    }

    /// Adds an IP-Adapter's keys and values: `{2j+1}.to_k_ip`, `{2j+1}.to_v_ip` for the j-th
    /// cross-attention in the order down blocks, up blocks, mid block.
    pub fn load_ip_adapter(&mut self, vb: VarBuilder) -> Result<()> {
        for (j, attention) in self.cross_attentions_mut().enumerate() {
            attention.load_ip_adapter(vb.pp(2 * j + 1))?;
        }
        Ok(())
    }

    /// Trains in less memory: resnets and transformers are computed again in the backward pass
    /// instead of being kept for it, which costs a second forward pass.
    pub fn enable_gradient_checkpointing(&mut self) {
        let down = self.down_blocks.iter_mut().flat_map(|block| &mut block.resnets);
        let up = self.up_blocks.iter_mut().flat_map(|block| &mut block.resnets);
        let resnets = down.chain(up).chain(&mut self.mid_block.resnets);
        resnets.for_each(ResnetBlock2D::enable_gradient_checkpointing);
        self.transformers_mut().for_each(Transformer2DModel::enable_gradient_checkpointing);
    }

    /// In the order down blocks, up blocks, mid block.
    fn transformers_mut(&mut self) -> impl Iterator<Item = &mut Transformer2DModel> {
        let down = self.down_blocks.iter_mut().flat_map(|block| &mut block.attentions);
        let up = self.up_blocks.iter_mut().flat_map(|block| &mut block.attentions);
        down.chain(up).chain(std::iter::once(&mut self.mid_block.attention))
    }

    fn cross_attentions_mut(&mut self) -> impl Iterator<Item = &mut Attention> {
        let blocks = self.transformers_mut().flat_map(|t| &mut t.transformer_blocks);
        blocks.map(|block| &mut block.attn2)
    }

    /// What it was built from.
    pub fn config(&self) -> &UNet2DConditionModelConfig {
        &self.config
    }

    /// The embedding of timesteps and added conditions.
    fn embed(
        &self,
        timesteps: &[f64],
        added: Option<&AddedConditions>,
        like: &Tensor,
    ) -> Result<Tensor> {
        let width = self.config.block_out_channels[0];
        let sinusoids = sinusoid(timesteps, width, like.device())?.to_dtype(like.dtype())?;
        let embedding = self.time_embedding.forward(&sinusoids)?;
        tap("time_embedding", &embedding);
        let Some(add_embedding) = &self.add_embedding else {
            return Ok(embedding);
        };
        let Some(added) = added else {
            candle_core::bail!("this UNet needs text_embeds and time_ids")
        };
        let (b, k) = added.time_ids.dims2()?;
        let ids = added.time_ids.to_dtype(candle_core::DType::F64)?.flatten_all()?;
        let width = self.config.addition_time_embed_dim.unwrap_or_default();
        let ids = sinusoid(&ids.to_vec1::<f64>()?, width, like.device())?;
        let ids = ids.reshape((b, k * width))?.to_dtype(like.dtype())?;
        let added = add_embedding.forward(&Tensor::cat(&[&added.text_embeds, &ids], 1)?)?;
        tap("add_embedding", &added);
        embedding + added
    }

    /// # Shapes
    /// `sample` `(b, in_channels, h, w)`, `timesteps` b values → `(b, out_channels, h, w)`.
    pub fn forward(
        &self,
        sample: &Tensor,
        timesteps: &[f64],
        conditions: &UNetConditions,
    ) -> Result<Tensor> {
        let embedding = self.embed(timesteps, conditions.added.as_ref(), sample)?;
        let temb = ops::silu(&embedding)?; // every resnet would do it again
        let context = &conditions.context;
        let mut hidden = self.conv_in.forward(&to_channels_last(sample)?)?;
        tap("conv_in", &nchw(&hidden)?);
        let mut skips = vec![hidden.clone()];
        for block in &self.down_blocks {
            hidden = block.forward(&hidden, &temb, context, &mut skips)?;
        }
        hidden = self.mid_block.forward(&hidden, &temb, context)?;
        for block in &self.up_blocks {
            hidden = block.forward(&hidden, &temb, context, &mut skips)?;
        }
        let hidden = self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden)?)?;
        to_channels_first(&hidden)
    }
}

impl UNet2DConditionModelConfig {
    /// Width of what `add_embedding` takes.
    fn add_embedding_width(&self) -> std::result::Result<usize, DiffusionError> {
        let stated = (self.addition_time_embed_dim, self.projection_class_embeddings_input_dim);
        match stated {
            (Some(_), Some(width)) => Ok(width),
            _ if !self.has_text_time() => Ok(0),
            _ => Err(DiffusionError::Unsupported {
                component: "UNet2DConditionModel",
                key: "addition_embed_type",
                value: "text_time without its two widths".into(),
            }),
        }
    }
}

/// A UNet with its conditions: the plainest [`NoisePredictor`].
pub struct ConditionedUNet<'a> {
    /// The model.
    pub unet: &'a UNet2DConditionModel,
    /// As many items as the samples will have.
    pub conditions: UNetConditions,
}

impl NoisePredictor for ConditionedUNet<'_> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        self.unet.forward(sample, &vec![timestep; sample.dim(0)?], &self.conditions)
    }
}
