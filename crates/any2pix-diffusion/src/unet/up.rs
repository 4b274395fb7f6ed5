//! `UpBlock2D` and `CrossAttnUpBlock2D`: one class, with or without attentions.

use any2pix_nn::ops;
use any2pix_nn::tap::tap;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::resnet::{ResnetBlock2D, ResnetConfig, Upsample2D};
use super::transformer_2d::{Context, Transformer2DModel};
use super::{UNet2DConditionModelConfig, nchw};

/// Resnets that each take one skip connection, attentions where the type has them, then an
/// upsampler.
#[derive(Clone, Debug)]
pub(super) struct UpBlock2D {
    pub(super) resnets: Vec<ResnetBlock2D>,
    /// One for each resnet, or none.
    pub(super) attentions: Vec<Transformer2DModel>,
    upsampler: Option<Upsample2D>,
    name: String,
}

impl UpBlock2D {
    /// Block `index` of `config`, counted from the bottom.
    pub(super) fn load(
        vb: VarBuilder,
        config: &UNet2DConditionModelConfig,
        index: usize,
    ) -> Result<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let width = channels[index];
        let before = channels[index.saturating_sub(1)];
        let below = channels[(index + 1).min(last)];
        let layers = config.layers_per_block + 1;
        let resnet = |i: usize| {
            let skip = if i + 1 == layers { below } else { width };
            ResnetConfig {
                in_channels: skip + if i == 0 { before } else { width },
                out_channels: width,
                temb_channels: Some(config.time_embed_dim()),
                groups: config.norm_num_groups,
                eps: config.norm_eps,
            }
        };
        let attention = config.transformer(width, last - index);
        let attentions = match config.up_block_types[index] == "CrossAttnUpBlock2D" {
            true => layers,
            false => 0,
        };
        let upsampler =
            (index < last).then(|| Upsample2D::load(vb.pp("upsamplers.0"), width)).transpose()?;
        Ok(Self {
            resnets: (0..layers)
                .map(|i| ResnetBlock2D::load(vb.pp("resnets").pp(i), &resnet(i)))
                .collect::<Result<_>>()?,
            attentions: (0..attentions)
                .map(|i| Transformer2DModel::load(vb.pp("attentions").pp(i), &attention))
                .collect::<Result<_>>()?,
            upsampler,
            name: format!("up{index}"),
        })
    }

    /// Takes from the end of `skips` what the down path left there.
    ///
    /// # Shapes
    /// `hidden_states` `(b, h, w, c)` → `(b, h', w', c')`, where `h'`, `w'` is the next skip's
    /// size, or `(b, h, w, c')` in the last block.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        temb: &Tensor,
        context: &Context,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut hidden = hidden_states.clone();
        for (i, resnet) in self.resnets.iter().enumerate() {
            let Some(skip) = skips.pop() else {
                candle_core::bail!("the UNet's down path left too few skip connections")
            };
            hidden = resnet.forward(&ops::concat_channels(&hidden, &skip)?, Some(temb))?;
            if let Some(attention) = self.attentions.get(i) {
                hidden = attention.forward(&hidden, context)?;
            }
        }
        if let Some(upsampler) = &self.upsampler {
            let size = match skips.last() {
                Some(skip) => Some((skip.dim(1)?, skip.dim(2)?)),
                None => None,
            };
            hidden = upsampler.forward(&hidden, size)?;
        }
        tap(&self.name, &nchw(&hidden)?);
        Ok(hidden)
    }
}
