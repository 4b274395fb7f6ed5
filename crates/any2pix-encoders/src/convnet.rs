//! The residual convolution block that the locator and the judge are made of.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm, Linear, ops};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

const GROUPS: usize = 8;
const EPS: f64 = 1e-5;

/// Halves the resolution.
pub(crate) const DOWN: Conv2dConfig = Conv2dConfig { kernel: 3, stride: 2, padding: 1 };

/// Norm, SiLU, convolution, twice, around a shortcut; a condition scales and shifts between them.
#[derive(Clone, Debug)]
pub(crate) struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    film: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResBlock {
    /// `condition` is the width of the condition, or 0 for a block without one.
    pub(crate) fn load(
        vb: VarBuilder,
        in_channels: usize,
        out_channels: usize,
        condition: usize,
    ) -> Result<Self> {
        let film = match condition {
            0 => None,
            width => Some(Linear::load_zero(vb.pp("film"), width, 2 * out_channels)?),
        };
        let shortcut = if in_channels == out_channels {
            None
        } else {
            Some(Conv2d::load(vb.pp("shortcut"), in_channels, out_channels, Conv2dConfig::K1)?)
        };
        let k3 = Conv2dConfig::K3;
        Ok(Self {
            norm1: GroupNorm::load(vb.pp("norm1"), GROUPS, in_channels, EPS)?,
            conv1: Conv2d::load(vb.pp("conv1"), in_channels, out_channels, k3)?,
            film,
            norm2: GroupNorm::load(vb.pp("norm2"), GROUPS, out_channels, EPS)?,
            conv2: Conv2d::load_zero(vb.pp("conv2"), out_channels, out_channels, k3)?,
            shortcut,
        })
    }

    /// # Shapes
    /// `x` `(b, h, w, in)`, `condition` `(b, width)` → `(b, h, w, out)`.
    pub(crate) fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        h = match (&self.film, condition) {
            (Some(film), Some(condition)) => {
                ops::modulate(&self.norm2.forward(&h)?, &film.forward(condition)?, true)?
            }
            _ => self.norm2.forward_silu(&h)?,
        };
        let h = self.conv2.forward(&h)?;
        match &self.shortcut {
            Some(shortcut) => ops::add(&shortcut.forward(x)?, &h),
            None => ops::add(x, &h),
        }
    }
}

/// Blocks of one resolution; all but the first stage begin by halving it.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    down: Option<Conv2d>,
    blocks: Vec<ResBlock>,
}

/// Size of a [`Stage`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct StageConfig {
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) blocks: usize,
    pub(crate) down: bool,
}

impl Stage {
    pub(crate) fn load(vb: VarBuilder, config: StageConfig) -> Result<Self> {
        let StageConfig { in_channels, out_channels, blocks, down } = config;
        let down = if down {
            Some(Conv2d::load(vb.pp("down"), in_channels, out_channels, DOWN)?)
        } else {
            None
        };
        let first = if down.is_some() { out_channels } else { in_channels };
        let blocks = (0..blocks)
            .map(|i| {
                let channels = if i == 0 { first } else { out_channels };
                ResBlock::load(vb.pp(format!("blocks.{i}")), channels, out_channels, 0)
            })
            .collect::<Result<_>>()?;
        Ok(Self { down, blocks })
    }

    /// # Shapes
    /// `x` `(b, h, w, in)` → `(b, h, w, out)`, or half of h and w.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = match &self.down {
            Some(down) => down.forward(x)?,
            None => x.clone(),
        };
        for block in &self.blocks {
            x = block.forward(&x, None)?;
        }
        Ok(x)
    }
}

/// Moves blocks of `factor`×`factor` positions into channels.
///
/// # Shapes
/// `(b, 3, h, w)` → `(b, h/factor, w/factor, 3·factor²)`.
pub(crate) fn space_to_depth(pictures: &Tensor, factor: usize) -> Result<Tensor> {
    let (b, c, h, w) = pictures.dims4()?;
    let (rows, columns) = (h / factor, w / factor);
    pictures
        .reshape((b, c, rows, factor, columns, factor))?
        .permute(vec![0, 2, 4, 3, 5, 1])?
        .contiguous()?
        .reshape((b, rows, columns, c * factor * factor))
}

/// Values of a picture as the networks of this project take them: -1 black, 1 white.
///
/// # Shapes
/// → `(3, h, w)`, f32.
pub fn pixels(picture: &image::RgbImage) -> Result<Tensor> {
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    let values: Vec<f32> = picture.as_raw().iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
    Tensor::from_vec(values, (h, w, 3), &candle_core::Device::Cpu)?.permute((2, 0, 1))?.contiguous()
}
