//! `PatchCodec`: a small picture codec, linear on 8×8 patches plus a convolutional correction.
//!
//! The linear part is started as the principal components of patches, so that the codec works
//! before it is trained; the correction starts at zero.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm, Linear, ops};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::DiffusionError;
use crate::autoencoder::{Autoencoder, DiagonalGaussian, to_channels_first, to_channels_last};
use crate::unet::resnet::{ResnetBlock2D, ResnetConfig, Upsample2D};

/// Pixels a side of a patch that the correction's stem reads; half of a latent's patch.
const STEM: usize = 4;
/// Pixels a side of a latent's patch.
const PATCH: usize = 2 * STEM;

/// config.json of a `PatchCodec`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PatchCodecConfig {
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of the correction at a quarter and at an eighth of the size.
    pub block_out_channels: [usize; 2],
    /// Resnets at each of the two sizes.
    pub layers_per_block: usize,
    /// Groups of every norm.
    pub norm_num_groups: usize,
    /// What latents are multiplied with for the UNet.
    pub scaling_factor: f64,
}

/// Resnets of one width.
fn resnets(
    vb: VarBuilder,
    config: &PatchCodecConfig,
    channels: usize,
) -> Result<Vec<ResnetBlock2D>> {
    let groups = config.norm_num_groups;
    let (in_channels, out_channels) = (channels, channels);
    let resnet = ResnetConfig { in_channels, out_channels, temb_channels: None, groups, eps: 1e-6 };
    (0..config.layers_per_block).map(|i| ResnetBlock2D::load(vb.pp(i), &resnet)).collect()
}

fn through(resnets: &[ResnetBlock2D], x: Tensor) -> Result<Tensor> {
    resnets.iter().try_fold(x, |x, resnet| resnet.forward(&x, None))
}

/// Cuts a picture into patches.
///
/// # Shapes
/// `(b, h, w, c)` → `(b, h/size, w/size, size·size·c)`, the patch row by row.
pub fn patchify(x: &Tensor, size: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if h % size != 0 || w % size != 0 {
        candle_core::bail!("a picture of {w}x{h} does not divide into patches of {size}")
    }
    x.reshape((b, h / size, size, w / size, size * c))?.transpose(2, 3)?.contiguous()?.reshape((
        b,
        h / size,
        w / size,
        size * size * c,
    ))
}

/// Puts patches back together.
///
/// # Shapes
/// `(b, h, w, size·size·c)` → `(b, size·h, size·w, c)`.
pub fn unpatchify(x: &Tensor, size: usize) -> Result<Tensor> {
    let (b, h, w, n) = x.dims4()?;
    let c = n / (size * size);
    x.reshape((b, h, w, size, size * c))?.transpose(2, 3)?.contiguous()?.reshape((
        b,
        h * size,
        w * size,
        c,
    ))
}

/// Linear on patches, and a correction: stem, resnets, halving, resnets, a zero-started end.
#[derive(Clone, Debug)]
struct Encoder {
    linear: Linear,
    conv_in: Conv2d,
    fine: Vec<ResnetBlock2D>,
    downsample: Conv2d,
    coarse: Vec<ResnetBlock2D>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(vb: VarBuilder, config: &PatchCodecConfig) -> Result<Self> {
        let ([fine, coarse], k3) = (config.block_out_channels, Conv2dConfig::K3);
        let halving = Conv2dConfig { kernel: 3, stride: 2, padding: 1 };
        let moments = 2 * config.latent_channels;
        let groups = config.norm_num_groups;
        Ok(Self {
            linear: Linear::load(vb.pp("linear"), 3 * PATCH * PATCH, moments)?,
            conv_in: Conv2d::load(vb.pp("conv_in"), 3 * STEM * STEM, fine, k3)?,
            fine: resnets(vb.pp("fine"), config, fine)?,
            downsample: Conv2d::load(vb.pp("downsample"), fine, coarse, halving)?,
            coarse: resnets(vb.pp("coarse"), config, coarse)?,
            norm_out: GroupNorm::load(vb.pp("norm_out"), groups, coarse, 1e-6)?,
            conv_out: Conv2d::load_zero(vb.pp("conv_out"), coarse, moments, k3)?,
        })
    }

    fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let hidden = self.conv_in.forward(&patchify(image, STEM)?)?;
        let hidden = self.downsample.forward(&through(&self.fine, hidden)?)?;
        let hidden = self.norm_out.forward_silu(&through(&self.coarse, hidden)?)?;
        self.linear.forward(&patchify(image, PATCH)?)? + self.conv_out.forward(&hidden)?
    }
}

#[derive(Clone, Debug)]
struct Decoder {
    linear: Linear,
    conv_in: Conv2d,
    coarse: Vec<ResnetBlock2D>,
    narrow: Conv2d,
    upsample: Upsample2D,
    fine: Vec<ResnetBlock2D>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(vb: VarBuilder, config: &PatchCodecConfig) -> Result<Self> {
        let ([fine, coarse], k3) = (config.block_out_channels, Conv2dConfig::K3);
        let (channels, groups) = (config.latent_channels, config.norm_num_groups);
        Ok(Self {
            linear: Linear::load(vb.pp("linear"), channels, 3 * PATCH * PATCH)?,
            conv_in: Conv2d::load(vb.pp("conv_in"), channels, coarse, k3)?,
            coarse: resnets(vb.pp("coarse"), config, coarse)?,
            narrow: Conv2d::load(vb.pp("narrow"), coarse, fine, Conv2dConfig::K1)?,
            upsample: Upsample2D::load(vb.pp("upsample"), fine)?,
            fine: resnets(vb.pp("fine"), config, fine)?,
            norm_out: GroupNorm::load(vb.pp("norm_out"), groups, fine, 1e-6)?,
            conv_out: Conv2d::load_zero(vb.pp("conv_out"), fine, 3 * STEM * STEM, k3)?,
        })
    }

    fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let hidden = through(&self.coarse, self.conv_in.forward(latents)?)?;
        let hidden = self.upsample.forward(&self.narrow.forward(&hidden)?, None)?;
        let hidden = ops::silu(&hidden)?;
        let hidden = self.norm_out.forward_silu(&through(&self.fine, hidden)?)?;
        let correction = unpatchify(&self.conv_out.forward(&hidden)?, STEM)?;
        unpatchify(&self.linear.forward(latents)?, PATCH)? + correction
    }
}

/// The codec.
#[derive(Clone, Debug)]
pub struct PatchCodec {
    encoder: Encoder,
    decoder: Decoder,
    config: PatchCodecConfig,
}

impl PatchCodec {
    /// Builds the model from `vb`.
    pub fn load(
        vb: VarBuilder,
        config: &PatchCodecConfig,
    ) -> std::result::Result<Self, DiffusionError> {
        let groups = config.norm_num_groups;
        if groups == 0 || config.block_out_channels.iter().any(|c| c % groups != 0) {
            return Err(DiffusionError::Unsupported {
                component: "PatchCodec",
                key: "norm_num_groups",
                value: groups.to_string(),
            });
        }
        Ok(Self {
            encoder: Encoder::load(vb.pp("encoder"), config)?,
            decoder: Decoder::load(vb.pp("decoder"), config)?,
            config: config.clone(),
        })
    }
}

impl Autoencoder for PatchCodec {
    fn encode(&self, image: &Tensor) -> Result<DiagonalGaussian> {
        let moments = self.encoder.forward(&to_channels_last(image)?)?;
        DiagonalGaussian::from_moments(&to_channels_first(&moments)?)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        to_channels_first(&self.decoder.forward(&to_channels_last(latents)?)?)
    }

    fn scaling_factor(&self) -> f64 {
        self.config.scaling_factor
    }

    fn latent_channels(&self) -> usize {
        self.config.latent_channels
    }

    fn spatial_factor(&self) -> usize {
        PATCH
    }
}

#[cfg(test)]
mod tests {
    use any2pix_nn::{Generator, Parameters};
    use candle_core::Device;

    use super::*;

    #[test]
    fn patches_come_back() {
        let x = Generator::new(1).randn((2, 16, 24, 3), &Device::Cpu).unwrap();
        let patches = patchify(&x, 8).unwrap();
        assert_eq!(patches.dims(), [2, 2, 3, 192]);
        // the second row of the first patch starts where the picture's second row does
        let patch: Vec<f32> = patches.flatten_all().unwrap().to_vec1().unwrap();
        let picture: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(patch[24..27], picture[72..75]);
        let back = unpatchify(&patches, 8).unwrap();
        assert_eq!(picture, back.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }

    #[test]
    fn a_fresh_codec_is_its_linear_part() {
        let config = PatchCodecConfig {
            latent_channels: 4,
            block_out_channels: [8, 16],
            layers_per_block: 1,
            norm_num_groups: 4,
            scaling_factor: 1.0,
        };
        let parameters = Parameters::new(3);
        let codec = PatchCodec::load(parameters.builder(&Device::Cpu), &config).unwrap();
        let image = Generator::new(1).randn((1, 3, 16, 32), &Device::Cpu).unwrap();
        let latents = codec.encode(&image).unwrap().mean;
        assert_eq!(latents.dims(), [1, 4, 2, 4]);
        let linear = codec.decoder.linear.forward(&to_channels_last(&latents).unwrap()).unwrap();
        let expected = to_channels_first(&unpatchify(&linear, 8).unwrap()).unwrap();
        let difference = (codec.decode(&latents).unwrap() - expected).unwrap();
        assert!(crate::latents::norm(&difference).unwrap() < 1e-5);
    }
}
