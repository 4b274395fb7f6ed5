//! CLIPModel: a text tower and a vision tower that put their embeddings into one space.

use candle_core::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::Deserialize;

use crate::clip_text::{ClipTextConfig, ClipTextModel};
use crate::clip_vision::{ClipVisionConfig, ClipVisionModel, ClipVisionOutput};

/// Tensors of published files that hold no weights.
pub const IGNORED: &[&str] =
    &["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"];

/// `config.json` of a CLIP.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClipConfig {
    /// Width of the common space.
    pub projection_dim: usize,
    /// The tower that reads.
    pub text_config: ClipTextConfig,
    /// The tower that sees.
    pub vision_config: ClipVisionConfig,
}

/// Texts and pictures → embeddings that can be compared.
#[derive(Clone, Debug)]
pub struct ClipModel {
    text: ClipTextModel,
    vision: ClipVisionModel,
    logit_scale: Tensor,
}

impl ClipModel {
    /// Both towers with their projections, whatever the parts of the config call themselves.
    pub fn load(vb: VarBuilder, config: &ClipConfig) -> Result<Self> {
        let projection_dim = config.projection_dim;
        let text = ClipTextConfig {
            projection_dim,
            architectures: vec!["CLIPTextModelWithProjection".to_string()],
            ..config.text_config.clone()
        };
        let vision = ClipVisionConfig {
            projection_dim,
            architectures: vec!["CLIPVisionModelWithProjection".to_string()],
            ..config.vision_config.clone()
        };
        Ok(Self {
            text: ClipTextModel::load(vb.clone(), &text)?,
            vision: ClipVisionModel::load(vb.clone(), &vision)?,
            logit_scale: vb.get_with_hints((), "logit_scale", Init::Const(1.0))?,
        })
    }

    /// # Shapes
    /// `ids` `(b, n)`, u32 or i64 → `(b, projection_dim)`, of any length.
    pub fn text_features(&self, ids: &Tensor) -> Result<Tensor> {
        match self.text.forward(ids)?.text_embeds {
            Some(embeds) => Ok(embeds),
            None => candle_core::bail!("the text tower has no projection"),
        }
    }

    /// # Shapes
    /// `pixel_values` `(b, 3, image_size, image_size)` → `(b, projection_dim)`, of any length.
    pub fn image_features(&self, pixel_values: &Tensor) -> Result<Tensor> {
        match self.vision(pixel_values)?.image_embeds {
            Some(embeds) => Ok(embeds),
            None => candle_core::bail!("the vision tower has no projection"),
        }
    }

    /// Everything that the vision tower says.
    ///
    /// # Shapes
    /// `pixel_values` `(b, 3, image_size, image_size)`.
    pub fn vision(&self, pixel_values: &Tensor) -> Result<ClipVisionOutput> {
        self.vision.forward(pixel_values)
    }

    /// What cosines are multiplied with before they are compared.
    pub fn logit_scale(&self) -> Result<f32> {
        self.logit_scale.exp()?.to_scalar()
    }
}

/// Features of length 1.
///
/// # Shapes
/// `(.., d)` → the same.
pub fn unit(features: &Tensor) -> Result<Tensor> {
    features.broadcast_div(&features.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
