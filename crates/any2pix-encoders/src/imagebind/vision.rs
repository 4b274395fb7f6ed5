//! ImageBind's vision tower: patches of a short clip of equal frames.

use any2pix_nn::ops;
use any2pix_nn::tap::tap;
use any2pix_nn::{LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::ImageBindConfig;
use super::transformer::{EPS, Trunk, TrunkConfig, normalize};

/// Picture → embedding of length 1.
#[derive(Clone, Debug)]
pub struct VisionTower {
    /// The temporal axis of the kernel is summed: all frames are the same picture.
    proj: Tensor,
    patch: usize,
    cls_token: Tensor,
    pos_embed: Tensor,
    trunk: Trunk,
    norm: LayerNorm,
    head: Linear,
}

impl VisionTower {
    pub(super) fn load(vb: VarBuilder, config: &ImageBindConfig) -> Result<Self> {
        let dim = config.vision_embed_dim;
        let [frames, patch, width] = config.kernel_size;
        if patch != width || frames != config.video_frames {
            candle_core::bail!(
                "kernel_size must be [video_frames, p, p], not {frames}x{patch}x{width}"
            );
        }
        let pre = vb.pp("modality_preprocessors.vision");
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        let bound = 1.0 / ((3 * frames * patch * patch) as f64).sqrt();
        let proj = pre.get_with_hints(
            (dim, 3, frames, patch, patch),
            "rgbt_stem.proj.1.weight",
            Init::Uniform { lo: -bound, up: bound },
        )?;
        let side = config.vision_image_size / patch;
        let trunk = TrunkConfig {
            embed_dim: dim,
            num_blocks: config.vision_num_blocks,
            num_heads: config.vision_num_heads,
            bias_kv: false,
            pre_norm: true,
            causal: false,
        };
        Ok(Self {
            proj: proj.sum(2)?,
            patch,
            cls_token: pre.get_with_hints((1, 1, dim), "cls_token", small)?,
            pos_embed: pre.get_with_hints(
                (1, side * side + 1, dim),
                "pos_embedding_helper.pos_embed",
                small,
            )?,
            trunk: Trunk::load(vb.pp("modality_trunks.vision"), &trunk)?,
            norm: LayerNorm::load(vb.pp("modality_heads.vision.0"), dim, EPS)?,
            head: Linear::load_no_bias(
                vb.pp("modality_heads.vision.2"),
                dim,
                config.out_embed_dim,
            )?,
        })
    }

    /// # Shapes
    /// `(b, 3, side, side)`, normalised → `(b, out_embed_dim)`, length 1.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let batch = pictures.dim(0)?;
        let pixels = pictures.permute((0, 2, 3, 1))?.contiguous()?;
        let patches = ops::conv2d(&pixels, &self.proj, None, self.patch, 0)?;
        let (_, h, w, dim) = patches.dims4()?;
        let patches = patches.reshape((batch, h * w, dim))?;
        let cls = self.cls_token.broadcast_as((batch, 1, dim))?;
        let tokens = Tensor::cat(&[&cls, &patches], 1)?.broadcast_add(&self.pos_embed)?;
        tap("vision_tokens", &tokens);
        let hidden = self.trunk.forward(&tokens)?;
        tap("vision_trunk", &hidden);
        let cls = hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let head = self.head.forward(&self.norm.forward(&cls)?)?;
        tap("vision_head", &head);
        let embedding = normalize(&head)?;
        tap("vision_post", &embedding);
        Ok(embedding)
    }
}
