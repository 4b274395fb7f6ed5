//! ImageBind's text tower: a causal transformer read at the end-of-text token.

use any2pix_nn::tap::tap;
use any2pix_nn::{Embedding, LayerNorm, Linear};
use candle_core::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::ImageBindConfig;
use super::transformer::{EPS, Trunk, TrunkConfig, normalize};

/// Token ids → embedding.
#[derive(Clone, Debug)]
pub struct TextTower {
    token_embedding: Embedding,
    pos_embed: Tensor,
    trunk: Trunk,
    norm: LayerNorm,
    head: Linear,
    log_logit_scale: Tensor,
}

impl TextTower {
    pub(super) fn load(vb: VarBuilder, config: &ImageBindConfig) -> Result<Self> {
        let dim = config.text_embed_dim;
        let pre = vb.pp("modality_preprocessors.text");
        let trunk = TrunkConfig {
            embed_dim: dim,
            num_blocks: config.text_num_blocks,
            num_heads: config.text_num_heads,
            bias_kv: false,
            pre_norm: false,
            causal: true,
        };
        Ok(Self {
            token_embedding: Embedding::load(
                pre.pp("token_embedding"),
                config.text_vocab_size,
                dim,
            )?,
            pos_embed: pre.get_with_hints(
                (1, config.text_context_length, dim),
                "pos_embed",
                Init::Randn { mean: 0.0, stdev: 0.01 },
            )?,
            trunk: Trunk::load(vb.pp("modality_trunks.text"), &trunk)?,
            norm: LayerNorm::load(vb.pp("modality_heads.text.proj.0"), dim, EPS)?,
            head: Linear::load_no_bias(
                vb.pp("modality_heads.text.proj.1"),
                dim,
                config.out_embed_dim,
            )?,
            log_logit_scale: vb.get_with_hints(
                (),
                "modality_postprocessors.text.1.log_logit_scale",
                Init::Const((1.0f64 / 0.07).ln()),
            )?,
        })
    }

    /// What the cosine of a pair is multiplied with: the learned inverse temperature.
    ///
    /// # Shapes
    /// → `()`.
    pub fn logit_scale(&self) -> Result<Tensor> {
        self.log_logit_scale.exp()?.minimum(super::MAX_LOGIT_SCALE)
    }

    /// The embedding before it is scaled. The end of text is the largest id of each row; what
    /// follows it is never seen.
    ///
    /// # Shapes
    /// `ids` `(b, n)`, `n` up to the context length → `(b, out_embed_dim)`, length 1.
    pub fn forward_unit(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let positions = self.pos_embed.narrow(1, 0, length)?;
        let tokens = self.token_embedding.forward(ids)?.broadcast_add(&positions)?;
        tap("text_tokens", &tokens);
        let hidden = self.trunk.forward(&tokens)?;
        tap("text_trunk", &hidden);
        let end = ids.argmax(D::Minus1)?;
        let rows = Tensor::arange(0u32, batch as u32, ids.device())?;
        let at = ((rows * length as f64)? + end)?;
        let last = hidden.reshape((batch * length, ()))?.index_select(&at, 0)?;
        let head = self.head.forward(&self.norm.forward(&last)?)?;
        tap("text_head", &head);
        normalize(&head)
    }

    /// # Shapes
    /// `ids` `(b, n)`, `n` up to the context length → `(b, out_embed_dim)`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let post = self.forward_unit(ids)?.broadcast_mul(&self.logit_scale()?)?;
        tap("text_post", &post);
        Ok(post)
    }
}
