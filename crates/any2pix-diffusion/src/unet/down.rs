//! `DownBlock2D` and `CrossAttnDownBlock2D`: one class, with or without attentions.

use any2pix_nn::tap::tap;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::resnet::{Downsample2D, ResnetBlock2D, ResnetConfig};
use super::transformer_2d::{Context, Transformer2DModel, TransformerConfig};
use super::{UNet2DConditionModelConfig, nchw};

/// Resnets, each with an attention behind it where the type has them, then a downsampler.
#[derive(Clone, Debug)]
pub(super) struct DownBlock2D {
    pub(super) resnets: Vec<ResnetBlock2D>,
    /// One for each resnet, or none.
    pub(super) attentions: Vec<Transformer2DModel>,
    downsampler: Option<Downsample2D>,
    name: String,
}

impl DownBlock2D {
    /// Block `index` of `config`.
    pub(super) fn load(
        vb: VarBuilder,
        config: &UNet2DConditionModelConfig,
        index: usize,
    ) -> Result<Self> {
        let channels = &config.block_out_channels;
        let width = channels[index];
        let first = channels[index.saturating_sub(1)];
        let resnet = |i: usize| ResnetConfig {
            in_channels: if i == 0 { first } else { width },
            out_channels: width,
            temb_channels: Some(config.time_embed_dim()),
            groups: config.norm_num_groups,
            eps: config.norm_eps,
        };
        let attention = config.transformer(width, index);
        let attentions = match config.down_block_types[index] == "CrossAttnDownBlock2D" {
            true => config.layers_per_block,
            false => 0,
        };
        let downsampler = (index + 1 < channels.len())
            .then(|| Downsample2D::load(vb.pp("downsamplers.0"), width, config.downsample_padding))
            .transpose()?;
        Ok(Self {
            resnets: (0..config.layers_per_block)
                .map(|i| ResnetBlock2D::load(vb.pp("resnets").pp(i), &resnet(i)))
                .collect::<Result<_>>()?,
            attentions: (0..attentions)
                .map(|i| Transformer2DModel::load(vb.pp("attentions").pp(i), &attention))
                .collect::<Result<_>>()?,
            downsampler,
            name: format!("down{index}"),
        })
    }

    /// Every state that the up path will want is pushed to `skips`.
    ///
    /// # Shapes
    /// `hidden_states` `(b, h, w, c)` → `(b, h/2, w/2, c')`, or `(b, h, w, c')` in the last block.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        temb: &Tensor,
        context: &Context,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut hidden = hidden_states.clone();
        for (i, resnet) in self.resnets.iter().enumerate() {
            hidden = resnet.forward(&hidden, Some(temb))?;
            tap(&format!("{}_resnet{i}", self.name), &nchw(&hidden)?);
            if let Some(attention) = self.attentions.get(i) {
                hidden = attention.forward(&hidden, context)?;
                tap(&format!("{}_attn{i}", self.name), &nchw(&hidden)?);
            }
            skips.push(hidden.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            hidden = downsampler.forward(&hidden)?;
            skips.push(hidden.clone());
        }
        tap(&self.name, &nchw(&hidden)?);
        Ok(hidden)
    }
}

impl UNet2DConditionModelConfig {
    /// The attention of `width` channels at the depth of down block `index`.
    pub(super) fn transformer(&self, width: usize, index: usize) -> TransformerConfig {
        TransformerConfig {
            width,
            cross_attention_dim: self.cross_attention_dim,
            heads: self.heads(index),
            layers: self.transformer_layers_per_block.at(index),
            groups: self.norm_num_groups,
            use_linear_projection: self.use_linear_projection,
        }
    }
}
