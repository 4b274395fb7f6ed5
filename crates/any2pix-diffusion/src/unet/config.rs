//! `UNet2DConditionModelConfig`: config.json of a UNet, with upstream's keys.

use serde::{Deserialize, Serialize};

use crate::DiffusionError;

/// One number for all blocks, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerBlock {
    /// The same everywhere.
    All(usize),
    /// One for each down block.
    Each(Vec<usize>),
}

impl PerBlock {
    /// For down block `index`; the last one serves the mid block.
    pub fn at(&self, index: usize) -> usize {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values.get(index).or(values.last()).copied().unwrap_or(1),
        }
    }

    fn fits(&self, blocks: usize) -> bool {
        match self {
            Self::All(value) => *value > 0,
            Self::Each(values) => values.len() == blocks && values.iter().all(|v| *v > 0),
        }
    }
}

/// config.json of a `UNet2DConditionModel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct UNet2DConditionModelConfig {
    /// Channels of the sample.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Resnets in a down block; up blocks have one more.
    pub layers_per_block: usize,
    /// `DownBlock2D` or `CrossAttnDownBlock2D`, one for each block.
    pub down_block_types: Vec<String>,
    /// `UpBlock2D` or `CrossAttnUpBlock2D`, one for each block.
    pub up_block_types: Vec<String>,
    /// Only `UNetMidBlock2DCrossAttn`.
    pub mid_block_type: String,
    /// Number of attention heads: upstream's key is misnamed.
    pub attention_head_dim: PerBlock,
    /// Number of attention heads, when upstream states it under its right name.
    pub num_attention_heads: Option<PerBlock>,
    /// Width of the context tokens.
    pub cross_attention_dim: usize,
    /// Transformer blocks of an attention.
    pub transformer_layers_per_block: PerBlock,
    /// Whether attentions project with linear layers, not 1×1 convolutions.
    pub use_linear_projection: bool,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// ε of the group norms in resnets and at the end.
    pub norm_eps: f64,
    /// `text_time`, or nothing.
    pub addition_embed_type: Option<String>,
    /// Width of the sinusoid of each time id.
    pub addition_time_embed_dim: Option<usize>,
    /// Width of pooled text and embedded time ids together.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Must be true.
    pub flip_sin_to_cos: bool,
    /// Must be 0.
    pub freq_shift: f64,
    /// Must be 1.
    pub mid_block_scale_factor: f64,
    /// Padding of the downsamplers' convolution.
    pub downsample_padding: usize,
    /// Latent positions a side that the model was trained on.
    pub sample_size: Option<usize>,
}

impl Default for UNet2DConditionModelConfig {
    fn default() -> Self {
        let cross = |kind: &str| format!("CrossAttn{kind}Block2D");
        let down = vec![cross("Down"), cross("Down"), cross("Down"), "DownBlock2D".into()];
        let up = vec!["UpBlock2D".into(), cross("Up"), cross("Up"), cross("Up")];
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            down_block_types: down,
            up_block_types: up,
            mid_block_type: "UNetMidBlock2DCrossAttn".into(),
            attention_head_dim: PerBlock::All(8),
            num_attention_heads: None,
            cross_attention_dim: 1280,
            transformer_layers_per_block: PerBlock::All(1),
            use_linear_projection: false,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            sample_size: None,
        }
    }
}

impl UNet2DConditionModelConfig {
    /// Attention heads of down block `index`.
    pub fn heads(&self, index: usize) -> usize {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).at(index)
    }

    /// Width of the timestep embedding.
    pub fn time_embed_dim(&self) -> usize {
        4 * self.block_out_channels.first().copied().unwrap_or_default()
    }

    /// Whether pooled text and time ids are needed.
    pub fn has_text_time(&self) -> bool {
        self.addition_embed_type.as_deref() == Some("text_time")
    }

    /// Refuses what the class does not do, before any tensor is asked for.
    pub fn check(&self) -> Result<(), DiffusionError> {
        let blocks = self.block_out_channels.len();
        let known = |types: &[String], known: [&str; 2]| {
            types.len() == blocks && types.iter().all(|t| known.contains(&t.as_str()))
        };
        let heads = self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim);
        let groups = self.norm_num_groups;
        let defect = if blocks == 0 || self.layers_per_block == 0 {
            ("block_out_channels", format!("{:?}", self.block_out_channels))
        } else if !known(&self.down_block_types, ["DownBlock2D", "CrossAttnDownBlock2D"]) {
            ("down_block_types", format!("{:?}", self.down_block_types))
        } else if !known(&self.up_block_types, ["UpBlock2D", "CrossAttnUpBlock2D"]) {
            ("up_block_types", format!("{:?}", self.up_block_types))
        } else if self.mid_block_type != "UNetMidBlock2DCrossAttn" {
            ("mid_block_type", self.mid_block_type.clone())
        } else if groups == 0 || self.block_out_channels.iter().any(|c| c % groups != 0) {
            ("norm_num_groups", groups.to_string())
        } else if !heads.fits(blocks) {
            ("attention_head_dim", format!("{heads:?}"))
        } else if !self.transformer_layers_per_block.fits(blocks) {
            ("transformer_layers_per_block", format!("{:?}", self.transformer_layers_per_block))
        } else if !(self.addition_embed_type.is_none() || self.has_text_time()) {
            ("addition_embed_type", format!("{:?}", self.addition_embed_type))
        } else if !self.flip_sin_to_cos || self.freq_shift != 0.0 {
            ("flip_sin_to_cos", format!("{} with shift {}", self.flip_sin_to_cos, self.freq_shift))
        } else if self.mid_block_scale_factor != 1.0 {
            ("mid_block_scale_factor", self.mid_block_scale_factor.to_string())
        } else {
            return Ok(());
        };
        let (key, value) = defect;
        Err(DiffusionError::Unsupported { component: "UNet2DConditionModel", key, value })
    }
}
