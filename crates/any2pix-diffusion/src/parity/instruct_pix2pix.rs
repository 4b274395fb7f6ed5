//! InstructPix2Pix: diffusers' pipeline, and the published program on a file of its own names.

use any2pix_nn::Checkpoint;
use any2pix_nn::golden::{GoldenCase, Outputs};
use candle_core::{DType, Device, IndexOp, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::pipelines::{Recorded, config, load_vae, picture};
use super::{TextEncoder, count, finish, scalar};
use crate::denoise::{Flow, NoiseSource, denoise};
use crate::instruct_pix2pix::{Scales, conditions, guided, reference_scheduler, source_latents};
use crate::ldm_names::LdmParts;
use crate::schedulers::{
    BetaSchedule, EulerAncestralDiscreteScheduler, Scheduler, SchedulerConfig,
};
use crate::unet::{ConditionedUNet, PerBlock};
use crate::{
    AutoencoderKL, AutoencoderKLConfig, DiffusionError, UNet2DConditionModel,
    UNet2DConditionModelConfig, parse_config,
};

/// The noise that the case recorded, one item a step.
struct RecordedNoise {
    noise: Tensor,
    next: usize,
}

impl NoiseSource for RecordedNoise {
    fn next_like(&mut self, _: &Tensor) -> candle_core::Result<Tensor> {
        self.next += 1;
        self.noise.i(self.next - 1)
    }
}

/// The last hidden state of recorded ids.
fn read(
    case: &GoldenCase,
    text: TextEncoder,
    (weights, config): (&Checkpoint, &Value),
    ids: &str,
) -> candle_core::Result<Tensor> {
    Ok(text(weights, config, &case.input(ids)?.unsqueeze(0)?)?.last)
}

/// diffusers' pipeline.
pub(super) fn diffusers(case: &GoldenCase, text: TextEncoder) -> Result<Outputs, DiffusionError> {
    let checkpoint = case.weights()?;
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    let unet_config = parse_config("UNet2DConditionModel", &config(case, "unet"))?;
    let unet = UNet2DConditionModel::load(vb.pp("unet"), &unet_config)?;
    let vae = load_vae(case, &checkpoint)?;
    let text_config = config(case, "text_encoder");
    let encoder = checkpoint.part("text_encoder.");
    finish(&checkpoint, &[])?;
    let prompt = read(case, text, (&encoder, &text_config), "ids_prompt")?;
    let negative = read(case, text, (&encoder, &text_config), "ids_negative")?;

    let scheduler: SchedulerConfig = parse_config("scheduler", &config(case, "scheduler"))?;
    let steps = count(case, "num_inference_steps")?;
    let sampler = EulerAncestralDiscreteScheduler::new(&scheduler, steps)?;
    let conditions = conditions(&prompt, &negative)?;
    let mut outputs = Outputs::new();
    let tokens = conditions.context.encoder_hidden_states.clone();
    outputs.insert("encoder_hidden_states".into(), tokens);
    let source = source_latents(&vae, &case.input("image")?)?;
    let predictor = Recorded::new(ConditionedUNet { unet: &unet, conditions });
    let scales = Scales {
        text: scalar(case, "guidance_scale")?,
        picture: scalar(case, "image_guidance_scale")?,
    };
    let guided = guided(predictor, &source, scales)?;
    let start = (case.input("latents")? * sampler.init_noise_sigma())?;
    let mut noise = RecordedNoise { noise: case.input("step_noise")?, next: 0 };
    let latents = denoise(&guided, &sampler, start, 0, &mut noise, |_| Flow::Continue)?;
    outputs.insert("timesteps".into(), Tensor::new(sampler.timesteps(), &Device::Cpu)?);
    let (inputs, eps) = guided.predictor.predictor.stacked()?;
    outputs.insert("unet_inputs".into(), inputs);
    outputs.insert("unet_eps".into(), eps);
    outputs.insert("image".into(), picture(&vae, &latents)?);
    outputs.insert("final_latents".into(), latents);
    Ok(outputs)
}

/// The UNet's keys in the published program's configuration.
#[derive(Deserialize)]
struct LdmUNet {
    in_channels: usize,
    out_channels: usize,
    model_channels: usize,
    attention_resolutions: Vec<usize>,
    num_res_blocks: usize,
    channel_mult: Vec<usize>,
    num_heads: usize,
    transformer_depth: usize,
    context_dim: usize,
}

/// The codec's keys in the published program's configuration.
#[derive(Deserialize)]
struct LdmCodec {
    z_channels: usize,
    in_channels: usize,
    out_ch: usize,
    ch: usize,
    ch_mult: Vec<usize>,
    num_res_blocks: usize,
}

impl From<LdmUNet> for UNet2DConditionModelConfig {
    fn from(ldm: LdmUNet) -> Self {
        let attends = |level: &usize| ldm.attention_resolutions.contains(&(1 << level));
        let kind = |level: usize, block: &str| match attends(&level) {
            true => format!("CrossAttn{block}Block2D"),
            false => format!("{block}Block2D"),
        };
        let levels = ldm.channel_mult.len();
        Self {
            in_channels: ldm.in_channels,
            out_channels: ldm.out_channels,
            block_out_channels: ldm.channel_mult.iter().map(|m| m * ldm.model_channels).collect(),
            layers_per_block: ldm.num_res_blocks,
            down_block_types: (0..levels).map(|level| kind(level, "Down")).collect(),
            up_block_types: (0..levels).rev().map(|level| kind(level, "Up")).collect(),
            attention_head_dim: PerBlock::All(ldm.num_heads),
            cross_attention_dim: ldm.context_dim,
            transformer_layers_per_block: PerBlock::All(ldm.transformer_depth),
            ..Self::default()
        }
    }
}

impl From<LdmCodec> for AutoencoderKLConfig {
    fn from(ldm: LdmCodec) -> Self {
        Self {
            in_channels: ldm.in_channels,
            out_channels: ldm.out_ch,
            block_out_channels: ldm.ch_mult.iter().map(|m| m * ldm.ch).collect(),
            layers_per_block: ldm.num_res_blocks,
            latent_channels: ldm.z_channels,
            ..Self::default()
        }
    }
}

/// The published program.
pub(super) fn original(case: &GoldenCase, text: TextEncoder) -> Result<Outputs, DiffusionError> {
    let unet_config = parse_config::<LdmUNet>("UNetModel", &config(case, "unet"))?.into();
    let vae_config = parse_config::<LdmCodec>("AutoencoderKL", &config(case, "first_stage"))?;
    let vae_config = vae_config.into();
    let file = Checkpoint::open(case.dir.join("model.ckpt"))?;
    let parts = LdmParts::split(&file, &unet_config, &vae_config)?;
    let builder = |part: &Checkpoint| part.builder(DType::F32, &Device::Cpu);
    let unet = UNet2DConditionModel::load(builder(&parts.unet), &unet_config)?;
    let vae = AutoencoderKL::load(builder(&parts.codec), &vae_config)?;
    let text_config = config(case, "cond_stage");
    let prompt = read(case, text, (&parts.text_encoder, &text_config), "ids_prompt")?;
    let null = read(case, text, (&parts.text_encoder, &text_config), "ids_null")?;
    for part in [&parts.unet, &parts.codec, &parts.text_encoder] {
        finish(part, &[])?;
    }

    let schedule = SchedulerConfig {
        beta_schedule: BetaSchedule::ScaledLinear,
        beta_start: 0.00085,
        beta_end: 0.012,
        ..SchedulerConfig::default()
    };
    let schedule = reference_scheduler(schedule);
    let sampler = EulerAncestralDiscreteScheduler::new(&schedule, count(case, "steps")?)?;
    let source = source_latents(&vae, &case.input("image")?)?;
    let conditions = conditions(&prompt, &null)?;
    let predictor = Recorded::new(ConditionedUNet { unet: &unet, conditions });
    let scales = Scales { text: scalar(case, "cfg_text")?, picture: scalar(case, "cfg_image")? };
    let guided = guided(predictor, &source, scales)?;
    let start = (case.input("start_noise")? * sampler.init_noise_sigma())?;
    let mut trajectory = vec![start.clone()];
    let mut noise = RecordedNoise { noise: case.input("step_noise")?, next: 0 };
    let latents = denoise(&guided, &sampler, start, 0, &mut noise, |progress| {
        trajectory.push(progress.sample.clone());
        Flow::Continue
    })?;
    let mut outputs = Outputs::new();
    let mut put = |name: &str, tensor| outputs.insert(name.to_string(), tensor);
    put("cond", prompt);
    put("uncond", null);
    put("image_latents", source);
    put("sigmas", Tensor::new(sampler.sigmas(), &Device::Cpu)?);
    put("first_t", Tensor::new(&sampler.timesteps()[..1], &Device::Cpu)?);
    put("first_eps", guided.predictor.predictor.stacked()?.1.i(0)?);
    put("latents", Tensor::stack(&trajectory, 0)?);
    put("image", picture(&vae, &latents)?);
    Ok(outputs)
}
