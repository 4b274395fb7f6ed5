//! Names in checkpoints of latent diffusion as its authors publish it (CompVis), and the names
//! that the same tensors have here and in diffusers.

use std::collections::{BTreeMap, BTreeSet};

use any2pix_nn::{Checkpoint, CheckpointError};

use crate::{AutoencoderKLConfig, UNet2DConditionModelConfig};

const UNET: &str = "model.diffusion_model.";
const CODEC: &str = "first_stage_model.";
const TEXT: &str = "cond_stage_model.transformer.";
const EMA: &str = "model_ema.";
const STATE: &str = "state_dict.";
/// Where weights go that their average replaces.
const REPLACED: &str = "replaced.";

/// Tensors that such files hold and no model reads, with the reason.
const IGNORED: &[(&str, &str)] = &[
    (REPLACED, "weights of the last step, where there is their average"),
    ("model_ema.decay", "a number of the training"),
    ("model_ema.num_updates", "a number of the training"),
    ("betas", "the noise schedule, which follows from its config"),
    ("alphas_cumprod", "the noise schedule"),
    ("sqrt_", "the noise schedule"),
    ("log_one_minus_alphas_cumprod", "the noise schedule"),
    ("posterior_", "the noise schedule"),
    ("lvlb_weights", "weights of the loss"),
    ("logvar", "weights of the loss"),
    ("scale_factor", "the config of the codec says it"),
    ("first_stage_model.loss.", "what trained the codec"),
    ("cond_stage_model.transformer.text_model.embeddings.position_ids", "the numbers from 0 on"),
    ("optimizer_states.", "state of the training"),
    ("lr_schedulers.", "state of the training"),
    ("callbacks.", "state of the training"),
    ("loops.", "state of the training"),
];

/// The components of one file, each a checkpoint of its own with the names of diffusers.
pub struct LdmParts {
    /// Of a `UNet2DConditionModel`.
    pub unet: Checkpoint,
    /// Of an `AutoencoderKL`.
    pub codec: Checkpoint,
    /// Of a CLIP text model.
    pub text_encoder: Checkpoint,
}

impl LdmParts {
    /// Sorts the tensors of a file; one that is of no component and not known to be needless is
    /// an error. Averaged weights of the UNet are taken where there are any. Each part is to be
    /// finished by who builds a model of it.
    pub fn split(
        file: &Checkpoint,
        unet: &UNet2DConditionModelConfig,
        codec: &AutoencoderKLConfig,
    ) -> Result<Self, CheckpointError> {
        let names = file.names();
        let averages = averages(names.iter().map(|name| bare(name)));
        let layout = Layout {
            unet_resnets: unet.layers_per_block,
            codec_levels: codec.block_out_channels.len(),
        };
        let named = file.renamed(|name| {
            let name = bare(name);
            if averages.is_empty() {
                return layout.apply(name);
            }
            match averages.get(name) {
                Some(replaced) => layout.apply(replaced),
                None if name.starts_with(UNET) => format!("{REPLACED}{name}"),
                None => layout.apply(name),
            }
        })?;
        // The codec's attention is made of convolutions of one pixel there.
        let is_attention = |name: &str| name.starts_with("codec.") && name.contains(".attentions.");
        let named = named.with_matrices(is_attention);
        let part = |prefix: &str| named.part(prefix);
        let parts = Self {
            unet: part("unet."),
            codec: part("codec."),
            text_encoder: part("text_encoder."),
        };
        let ignored: Vec<&str> = IGNORED.iter().map(|(prefix, _)| *prefix).collect();
        named.finish(&ignored)?;
        Ok(parts)
    }
}

/// A name without the dictionary that it stands in.
fn bare(name: &str) -> &str {
    name.strip_prefix(STATE).unwrap_or(name)
}

/// The averaged weights by their names: those of the weights without their dots, which cannot be
/// put back, so that the way there is gone from every name. What each of them replaces; nothing
/// when the file has no averages.
fn averages<'a>(names: impl Iterator<Item = &'a str> + Clone) -> BTreeMap<String, String> {
    let present: BTreeSet<&str> = names.clone().filter(|name| name.starts_with(EMA)).collect();
    let weights = names.filter_map(|name| Some((name, name.strip_prefix("model.")?)));
    weights
        .map(|(name, inner)| (format!("{EMA}{}", inner.replace('.', "")), name.to_string()))
        .filter(|(average, _)| present.contains(average.as_str()))
        .collect()
}

/// What the names alone do not tell.
struct Layout {
    /// Resnets in a down block of the UNet.
    unet_resnets: usize,
    /// Blocks of the codec's encoder.
    codec_levels: usize,
}

impl Layout {
    /// The new name, with its component before it; the old one when it is of no component.
    fn apply(&self, name: &str) -> String {
        let new = if let Some(inner) = name.strip_prefix(UNET) {
            self.unet(inner).map(|name| format!("unet.{name}"))
        } else if let Some(inner) = name.strip_prefix(CODEC) {
            self.codec(inner).map(|name| format!("codec.{name}"))
        } else {
            let text = name.strip_prefix(TEXT).filter(|name| !name.ends_with("position_ids"));
            text.map(|name| format!("text_encoder.{name}"))
        };
        new.unwrap_or_else(|| name.to_string())
    }

    fn unet(&self, name: &str) -> Option<String> {
        let (top, rest) = name.split_once('.')?;
        let (first, inner) = rest.split_once('.')?;
        Some(match (top, first) {
            ("time_embed", "0") => format!("time_embedding.linear_1.{inner}"),
            ("time_embed", "2") => format!("time_embedding.linear_2.{inner}"),
            ("out", "0") => format!("conv_norm_out.{inner}"),
            ("out", "2") => format!("conv_out.{inner}"),
            ("middle_block", "0") => format!("mid_block.resnets.0.{}", resnet(inner)?),
            ("middle_block", "1") => format!("mid_block.attentions.0.{inner}"),
            ("middle_block", "2") => format!("mid_block.resnets.1.{}", resnet(inner)?),
            ("input_blocks", index) => self.unet_down(index.parse().ok()?, inner)?,
            ("output_blocks", index) => self.unet_up(index.parse().ok()?, inner)?,
            _ => return None,
        })
    }

    /// A block is one resnet, perhaps with an attention, or a downsampler.
    fn unet_down(&self, index: usize, name: &str) -> Option<String> {
        let (part, inner) = name.split_once('.')?;
        let Some(index) = index.checked_sub(1) else {
            return (part == "0").then(|| format!("conv_in.{inner}"));
        };
        let (level, j) = (index / (self.unet_resnets + 1), index % (self.unet_resnets + 1));
        let down = format!("down_blocks.{level}");
        if j == self.unet_resnets {
            let inner = inner.strip_prefix("op.").filter(|_| part == "0")?;
            return Some(format!("{down}.downsamplers.0.conv.{inner}"));
        }
        block(&down, part, j, inner)
    }

    /// A block is one resnet, perhaps with an attention, and the last of a level an upsampler.
    fn unet_up(&self, index: usize, name: &str) -> Option<String> {
        let (part, inner) = name.split_once('.')?;
        let (level, j) = (index / (self.unet_resnets + 1), index % (self.unet_resnets + 1));
        let up = format!("up_blocks.{level}");
        match inner.strip_prefix("conv.") {
            Some(inner) if j == self.unet_resnets && matches!(part, "1" | "2") => {
                Some(format!("{up}.upsamplers.0.conv.{inner}"))
            }
            _ => block(&up, part, j, inner),
        }
    }

    fn codec(&self, name: &str) -> Option<String> {
        let (top, rest) = name.split_once('.')?;
        if matches!(top, "quant_conv" | "post_quant_conv") {
            return Some(name.to_string());
        }
        if !matches!(top, "encoder" | "decoder") {
            return None;
        }
        let (part, inner) = rest.split_once('.')?;
        let new = match (top, part) {
            (_, "conv_in" | "conv_out") => rest.to_string(),
            (_, "norm_out") => format!("conv_norm_out.{inner}"),
            (_, "mid") => format!("mid_block.{}", codec_mid(inner)?),
            ("encoder", "down") => {
                let (level, inner) = inner.split_once('.')?;
                format!("down_blocks.{level}.{}", codec_block(inner, "downsample")?)
            }
            ("decoder", "up") => {
                // Counted from the picture there, from the latents here.
                let (level, inner) = inner.split_once('.')?;
                let level = (self.codec_levels.checked_sub(1)?).checked_sub(level.parse().ok()?)?;
                format!("up_blocks.{level}.{}", codec_block(inner, "upsample")?)
            }
            _ => return None,
        };
        Some(format!("{top}.{new}"))
    }
}

/// Resnet or attention `j` of a UNet's block.
fn block(place: &str, part: &str, j: usize, name: &str) -> Option<String> {
    match part {
        "0" => Some(format!("{place}.resnets.{j}.{}", resnet(name)?)),
        "1" => Some(format!("{place}.attentions.{j}.{name}")),
        _ => None,
    }
}

fn resnet(name: &str) -> Option<String> {
    const LAYERS: [(&str, &str); 6] = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    replaced(name, &LAYERS)
}

/// `name` with the beginning that is listed replaced.
fn replaced(name: &str, beginnings: &[(&str, &str)]) -> Option<String> {
    let new = |(old, new): &(&str, &str)| Some(format!("{new}{}", name.strip_prefix(old)?));
    beginnings.iter().find_map(new)
}

fn codec_resnet(name: &str) -> String {
    match name.strip_prefix("nin_shortcut.") {
        Some(inner) => format!("conv_shortcut.{inner}"),
        None => name.to_string(),
    }
}

fn codec_mid(name: &str) -> Option<String> {
    let (part, inner) = name.split_once('.')?;
    Some(match part {
        "block_1" => format!("resnets.0.{}", codec_resnet(inner)),
        "block_2" => format!("resnets.1.{}", codec_resnet(inner)),
        "attn_1" => format!("attentions.0.{}", replaced(inner, &ATTENTION)?),
        _ => return None,
    })
}

/// The codec's attention, as its authors name it.
const ATTENTION: [(&str, &str); 5] = [
    ("norm.", "group_norm."),
    ("q.", "to_q."),
    ("k.", "to_k."),
    ("v.", "to_v."),
    ("proj_out.", "to_out.0."),
];

/// A block of the codec: resnets, and what changes the size.
fn codec_block(name: &str, resize: &str) -> Option<String> {
    let (part, inner) = name.split_once('.')?;
    if part == "block" {
        let (j, inner) = inner.split_once('.')?;
        return Some(format!("resnets.{j}.{}", codec_resnet(inner)));
    }
    (part == resize).then(|| format!("{resize}rs.0.{inner}"))
}

/// The name of today of a codec's tensor that an early diffusers wrote.
pub fn early_codec_name(name: &str) -> String {
    const EARLY: [(&str, &str); 4] =
        [("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0.")];
    let new = name.split_once(".attentions.0.").and_then(|(place, inner)| {
        Some(format!("{place}.attentions.0.{}", replaced(inner, &EARLY)?))
    });
    new.unwrap_or_else(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stable Diffusion 1.5's.
    const LAYOUT: Layout = Layout { unet_resnets: 2, codec_levels: 4 };

    #[test]
    fn names_of_stable_diffusion_are_found() {
        let unet = |name: &str| LAYOUT.apply(&format!("{UNET}{name}"));
        for (old, new) in [
            ("time_embed.2.bias", "time_embedding.linear_2.bias"),
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.4.0.skip_connection.bias", "down_blocks.1.resnets.0.conv_shortcut.bias"),
            ("input_blocks.8.1.proj_in.weight", "down_blocks.2.attentions.1.proj_in.weight"),
            ("input_blocks.9.0.op.bias", "down_blocks.2.downsamplers.0.conv.bias"),
            ("input_blocks.11.0.emb_layers.1.bias", "down_blocks.3.resnets.1.time_emb_proj.bias"),
            ("middle_block.2.out_layers.3.bias", "mid_block.resnets.1.conv2.bias"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
            ("output_blocks.11.1.norm.bias", "up_blocks.3.attentions.2.norm.bias"),
            ("out.2.bias", "conv_out.bias"),
        ] {
            assert_eq!(unet(old), format!("unet.{new}"), "{old}");
        }
        let codec = |name: &str| LAYOUT.apply(&format!("{CODEC}{name}"));
        for (old, new) in [
            (
                "decoder.up.0.block.0.nin_shortcut.bias",
                "decoder.up_blocks.3.resnets.0.conv_shortcut.bias",
            ),
            ("decoder.up.3.upsample.conv.bias", "decoder.up_blocks.0.upsamplers.0.conv.bias"),
            (
                "encoder.down.2.downsample.conv.bias",
                "encoder.down_blocks.2.downsamplers.0.conv.bias",
            ),
            ("encoder.mid.attn_1.proj_out.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
            ("decoder.norm_out.bias", "decoder.conv_norm_out.bias"),
        ] {
            assert_eq!(codec(old), format!("codec.{new}"), "{old}");
        }
    }

    #[test]
    fn what_is_nobodys_keeps_its_name() {
        for name in [
            "model.diffusion_model.label_emb.0.0.weight",
            "model.diffusion_model.input_blocks.3.1.op.bias",
            "first_stage_model.encoder.down.0.attn.0.q.bias",
            "first_stage_model.decoder.up.4.block.0.conv1.bias",
            "cond_stage_model.model.ln_final.weight",
        ] {
            assert_eq!(LAYOUT.apply(name), name);
        }
    }

    #[test]
    fn averages_are_found_by_names_without_dots() {
        let names = [
            "model.diffusion_model.out.0.bias",
            "model.diffusion_model.out.2.bias",
            "model_ema.decay",
            "model_ema.diffusion_modelout0bias",
        ];
        let found = averages(names.into_iter());
        let expected = [(names[3].to_string(), names[0].to_string())];
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn early_names_of_the_codec_are_those_of_today() {
        let name = |part: &str| format!("decoder.mid_block.attentions.0.{part}.bias");
        assert_eq!(early_codec_name(&name("proj_attn")), name("to_out.0"));
        assert_eq!(early_codec_name(&name("query")), name("to_q"));
        assert_eq!(early_codec_name(&name("to_q")), name("to_q"));
    }
}
