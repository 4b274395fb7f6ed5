//! `ImageProjModel`: an embedding becomes image-prompt tokens for the UNet's cross-attention.

use any2pix_nn::{LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::DiffusionError;
use crate::latents::with_norm;
use crate::sdxl::TimeIds;
use crate::unet::{
    AddedConditions, Context, ImagePrompt, UNet2DConditionModel, UNet2DConditionModelConfig,
    UNetConditions,
};

/// The numbers of an [`ImageProjModel`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageProjModelConfig {
    /// Width of a token.
    pub cross_attention_dim: usize,
    /// Width of an embedding.
    pub clip_embeddings_dim: usize,
    /// Tokens of one embedding.
    #[serde(default = "four")]
    pub clip_extra_context_tokens: usize,
    /// Whether picture and subject have a learned vector each; stock adapters have none.
    #[serde(default = "yes")]
    pub raw_embed: bool,
}

fn yes() -> bool {
    true
}

fn four() -> usize {
    4
}

/// Which of the two embeddings become tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenMode {
    /// The whole picture's.
    Global,
    /// The subject's.
    Local,
    /// First the picture's, then the subject's: twice as many tokens.
    Both,
}

/// Projects the embeddings of picture and subject to tokens.
#[derive(Clone, Debug)]
pub struct ImageProjModel {
    proj: Linear,
    norm: LayerNorm,
    raw_embed: Tensor,
    tokens: usize,
    width: usize,
}

impl ImageProjModel {
    /// Builds the model from `vb`.
    pub fn load(vb: VarBuilder, config: &ImageProjModelConfig) -> Result<Self> {
        let (width, tokens) = (config.cross_attention_dim, config.clip_extra_context_tokens);
        let proj = Linear::load(vb.pp("proj"), config.clip_embeddings_dim, tokens * width)?;
        // a fresh one learns to tell the two rows apart
        let start = Init::Randn { mean: 0.0, stdev: 0.02 };
        let raw_embed = match config.raw_embed {
            true => vb.get_with_hints((2, width), "raw_embed", start)?,
            false => Tensor::zeros((2, width), vb.dtype(), vb.device())?,
        };
        Ok(Self {
            proj,
            norm: LayerNorm::load(vb.pp("norm"), width, 1e-5)?,
            raw_embed,
            tokens,
            width,
        })
    }

    /// Tokens of one embedding.
    pub fn tokens_per_embedding(&self) -> usize {
        self.tokens
    }

    /// The tokens of both embeddings; a row that is absent is a zero vector. `local_scale` mixes
    /// the subject's tokens from the picture's (0) to its own (1).
    ///
    /// # Shapes
    /// `global`, `local` `(b, e)` → `(b, t, d)`, or `(b, 2t, d)` for [`TokenMode::Both`].
    pub fn forward(
        &self,
        global: &Tensor,
        local: &Tensor,
        mode: TokenMode,
        local_scale: f64,
    ) -> Result<Tensor> {
        let rows = |embeds: &Tensor| -> Result<Tensor> {
            self.proj.forward(embeds)?.reshape((embeds.dim(0)?, self.tokens, self.width))
        };
        let global = rows(global)?;
        let picture = || global.broadcast_add(&self.raw_embed.narrow(0, 0, 1)?);
        let subject = || -> Result<Tensor> {
            let own = rows(local)?;
            let mixed = ((&global * (1.0 - local_scale))? + (own * local_scale)?)?;
            mixed.broadcast_add(&self.raw_embed.narrow(0, 1, 1)?)
        };
        let tokens = match mode {
            TokenMode::Global => picture()?,
            TokenMode::Local => subject()?,
            TokenMode::Both => Tensor::cat(&[picture()?, subject()?], 1)?,
        };
        self.norm.forward(&tokens)
    }

    /// The tokens of no embedding at all, for the unconditional half of guidance.
    ///
    /// # Shapes
    /// `like` `(b, e)` → as [`Self::forward`].
    pub fn unconditional(&self, like: &Tensor, mode: TokenMode) -> Result<Tensor> {
        let zero = like.zeros_like()?;
        self.forward(&zero, &zero, mode, 1.0)
    }
}

/// A UNet, its adapter's keys and values, and the projection that feeds them.
#[derive(Clone, Debug)]
pub struct AdaptedUNet {
    /// The model, adapter included.
    pub unet: UNet2DConditionModel,
    /// Embeddings to image-prompt tokens.
    pub image_proj: ImageProjModel,
}

impl AdaptedUNet {
    /// Builds the UNet from `unet`, and `image_proj.*` and `ip_adapter.*` from `adapter`.
    pub fn load(
        unet: VarBuilder,
        adapter: VarBuilder,
        config: &UNet2DConditionModelConfig,
        adapter_config: &ImageProjModelConfig,
    ) -> std::result::Result<Self, DiffusionError> {
        let mut unet = UNet2DConditionModel::load(unet, config)?;
        unet.load_ip_adapter(adapter.pp("ip_adapter"))?;
        let image_proj = ImageProjModel::load(adapter.pp("image_proj"), adapter_config)?;
        Ok(Self { unet, image_proj })
    }

    /// Conditions of a model without text encoders: tokens of both embeddings, one empty text
    /// token, and the direction of the picture's embedding where SDXL has pooled text. A zero row
    /// stands for an embedding that is not given.
    ///
    /// # Shapes
    /// `generated`, `subject` `(b, e)`; `size` height and width in pixels.
    pub fn conditions(
        &self,
        generated: &Tensor,
        subject: &Tensor,
        size: (usize, usize),
        scale: f64,
    ) -> Result<UNetConditions> {
        let (b, device) = (generated.dim(0)?, generated.device());
        let tokens = self.image_proj.forward(generated, subject, TokenMode::Both, 1.0)?;
        let encoder_hidden_states = Tensor::zeros((b, 1, tokens.dim(2)?), tokens.dtype(), device)?;
        let ids = TimeIds { size, aesthetic_score: None }.tensor(device)?;
        let added = AddedConditions {
            text_embeds: with_norm(generated, 1.0)?,
            time_ids: Tensor::cat(&vec![&ids; b], 0)?,
        };
        let image_prompt = Some(ImagePrompt { tokens, scale });
        let context = Context { encoder_hidden_states, image_prompt, control: None };
        Ok(UNetConditions { context, added: Some(added) })
    }

    /// [`Self::conditions`] for guidance: of no embeddings at all, then of these.
    ///
    /// # Shapes
    /// `generated`, `subject` `(b, e)` → conditions of `2b` items.
    pub fn guided_conditions(
        &self,
        generated: &Tensor,
        subject: &Tensor,
        size: (usize, usize),
        scale: f64,
    ) -> Result<UNetConditions> {
        let both = |t: &Tensor| Tensor::cat(&[&t.zeros_like()?, t], 0);
        self.conditions(&both(generated)?, &both(subject)?, size, scale)
    }
}
