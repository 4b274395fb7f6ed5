//! ImageBind's audio tower: overlapping patches of log-mel clips.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::tap::tap;
use any2pix_nn::{Conv2d, LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::stem::ConvStem;
use super::transformer::{EPS, Trunk, TrunkConfig, normalize};
use super::{ImageBindConfig, Pooling};

/// The stem's norm is torch's default, unlike those of the trunk.
const STEM_EPS: f64 = 1e-5;
/// The scale after normalisation, before a checkpoint says otherwise.
const LOGIT_SCALE: f64 = 20.0;

/// How log-mel values become patches.
#[derive(Clone, Debug)]
enum AudioStem {
    /// The published one.
    Patches(Conv2d),
    Convolutions(ConvStem),
}

/// Log-mel clips → embedding.
#[derive(Clone, Debug)]
pub struct AudioTower {
    stem: AudioStem,
    stem_norm: LayerNorm,
    pooling: Pooling,
    cls_token: Tensor,
    pos_embed: Tensor,
    trunk: Trunk,
    norm: LayerNorm,
    head: Linear,
    log_logit_scale: Tensor,
}

impl AudioTower {
    pub(super) fn load(vb: VarBuilder, config: &ImageBindConfig) -> Result<Self> {
        let dim = config.audio_embed_dim;
        let (kernel, stride) = (config.audio_kernel_size, config.audio_stride);
        let pre = vb.pp("modality_preprocessors.audio");
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        let channels = config.audio_stem_channels.as_slice();
        let steps = |length: usize| match channels {
            [] => (length.saturating_sub(kernel)) / stride + 1,
            channels => ConvStem::positions(channels, length),
        };
        let patches = steps(config.audio_num_mel_bins) * steps(config.audio_target_len);
        let stem = match channels {
            [] => AudioStem::Patches(Conv2d::load_no_bias(
                pre.pp("rgbt_stem.proj"),
                1,
                dim,
                Conv2dConfig { kernel, stride, padding: 0 },
            )?),
            channels => {
                AudioStem::Convolutions(ConvStem::load(pre.pp("rgbt_stem"), 1, channels, dim)?)
            }
        };
        let trunk = TrunkConfig {
            embed_dim: dim,
            num_blocks: config.audio_num_blocks,
            num_heads: config.audio_num_heads,
            bias_kv: true,
            pre_norm: false,
            causal: false,
        };
        Ok(Self {
            stem,
            pooling: config.pooling,
            stem_norm: LayerNorm::load(pre.pp("rgbt_stem.norm_layer"), dim, STEM_EPS)?,
            cls_token: pre.get_with_hints((1, 1, dim), "cls_token", small)?,
            pos_embed: pre.get_with_hints(
                (1, patches + 1, dim),
                "pos_embedding_helper.pos_embed",
                small,
            )?,
            trunk: Trunk::load(vb.pp("modality_trunks.audio"), &trunk)?,
            norm: LayerNorm::load(vb.pp("modality_heads.audio.0"), dim, EPS)?,
            head: Linear::load_no_bias(vb.pp("modality_heads.audio.2"), dim, config.out_embed_dim)?,
            log_logit_scale: vb.get_with_hints(
                (),
                "modality_postprocessors.audio.1.log_logit_scale",
                Init::Const(LOGIT_SCALE.ln()),
            )?,
        })
    }

    /// One embedding for each clip.
    ///
    /// # Shapes
    /// `(n, 1, mel_bins, frames)` → `(n, out_embed_dim)`, length 1.
    pub fn forward_clips(&self, clips: &Tensor) -> Result<Tensor> {
        let count = clips.dim(0)?;
        let pixels = clips.permute((0, 2, 3, 1))?.contiguous()?;
        let patches = match &self.stem {
            AudioStem::Patches(proj) => proj.forward(&pixels)?,
            AudioStem::Convolutions(stem) => stem.forward(&pixels)?,
        };
        let (_, h, w, dim) = patches.dims4()?;
        let patches = self.stem_norm.forward(&patches.reshape((count, h * w, dim))?)?;
        let cls = self.cls_token.broadcast_as((count, 1, dim))?;
        let tokens = Tensor::cat(&[&cls, &patches], 1)?.broadcast_add(&self.pos_embed)?;
        tap("audio_tokens", &tokens);
        let hidden = self.trunk.forward(&tokens)?;
        tap("audio_trunk", &hidden);
        let pooled = self.pooling.of(&hidden)?;
        let head = self.head.forward(&self.norm.forward(&pooled)?)?;
        tap("audio_head", &head);
        normalize(&head)
    }

    /// The mean over each sound's clips, each clip scaled first.
    ///
    /// # Shapes
    /// `(b, clips, 1, mel_bins, frames)` → `(b, out_embed_dim)`.
    pub fn forward(&self, sounds: &Tensor) -> Result<Tensor> {
        let (batch, clips, channels, bins, frames) = sounds.dims5()?;
        let flat = sounds.reshape((batch * clips, channels, bins, frames))?;
        let scale = self.log_logit_scale.exp()?.minimum(super::MAX_LOGIT_SCALE)?;
        let post = self.forward_clips(&flat)?.broadcast_mul(&scale)?;
        tap("audio_post", &post);
        post.reshape((batch, clips, ()))?.mean(1)
    }
}
