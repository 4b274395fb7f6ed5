//! UNet cases, with and without IP-Adapter.

use any2pix_nn::Checkpoint;
use any2pix_nn::golden::{GoldenCase, Outputs};
use any2pix_nn::tap::capture;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{finish, inner, scalar};
use crate::unet::{AddedConditions, Context, ImagePrompt, UNetConditions};
use crate::{
    DiffusionError, ImageProjModel, ImageProjModelConfig, TokenMode, UNet2DConditionModel,
    UNet2DConditionModelConfig, parse_config,
};

/// A UNet, and its adapter when the checkpoint has one.
pub(super) struct Adapted {
    pub(super) unet: UNet2DConditionModel,
    pub(super) image_proj: Option<ImageProjModel>,
}

pub(super) struct AdapterNumbers {
    pub(super) tokens: u64,
    pub(super) embedding: u64,
}

/// Loads from `unet.*`, `image_proj.*`, `ip_adapter.*`.
pub(super) fn load_adapted(
    checkpoint: &Checkpoint,
    config: &Value,
    numbers: &AdapterNumbers,
) -> Result<Adapted, DiffusionError> {
    let config: UNet2DConditionModelConfig = parse_config("UNet2DConditionModel", config)?;
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    let mut unet = UNet2DConditionModel::load(vb.pp("unet"), &config)?;
    unet.load_ip_adapter(vb.pp("ip_adapter"))?;
    let projection = ImageProjModelConfig {
        cross_attention_dim: config.cross_attention_dim,
        clip_embeddings_dim: numbers.embedding as usize,
        clip_extra_context_tokens: numbers.tokens as usize,
        raw_embed: true,
    };
    let image_proj = Some(ImageProjModel::load(vb.pp("image_proj"), &projection)?);
    Ok(Adapted { unet, image_proj })
}

pub(super) fn run(case: &GoldenCase) -> Result<Outputs, DiffusionError> {
    let checkpoint = case.weights()?;
    let number = |key: &str| case.config.get(key).and_then(Value::as_u64);
    let adapted = match (number("_num_tokens"), number("_clip_embeddings_dim")) {
        (Some(tokens), Some(embedding)) => {
            load_adapted(&checkpoint, &case.config, &AdapterNumbers { tokens, embedding })?
        }
        _ => {
            let config = parse_config("UNet2DConditionModel", &case.config)?;
            let vb = checkpoint.builder(DType::F32, &Device::Cpu);
            Adapted { unet: UNet2DConditionModel::load(vb, &config)?, image_proj: None }
        }
    };
    finish(&checkpoint, &[])?;
    let mut outputs = Outputs::new();
    let text = case.input("encoder_hidden_states")?;
    let mut image_prompt = None;
    if let Some(projection) = &adapted.image_proj {
        let embeds = case.input("image_embeds")?;
        let conditional =
            projection.forward(&embeds, &embeds.zeros_like()?, TokenMode::Global, 0.5)?;
        let unconditional = projection.unconditional(&embeds, TokenMode::Global)?;
        let tokens = Tensor::cat(&[&unconditional, &conditional], 0)?;
        let all = Tensor::cat(&[&text, &tokens], 1)?;
        outputs.insert("encoder_hidden_states_cat".into(), all);
        outputs.insert("image_prompt_embeds".into(), conditional);
        outputs.insert("uncond_image_prompt_embeds".into(), unconditional);
        image_prompt = Some(ImagePrompt { tokens, scale: scalar(case, "scale")? });
    }
    let added = match (case.input_maybe("text_embeds"), case.input_maybe("time_ids")) {
        (Some(text_embeds), Some(time_ids)) => Some(AddedConditions { text_embeds, time_ids }),
        _ => None,
    };
    let context = Context { encoder_hidden_states: text, image_prompt, control: None };
    let conditions = UNetConditions { context, added };
    let sample = case.input("sample")?;
    let timesteps = vec![scalar(case, "timestep")?; sample.dim(0)?];
    let (output, taps) = capture(|| adapted.unet.forward(&sample, &timesteps, &conditions));
    outputs.extend(inner(taps));
    outputs.insert("sample".into(), output?);
    Ok(outputs)
}

pub(super) fn image_proj(case: &GoldenCase) -> Result<Outputs, DiffusionError> {
    let config: ImageProjModelConfig = parse_config("ImageProjModel", &case.config)?;
    let checkpoint = case.weights()?;
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    let projection = ImageProjModel::load(vb, &config)?;
    finish(&checkpoint, &[])?;
    let (global, local) = (case.input("global_embeds")?, case.input("local_embeds")?);
    let mut outputs = Outputs::new();
    for name in case.output_names() {
        let Some((mode_name, what)) = name.split_once('_') else { continue };
        let mode = match mode_name {
            "global" => TokenMode::Global,
            "local" => TokenMode::Local,
            _ => TokenMode::Both,
        };
        let tokens = match what.strip_prefix("scale_l").and_then(|s| s.parse::<f64>().ok()) {
            Some(scale) => projection.forward(&global, &local, mode, scale)?,
            None => projection.unconditional(&global, mode)?,
        };
        outputs.insert(name, tokens);
    }
    Ok(outputs)
}
