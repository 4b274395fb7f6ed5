//! `ObjectClassifier`: which concept a crop shows, or nothing, and whether two crops show the same
//! thing; trained apart from what it judges.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm, Linear};
use candle_core::Result;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::convnet::{Stage, StageConfig, pixels, space_to_depth};
use crate::resize::{Filter, resize};

/// Sizes of an [`ObjectClassifier`] and the names of its classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeConfig {
    /// Side of the crop, pixels.
    pub sample_size: usize,
    /// Pixels per cell and axis at the first stage.
    pub patch_size: usize,
    /// Channels of the stages; each halves the resolution of the one before.
    pub block_out_channels: Vec<usize>,
    /// Blocks of a stage.
    pub layers_per_block: usize,
    /// Width of the space in which pictures of one thing are near to each other.
    pub likeness_dim: usize,
    /// Names of the concepts, in the order of the logits; "nothing" follows them.
    pub concepts: Vec<String>,
}

/// A small residual network.
#[derive(Clone, Debug)]
pub struct ObjectClassifier {
    conv_in: Conv2d,
    stages: Vec<Stage>,
    norm_out: GroupNorm,
    head: Linear,
    likeness: Linear,
    config: JudgeConfig,
}

/// What a judge says of crops.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// `(b, concepts + 1)`: unnormalised log-probabilities of the concepts and of nothing.
    pub logits: Tensor,
    /// `(b, likeness_dim)`, of length 1: near to those of other pictures of the same thing.
    pub likeness: Tensor,
}

impl ObjectClassifier {
    /// Builds the model.
    pub fn load(vb: VarBuilder, config: &JudgeConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (Some(&first), Some(&last)) = (channels.first(), channels.last()) else {
            candle_core::bail!("block_out_channels must name at least one stage");
        };
        let stem = 3 * config.patch_size * config.patch_size;
        let mut stages = Vec::new();
        for (i, &out_channels) in channels.iter().enumerate() {
            let stage = StageConfig {
                in_channels: if i == 0 { first } else { channels[i - 1] },
                out_channels,
                blocks: config.layers_per_block,
                down: i > 0,
            };
            stages.push(Stage::load(vb.pp(format!("down_blocks.{i}")), stage)?);
        }
        let cells = (config.sample_size / config.patch_size.max(1)) >> (channels.len() - 1);
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), stem, first, Conv2dConfig::K3)?,
            stages,
            norm_out: GroupNorm::load(vb.pp("norm_out"), 8, last, 1e-5)?,
            head: Linear::load(vb.pp("head"), last, config.concepts.len() + 1)?,
            likeness: Linear::load(vb.pp("likeness"), last * cells * cells, config.likeness_dim)?,
            config: config.clone(),
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &JudgeConfig {
        &self.config
    }

    /// The class that stands for "none of the concepts".
    pub fn nothing(&self) -> usize {
        self.config.concepts.len()
    }

    /// # Shapes
    /// `(b, 3, sample_size, sample_size)` in ±1.
    pub fn forward(&self, crops: &Tensor) -> Result<Verdict> {
        let mut x = self.conv_in.forward(&space_to_depth(crops, self.config.patch_size)?)?;
        for stage in &self.stages {
            x = stage.forward(&x)?;
        }
        let features = self.norm_out.forward_silu(&x)?;
        let (b, h, w, c) = features.dims4()?;
        let logits = self.head.forward(&features.reshape((b, h * w, c))?.mean(1)?)?;
        let likeness = self.likeness.forward(&features.reshape((b, h * w * c))?)?;
        let length = (likeness.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?;
        Ok(Verdict { logits, likeness: likeness.broadcast_div(&length)? })
    }

    /// What it says of crops of any size; at least one.
    pub fn look(&self, crops: &[RgbImage]) -> Result<Verdict> {
        let side = self.config.sample_size as u32;
        let inputs = crops
            .iter()
            .map(|crop| pixels(&resize(crop, (side, side), Filter::Bicubic)))
            .collect::<Result<Vec<Tensor>>>()?;
        self.forward(&Tensor::stack(&inputs, 0)?)
    }
}

/// What the judge is shown of a thing in a picture: a square around its box, a quarter larger
/// than the box's longer side; beyond the picture's border its edge is repeated.
///
/// `bbox` is centre x and y, width and height, in parts of the picture's sides.
pub fn crop_around(picture: &RgbImage, bbox: [f32; 4]) -> RgbImage {
    const MARGIN: f32 = 1.25;
    let (width, height) = (picture.width() as f32, picture.height() as f32);
    let side = (MARGIN * (bbox[2] * width).max(bbox[3] * height)).round().max(4.0);
    let (left, top) = (bbox[0] * width - side * 0.5, bbox[1] * height - side * 0.5);
    let at = |start: f32, offset: u32, length: u32| {
        (start + offset as f32).round().clamp(0.0, length.saturating_sub(1) as f32) as u32
    };
    RgbImage::from_fn(side as u32, side as u32, |x, y| {
        *picture.get_pixel(at(left, x, picture.width()), at(top, y, picture.height()))
    })
}
