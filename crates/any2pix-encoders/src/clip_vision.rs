//! CLIPVisionModel and CLIPVisionModelWithProjection, and how a picture becomes their input.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::ops::Mask;
use any2pix_nn::{Conv2d, Embedding, LayerNorm, Linear};
use candle_core::{Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use image::RgbImage;
use serde::Deserialize;

use crate::clip_layer::{Activation, Encoder, LayerConfig, class_names, default_eps, projection};
use crate::error::EncoderError;
use crate::resize::{Filter, center_crop_floor, resize_short_side};

/// Mean of CLIP's training pictures, for each of R, G, B.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of the same.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A picture's values as fractions of white, less `mean`, divided by `std`.
///
/// # Shapes
/// → `(3, h, w)`, f32.
pub fn normalised(picture: &RgbImage, mean: [f32; 3], std: [f32; 3]) -> Result<Tensor> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut values = Vec::with_capacity(3 * width * height);
    for (channel, (mean, std)) in mean.into_iter().zip(std).enumerate() {
        values.extend(picture.pixels().map(|p| (f32::from(p.0[channel]) / 255.0 - mean) / std));
    }
    Tensor::from_vec(values, (3, height, width), &Device::Cpu)
}

/// `config.json` of a CLIP vision encoder, or the part `vision_config` of a whole CLIP's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClipVisionConfig {
    /// Width.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Side of the pictures.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Colours of a picture.
    #[serde(default = "default_channels")]
    pub num_channels: usize,
    /// The MLP's activation.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Width of `image_embeds`.
    #[serde(default)]
    pub projection_dim: usize,
    /// Of the layer norms.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    /// Class names; one of them says whether there is a projection.
    #[serde(default, deserialize_with = "class_names")]
    pub architectures: Vec<String>,
}

fn default_channels() -> usize {
    3
}

impl ClipVisionConfig {
    fn layer(&self) -> LayerConfig {
        LayerConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            eps: self.layer_norm_eps,
            mask: Mask::None,
        }
    }
}

/// What a vision encoder gives.
#[derive(Clone, Debug)]
pub struct ClipVisionOutput {
    /// `(b, n, hidden)` each: before the first layer, then after every layer.
    pub hidden_states: Vec<Tensor>,
    /// `(b, n, hidden)`: the last of them; without the final norm.
    pub last_hidden_state: Tensor,
    /// `(b, hidden)`: the class token after the final norm.
    pub pooler_output: Tensor,
    /// `(b, projection_dim)`: projected, when the model has a projection.
    pub image_embeds: Option<Tensor>,
}

/// Picture → tokens of its patches and of the whole.
#[derive(Clone, Debug)]
pub struct ClipVisionModel {
    class_embedding: Tensor,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
    pre_layrnorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    visual_projection: Option<Linear>,
}

impl ClipVisionModel {
    /// Builds what `architectures` names.
    pub fn load(vb: VarBuilder, config: &ClipVisionConfig) -> Result<Self> {
        let ClipVisionConfig { image_size, patch_size, .. } = *config;
        if patch_size == 0 || image_size < patch_size {
            candle_core::bail!("pictures of {image_size} have no patches of {patch_size}");
        }
        let (dim, eps, model) = (config.hidden_size, config.layer_norm_eps, vb.pp("vision_model"));
        let embeddings = model.pp("embeddings");
        let kind = (&config.architectures[..], "CLIPVisionModelWithProjection");
        let visual_projection =
            projection(vb.pp("visual_projection"), kind, (dim, config.projection_dim))?;
        let patches = (image_size / patch_size).pow(2);
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            class_embedding: embeddings.get_with_hints(dim, "class_embedding", small)?,
            patch_embedding: Conv2d::load_no_bias(
                embeddings.pp("patch_embedding"),
                config.num_channels,
                dim,
                Conv2dConfig { kernel: patch_size, stride: patch_size, padding: 0 },
            )?,
            position_embedding: Embedding::load(
                embeddings.pp("position_embedding"),
                patches + 1,
                dim,
            )?,
            // Spelt so by its authors.
            pre_layrnorm: LayerNorm::load(model.pp("pre_layrnorm"), dim, eps)?,
            encoder: Encoder::load(model.pp("encoder"), config.num_hidden_layers, config.layer())?,
            post_layernorm: LayerNorm::load(model.pp("post_layernorm"), dim, eps)?,
            visual_projection,
        })
    }

    /// # Shapes
    /// `pixel_values` `(b, 3, image_size, image_size)`, normalised.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<ClipVisionOutput> {
        let pixels = pixel_values.permute((0, 2, 3, 1))?.contiguous()?;
        let patches = self.patch_embedding.forward(&pixels)?;
        let (batch, rows, columns, dim) = patches.dims4()?;
        let patches = patches.reshape((batch, rows * columns, dim))?;
        let class = self.class_embedding.broadcast_as((batch, 1, dim))?;
        let tokens =
            Tensor::cat(&[&class, &patches], 1)?.broadcast_add(self.position_embedding.weight())?;
        let (hidden_states, last_hidden_state) =
            self.encoder.forward(self.pre_layrnorm.forward(&tokens)?)?;
        let class = last_hidden_state.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let pooler_output = self.post_layernorm.forward(&class)?;
        let image_embeds = match &self.visual_projection {
            Some(projection) => Some(projection.forward(&pooler_output)?),
            None => None,
        };
        Ok(ClipVisionOutput { hidden_states, last_hidden_state, pooler_output, image_embeds })
    }
}

/// A side, as old files write it, or an object of sides.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Side {
    Number(u32),
    Short { shortest_edge: u32 },
    Square { height: u32, width: u32 },
}

impl Side {
    fn value(self) -> Option<u32> {
        match self {
            Self::Number(side) | Self::Short { shortest_edge: side } => Some(side),
            Self::Square { height, width } => (height == width).then_some(height),
        }
    }
}

/// `preprocessor_config.json` as it is written.
#[derive(Deserialize)]
struct ProcessorFile {
    size: Side,
    crop_size: Side,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    #[serde(default = "bicubic")]
    resample: u32,
}

/// Pillow's number of the bicubic filter.
const BICUBIC: u32 = 3;

fn bicubic() -> u32 {
    BICUBIC
}

/// CLIPImageProcessor: short side, middle square, normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipImageProcessor {
    short_side: u32,
    crop: u32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl ClipImageProcessor {
    /// CLIP's own numbers at this side.
    pub fn of_side(side: u32) -> Self {
        Self { short_side: side, crop: side, mean: CLIP_MEAN, std: CLIP_STD }
    }

    /// What a `preprocessor_config.json` says.
    pub fn from_json(json: &str) -> std::result::Result<Self, EncoderError> {
        let refused = |reason: String| EncoderError::Config { component: "CLIP pictures", reason };
        let file: ProcessorFile = serde_json::from_str(json).map_err(|e| refused(e.to_string()))?;
        let (Some(short_side), Some(crop)) = (file.size.value(), file.crop_size.value()) else {
            return Err(refused("size and crop_size must be squares".to_string()));
        };
        if crop == 0 || crop > short_side {
            return Err(refused(format!("{crop} cannot be cut out of {short_side}")));
        }
        if file.resample != BICUBIC {
            return Err(refused(format!("resample {} is not bicubic (3)", file.resample)));
        }
        Ok(Self { short_side, crop, mean: file.image_mean, std: file.image_std })
    }

    /// # Shapes
    /// → `(3, crop, crop)`, f32.
    pub fn apply(&self, picture: &RgbImage) -> Result<Tensor> {
        let resized = resize_short_side(picture, self.short_side, Filter::Bicubic);
        let square = center_crop_floor(&resized, (self.crop, self.crop));
        normalised(&square, self.mean, self.std)
    }

    /// Subtracted from and dividing the fractions of white.
    pub fn mean_and_std(&self) -> ([f32; 3], [f32; 3]) {
        (self.mean, self.std)
    }

    /// Side of what the encoder sees.
    pub fn side(&self) -> u32 {
        self.crop
    }
}
