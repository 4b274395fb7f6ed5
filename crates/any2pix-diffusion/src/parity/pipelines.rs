//! Whole-pipeline cases: encode, invert, mix, denoise, decode.

use std::cell::RefCell;

use any2pix_nn::golden::{GoldenCase, Outputs};
use any2pix_nn::{Checkpoint, Generator};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::unet::{AdapterNumbers, load_adapted};
use super::{TextEncoder, count, finish, scalar};
use crate::denoise::{Flow, NoisePredictor, denoise, first_step, image_to_image};
use crate::guidance::ClassifierFreeGuidance;
use crate::inversion::{InversionConfig, invert};
use crate::latents::polar_interpolate;
use crate::schedulers::{DDIMInverseScheduler, EulerDiscreteScheduler, Scheduler, SchedulerConfig};
use crate::sdxl::{
    ImageCondition, PromptEmbeds, TimeIds, guided_conditions, inversion_conditions,
    refiner_conditions,
};
use crate::unet::ConditionedUNet;
use crate::{
    Autoencoder, AutoencoderKL, DiffusionError, TokenMode, UNet2DConditionModel, parse_config,
};

/// Keeps what a predictor saw and said.
pub(super) struct Recorded<P> {
    predictor: P,
    calls: RefCell<Vec<(Tensor, Tensor)>>,
}

impl<P> Recorded<P> {
    pub(super) fn new(predictor: P) -> Self {
        Self { predictor, calls: RefCell::default() }
    }

    pub(super) fn stacked(&self) -> candle_core::Result<(Tensor, Tensor)> {
        let (inputs, outputs): (Vec<_>, Vec<_>) = self.calls.borrow().iter().cloned().unzip();
        Ok((Tensor::stack(&inputs, 0)?, Tensor::stack(&outputs, 0)?))
    }
}

impl<P: NoisePredictor> NoisePredictor for Recorded<P> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> candle_core::Result<Tensor> {
        let output = self.predictor.predict(sample, timestep)?;
        self.calls.borrow_mut().push((sample.clone(), output.clone()));
        Ok(output)
    }
}

/// Both text encoders on the ids of one prompt.
struct Prompts<'a> {
    case: &'a GoldenCase,
    text: TextEncoder<'a>,
    /// Name, weights and config of each.
    towers: Vec<(usize, Checkpoint, Value)>,
}

impl<'a> Prompts<'a> {
    /// The encoders of `numbers`: 1 and 2 of SDXL, 2 alone of its refiner.
    fn new(
        case: &'a GoldenCase,
        text: TextEncoder<'a>,
        checkpoint: &Checkpoint,
        numbers: &[usize],
    ) -> Self {
        let tower = |number: &usize| {
            let name = if *number == 1 { "text_encoder" } else { "text_encoder_2" };
            (*number, checkpoint.part(&format!("{name}.")), config(case, name))
        };
        Self { case, text, towers: numbers.iter().map(tower).collect() }
    }

    fn embed(&self, name: &str) -> candle_core::Result<PromptEmbeds> {
        let (mut states, mut pooled) = (Vec::new(), None);
        for (number, weights, config) in &self.towers {
            let ids = self.case.input(&format!("ids{number}_{name}"))?.unsqueeze(0)?;
            let said = (self.text)(weights, config, &ids)?;
            states.push(said.penultimate);
            pooled = said.text_embeds;
        }
        let Some(pooled) = pooled else {
            candle_core::bail!("the last text encoder has no projection")
        };
        Ok(PromptEmbeds { hidden_states: Tensor::cat(&states, 2)?, pooled })
    }
}

pub(super) fn config(case: &GoldenCase, part: &str) -> Value {
    case.config.get(part).cloned().unwrap_or_default()
}

pub(super) fn load_vae(
    case: &GoldenCase,
    checkpoint: &Checkpoint,
) -> Result<AutoencoderKL, DiffusionError> {
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    AutoencoderKL::load(vb.pp("vae"), &parse_config("AutoencoderKL", &config(case, "vae"))?)
}

/// Latents as a picture in `[0, 1]`.
pub(super) fn picture(vae: &AutoencoderKL, latents: &Tensor) -> candle_core::Result<Tensor> {
    ((vae.latents_to_image(latents)? * 0.5)? + 0.5)?.clamp(0.0, 1.0)
}

/// SDXL's refiner, image to image.
pub(super) fn sdxl_refiner(
    case: &GoldenCase,
    text: TextEncoder,
) -> Result<Outputs, DiffusionError> {
    let checkpoint = case.weights()?;
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    let unet_config = parse_config("UNet2DConditionModel", &config(case, "unet"))?;
    let unet = UNet2DConditionModel::load(vb.pp("unet"), &unet_config)?;
    let vae = load_vae(case, &checkpoint)?;
    let prompts = Prompts::new(case, text, &checkpoint, &[2]);
    finish(&checkpoint, &[])?;
    let steps = count(case, "num_inference_steps")?;
    let scheduler: SchedulerConfig = parse_config("scheduler", &config(case, "scheduler"))?;
    let sampler = EulerDiscreteScheduler::new(&scheduler, steps)?;
    let strength = scalar(case, "strength")?;

    let image = case.input("image")?;
    let (_, _, height, width) = image.dims4()?;
    let latents = vae.image_to_latents(&image, Some(&case.input("vae_noise")?))?;
    let (negative, prompt) = (prompts.embed("negative")?, prompts.embed("prompt")?);
    let conditions = refiner_conditions(&negative, &prompt, (height, width))?;
    let mut outputs = Outputs::new();
    if let Some(added) = &conditions.added {
        outputs.insert("time_ids".into(), added.time_ids.clone());
    }
    let guided = ClassifierFreeGuidance {
        predictor: Recorded::new(ConditionedUNet { unet: &unet, conditions }),
        guidance_scale: scalar(case, "guidance_scale")?,
        guidance_rescale: 0.0,
    };
    let (noise, mut unused) = (case.input("noise")?, Generator::new(0));
    let start = (&latents, &noise);
    let latents =
        image_to_image(&guided, &sampler, start, strength, &mut unused, |_| Flow::Continue)?;
    let kept = &sampler.timesteps()[first_step(steps, strength)..];
    outputs.insert("timesteps".into(), Tensor::new(kept, &Device::Cpu)?);
    outputs.insert("unet_inputs".into(), guided.predictor.stacked()?.0);
    outputs.insert("image".into(), picture(&vae, &latents)?);
    outputs.insert("final_latents".into(), latents);
    Ok(outputs)
}

pub(super) fn any2pix_sdxl(
    case: &GoldenCase,
    text: TextEncoder,
) -> Result<Outputs, DiffusionError> {
    let checkpoint = case.weights()?;
    let part = |name: &str| config(case, name);
    let number = |name: &str| part(name).as_u64().unwrap_or_default();
    let numbers =
        AdapterNumbers { tokens: number("num_tokens"), embedding: number("clip_embeddings_dim") };
    let adapted = load_adapted(&checkpoint, &part("unet"), &numbers)?;
    let vae = load_vae(case, &checkpoint)?;
    let prompts = Prompts::new(case, text, &checkpoint, &[1, 2]);
    finish(&checkpoint, &[])?;
    let scheduler: SchedulerConfig = parse_config("scheduler", &part("scheduler"))?;
    let steps = count(case, "num_inference_steps")?;
    let mut outputs = Outputs::new();

    // 1. invert, with the adapter left installed
    let image = case.input("image")?;
    let (_, _, height, width) = image.dims4()?;
    let ids = TimeIds { size: (height, width), aesthetic_score: None };
    let latents = vae.image_to_latents(&image, Some(&case.input("vae_noise")?))?;
    let quirk = Some((numbers.tokens as usize, scalar(case, "prev_scale")?));
    let conditions = inversion_conditions(&prompts.embed("inversion_empty")?, ids, quirk)?;
    let predictor = Recorded::new(ConditionedUNet { unet: &adapted.unet, conditions });
    let inverse = DDIMInverseScheduler::new(&scheduler, steps)?;
    let plain = InversionConfig::default();
    let inverted = invert(&predictor, &inverse, &latents, plain, |_, _| Flow::Continue)?;
    outputs.insert("inv_eps".into(), predictor.stacked()?.1);
    outputs.insert("inv_init_latents".into(), latents);

    // 2. mix
    let mixed = polar_interpolate(&inverted, &case.input("noise")?, scalar(case, "alpha")?)?;
    outputs.insert("latent_inv".into(), inverted);
    outputs.insert("latent_mixed".into(), mixed.clone());

    // 3. denoise
    let global = case.input("clip_image_embeds")?;
    let zero = global.zeros_like()?;
    let image = adapted.image_proj.as_ref().map(|projection| ImageCondition {
        projection,
        global: &global,
        local: &zero,
        mode: TokenMode::Global,
        local_scale: 0.5,
        scale: scalar(case, "scale").unwrap_or(1.0),
    });
    let (negative, prompt) = (prompts.embed("negative")?, prompts.embed("prompt")?);
    let conditions = guided_conditions(&negative, &prompt, [ids; 2], image.as_ref())?;
    put_conditions(&mut outputs, &conditions)?;
    let sampler = EulerDiscreteScheduler::new(&scheduler, steps)?;
    let start = (mixed * sampler.init_noise_sigma())?;
    let guided = ClassifierFreeGuidance {
        predictor: Recorded::new(ConditionedUNet { unet: &adapted.unet, conditions }),
        guidance_scale: scalar(case, "guidance_scale")?,
        guidance_rescale: 0.0,
    };
    let mut unused = Generator::new(0);
    let latents = denoise(&guided, &sampler, start, 0, &mut unused, |_| Flow::Continue)?;
    let (inputs, eps) = guided.predictor.stacked()?;
    outputs.insert("unet_inputs".into(), inputs);
    outputs.insert("unet_eps".into(), eps);

    // 4. decode
    outputs.insert("image".into(), picture(&vae, &latents)?);
    outputs.insert("final_latents".into(), latents);
    Ok(outputs)
}

fn put_conditions(
    outputs: &mut Outputs,
    conditions: &crate::unet::UNetConditions,
) -> candle_core::Result<()> {
    let text = &conditions.context.encoder_hidden_states;
    let tokens = match &conditions.context.image_prompt {
        Some(image) => Tensor::cat(&[text, &image.tokens], 1)?,
        None => text.clone(),
    };
    outputs.insert("encoder_hidden_states".into(), tokens);
    if let Some(added) = &conditions.added {
        outputs.insert("text_embeds".into(), added.text_embeds.clone());
        outputs.insert("time_ids".into(), added.time_ids.clone());
    }
    Ok(())
}
