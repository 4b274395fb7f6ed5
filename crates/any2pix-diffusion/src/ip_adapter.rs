//! `ImageProjModel`: an embedding becomes image-prompt tokens for the UNet's cross-attention.

use any2pix_nn::{LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

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
        // stock adapters lack it; a fresh one learns to tell the two rows apart
        let start = Init::Randn { mean: 0.0, stdev: 0.02 };
        let raw_embed = vb.get_with_hints((2, width), "raw_embed", start)?;
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
