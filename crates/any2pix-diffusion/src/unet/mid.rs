//! `UNetMidBlock2DCrossAttn`: resnet, attention, resnet.

use any2pix_nn::tap::tap;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::resnet::{ResnetBlock2D, ResnetConfig};
use super::transformer_2d::{Context, Transformer2DModel};
use super::{UNet2DConditionModelConfig, nchw};

/// The bottom of the UNet.
#[derive(Clone, Debug)]
pub(super) struct UNetMidBlock2DCrossAttn {
    pub(super) resnets: [ResnetBlock2D; 2],
    /// The one attention.
    pub(super) attention: Transformer2DModel,
}

impl UNetMidBlock2DCrossAttn {
    /// Builds the layers from `vb`.
    pub(super) fn load(vb: VarBuilder, config: &UNet2DConditionModelConfig) -> Result<Self> {
        let last = config.block_out_channels.len() - 1;
        let width = config.block_out_channels[last];
        let resnet = ResnetConfig {
            in_channels: width,
            out_channels: width,
            temb_channels: Some(config.time_embed_dim()),
            groups: config.norm_num_groups,
            eps: config.norm_eps,
        };
        let attention = config.transformer(width, last);
        Ok(Self {
            resnets: [
                ResnetBlock2D::load(vb.pp("resnets.0"), &resnet)?,
                ResnetBlock2D::load(vb.pp("resnets.1"), &resnet)?,
            ],
            attention: Transformer2DModel::load(vb.pp("attentions.0"), &attention)?,
        })
    }

    /// # Shapes
    /// `(b, h, w, c)` → the same.
    pub(super) fn forward(
        &self,
        hidden: &Tensor,
        temb: &Tensor,
        context: &Context,
    ) -> Result<Tensor> {
        let hidden = self.resnets[0].forward(hidden, Some(temb))?;
        let hidden = self.attention.forward(&hidden, context)?;
        let hidden = self.resnets[1].forward(&hidden, Some(temb))?;
        tap("mid", &nchw(&hidden)?);
        Ok(hidden)
    }
}
