//! Prior cases: the closed form and the multi-step form.

use any2pix_nn::golden::{GoldenCase, Outputs};
use any2pix_nn::tap::capture;
use candle_core::{DType, Device, Result, Tensor};
use serde_json::Value;

use super::{TextEncoder, count, finish, scalar};
use crate::latents::mix_embeddings;
use crate::prior_transformer::{RefineConfig, StepNoise, epsilon_of};
use crate::schedulers::{DDPMScheduler, Scheduler};
use crate::{DiffusionError, PriorTransformer, PriorTransformerConfig, parse_config};

pub(super) fn run(
    case: &GoldenCase,
    text: TextEncoder,
) -> std::result::Result<Outputs, DiffusionError> {
    let config: PriorTransformerConfig = parse_config("PriorTransformer", &case.config)?;
    let checkpoint = case.weights()?;
    let prior = PriorTransformer::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
    let clip = checkpoint.part("cond_stage_models.0.model.");
    finish(&checkpoint, &["model.wte."])?;
    let clip_hidden = empty_text(case, text, &clip)?;
    let asked = RefineConfig {
        score: scalar(case, "score")?,
        guidance_scale: scalar(case, "guidance_scale")?,
        ..RefineConfig::default()
    };
    let src = case.input("src")?;
    let generated = src.squeeze(1)?;
    // the reference draws its noise into an integer tensor, which cuts it towards zero
    let noise = case.input("noise")?.squeeze(1)?.to_dtype(DType::I64)?.to_dtype(DType::F32)?;
    let steps =
        if case.input_maybe("h").is_some() { 1 } else { count(case, "num_inference_steps")? };
    let scheduler = DDPMScheduler::new(&config.scheduler_config, steps)?;
    let mut outputs = Outputs::new();
    let (refined, taps) = if case.input_maybe("h").is_some() {
        let (refined, taps) = capture(|| prior.refine(&generated, Some(&clip_hidden), &asked));
        let refined = refined?;
        let weights = case.input("h")?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let base = case.input("base_embed")?.unsqueeze(1)?;
        let weights = [weights[0], weights[1], weights[2]];
        let refined_row = refined.unsqueeze(1)?;
        let mixed = mix_embeddings(&base, &src, &refined_row, weights, scalar(case, "norm")?)?;
        outputs.insert("latent_la".into(), mixed);
        let predicted = taps.iter().find(|(name, _)| name == "gpt_out").map(|(_, t)| t);
        if let Some(predicted) = predicted {
            let both = Tensor::cat(&[&noise, &noise], 0)?;
            let eps = epsilon_of(predicted, &both, scheduler.alpha_bar(0))?;
            outputs.insert("eps".into(), eps.unsqueeze(0)?.unsqueeze(2)?);
        }
        (refined, taps)
    } else {
        let step_noise = case.input("step_noise")?;
        let draw =
            StepNoise { steps, draw: Box::new(|index, _| step_noise.get(index)?.squeeze(1)) };
        let text = Some(&clip_hidden);
        let (refined, taps) =
            capture(|| prior.refine_diffusion(&generated, text, &asked, &noise, draw));
        outputs.insert("eps".into(), rows(&taps, "eps")?);
        (refined?, taps)
    };
    outputs.insert("y".into(), refined.unsqueeze(1)?);
    outputs.insert("gpt_out".into(), rows(&taps, "gpt_out")?);
    for (name, tensor) in &taps {
        match name.as_str() {
            "sequence" => drop(outputs.entry("sequence0".into()).or_insert(tensor.clone())),
            "score_embed" => drop(outputs.insert(name.clone(), tensor.unsqueeze(1)?)),
            _ => {}
        }
    }
    outputs.insert("clip_hidden".into(), clip_hidden);
    outputs.insert("timesteps".into(), Tensor::new(scheduler.timesteps(), &Device::Cpu)?);
    Ok(outputs)
}

/// All taps of one name, `(steps, rows, 1, e)`.
fn rows(taps: &[(String, Tensor)], name: &str) -> Result<Tensor> {
    let found: Vec<&Tensor> =
        taps.iter().filter(|(tapped, _)| tapped == name).map(|(_, tensor)| tensor).collect();
    Tensor::stack(&found, 0)?.unsqueeze(2)
}

/// The states of begin and end token, which is all that an empty text has, twice.
fn empty_text(
    case: &GoldenCase,
    text: TextEncoder,
    weights: &any2pix_nn::Checkpoint,
) -> Result<Tensor> {
    let config = case.config.get("clip_text_config").unwrap_or(&Value::Null);
    let id = |key: &str| config.get(key).and_then(Value::as_i64).unwrap_or_default();
    let (bos, eos) = (id("bos_token_id"), id("eos_token_id"));
    let ids = Tensor::new(&[[bos, eos], [bos, eos]], &Device::Cpu)?;
    Ok(text(weights, config, &ids)?.last)
}
