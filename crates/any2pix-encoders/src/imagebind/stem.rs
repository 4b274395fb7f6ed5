//! `ConvStem`: patches by small convolutions, for towers that learn from few examples.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::convnet::{DOWN, Stage, StageConfig};

/// What the first convolution takes together.
const PATCH: usize = 4;
const PATCHES: Conv2dConfig = Conv2dConfig { kernel: PATCH, stride: PATCH, padding: 0 };
const EPS: f64 = 1e-5;

/// The published stems are one convolution as large as a patch. A transformer behind such a stem
/// needs many more examples than ours has before it sees anything ("Early Convolutions Help
/// Transformers See Better", Xiao et al. 2021); this one takes 4×4 pixels together and then halves
/// the resolution step by step.
#[derive(Clone, Debug)]
pub(super) struct ConvStem {
    conv_in: Conv2d,
    stages: Vec<Stage>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl ConvStem {
    /// Patches of the first of `channels`, a halving into each of the others and into
    /// `out_channels`.
    pub(super) fn load(
        vb: VarBuilder,
        in_channels: usize,
        channels: &[usize],
        out_channels: usize,
    ) -> Result<Self> {
        let (Some(&first), Some(&last)) = (channels.first(), channels.last()) else {
            candle_core::bail!("a convolutional stem needs channels");
        };
        let stages = channels.iter().enumerate().map(|(i, &channels_of)| {
            let before = if i == 0 { first } else { channels[i - 1] };
            let config = StageConfig {
                in_channels: before,
                out_channels: channels_of,
                blocks: 1,
                down: i > 0,
            };
            Stage::load(vb.pp(format!("stages.{i}")), config)
        });
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), in_channels, first, PATCHES)?,
            stages: stages.collect::<Result<_>>()?,
            norm_out: GroupNorm::load(vb.pp("norm_out"), 8, last, EPS)?,
            conv_out: Conv2d::load(vb.pp("conv_out"), last, out_channels, DOWN)?,
        })
    }

    /// Positions along an axis of `length` after all halvings.
    pub(super) fn positions(channels: &[usize], length: usize) -> usize {
        channels.iter().fold(length / PATCH, |length, _| length.div_ceil(2))
    }

    /// # Shapes
    /// `(b, h, w, in)` → `(b, h', w', out)`.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(pixels)?;
        for stage in &self.stages {
            x = stage.forward(&x)?;
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

#[cfg(test)]
mod tests {
    use any2pix_nn::{Generator, Parameters};
    use candle_core::Device;

    use super::*;

    #[test]
    fn positions_are_those_of_the_output_and_all_weights_learn() {
        let (parameters, channels) = (Parameters::new(1), [8, 16]);
        let stem = ConvStem::load(parameters.builder(&Device::Cpu), 1, &channels, 24).unwrap();
        let pixels = Generator::new(2).randn((2, 32, 51, 1), &Device::Cpu).unwrap();
        let patches = stem.forward(&pixels).unwrap();
        let along = |length| ConvStem::positions(&channels, length);
        assert_eq!(patches.dims(), [2, along(32), along(51), 24]);
        let gradients = patches.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in parameters.named() {
            assert!(gradients.get(&var).is_some(), "{name} has no gradient");
        }
    }
}
