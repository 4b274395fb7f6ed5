//! ImageBind's vision tower: patches of a short clip of equal frames.

use any2pix_nn::ops;
use any2pix_nn::tap::tap;
use any2pix_nn::{LayerNorm, Linear};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::stem::ConvStem;
use super::transformer::{EPS, Trunk, TrunkConfig, normalize};
use super::{ImageBindConfig, Pooling};

/// How pixels become patches.
#[derive(Clone, Debug)]
enum VisionStem {
    /// The published one: `(dim, 3, frames, patch, patch)`, and the patch.
    Patches(Tensor, usize),
    Convolutions(ConvStem),
}

/// Picture → embedding of length 1.
#[derive(Clone, Debug)]
pub struct VisionTower {
    stem: VisionStem,
    pooling: Pooling,
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
        let (stem, side) = match config.vision_stem_channels.as_slice() {
            [] => {
                let bound = 1.0 / ((3 * frames * patch * patch) as f64).sqrt();
                let proj = pre.get_with_hints(
                    (dim, 3, frames, patch, patch),
                    "rgbt_stem.proj.1.weight",
                    Init::Uniform { lo: -bound, up: bound },
                )?;
                (VisionStem::Patches(proj, patch), config.vision_image_size / patch)
            }
            channels => {
                let stem = ConvStem::load(pre.pp("rgbt_stem"), 3, channels, dim)?;
                let side = ConvStem::positions(channels, config.vision_image_size);
                (VisionStem::Convolutions(stem), side)
            }
        };
        let trunk = TrunkConfig {
            embed_dim: dim,
            num_blocks: config.vision_num_blocks,
            num_heads: config.vision_num_heads,
            bias_kv: false,
            pre_norm: true,
            causal: false,
        };
        Ok(Self {
            stem,
            pooling: config.pooling,
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
        let patches = match &self.stem {
            // The temporal axis of the kernel is summed: all frames are the same picture.
            VisionStem::Patches(proj, patch) => {
                ops::conv2d(&pixels, &proj.sum(2)?, None, *patch, 0)?
            }
            VisionStem::Convolutions(stem) => stem.forward(&pixels)?,
        };
        let (_, h, w, dim) = patches.dims4()?;
        let patches = patches.reshape((batch, h * w, dim))?;
        let cls = self.cls_token.broadcast_as((batch, 1, dim))?;
        let tokens = Tensor::cat(&[&cls, &patches], 1)?.broadcast_add(&self.pos_embed)?;
        tap("vision_tokens", &tokens);
        let hidden = self.trunk.forward(&tokens)?;
        tap("vision_trunk", &hidden);
        let pooled = self.pooling.of(&hidden)?;
        let head = self.head.forward(&self.norm.forward(&pooled)?)?;
        tap("vision_head", &head);
        let embedding = normalize(&head)?;
        tap("vision_post", &embedding);
        Ok(embedding)
    }
}

#[cfg(test)]
mod tests {
    use any2pix_nn::{Generator, Parameters};
    use candle_core::Device;

    use super::*;

    /// A sum over the kernel's frames that is made once would go on with the weights of the start
    /// while training changes those that are saved.
    #[test]
    fn the_patch_stem_follows_its_weights() {
        let config = ImageBindConfig {
            vision_image_size: 16,
            kernel_size: [2, 8, 8],
            vision_embed_dim: 8,
            vision_num_blocks: 1,
            vision_num_heads: 2,
            out_embed_dim: 8,
            ..ImageBindConfig::default()
        };
        let parameters = Parameters::new(1);
        let tower = VisionTower::load(parameters.builder(&Device::Cpu), &config).unwrap();
        let picture = Generator::new(2).randn((1, 3, 16, 16), &Device::Cpu).unwrap();
        let embed = || tower.forward(&picture).unwrap().flatten_all().unwrap().to_vec1::<f32>();
        let before = embed().unwrap();
        let name = "modality_preprocessors.vision.rgbt_stem.proj.1.weight";
        let weight = (&parameters.tensors()[name] * -2.0).unwrap();
        parameters.assign(&[(name.to_string(), weight)].into()).unwrap();
        assert_ne!(before, embed().unwrap());
    }
}
