//! Scheduler cases: a whole loop over recorded network outputs.

use any2pix_nn::golden::{GoldenCase, Outputs};
use candle_core::{Device, Result, Tensor};

use crate::schedulers::{
    DDIMInverseScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, Scheduler,
    SchedulerConfig, from_config,
};
use crate::{DiffusionError, parse_config};

pub(super) fn run(case: &GoldenCase) -> Option<std::result::Result<Outputs, DiffusionError>> {
    let class = case.config.get("_class_name").and_then(|v| v.as_str()).unwrap_or_default();
    if class.starts_with("FlowMatch") {
        return None;
    }
    Some(run_known(case))
}

fn run_known(case: &GoldenCase) -> std::result::Result<Outputs, DiffusionError> {
    let config: SchedulerConfig = parse_config("scheduler", &case.config)?;
    let steps = case.input("model_outputs")?.dim(0)?;
    if case.output_names().iter().any(|name| name == "final_alpha_cumprod") {
        return Ok(inversion(case, &DDIMInverseScheduler::new(&config, steps)?)?);
    }
    let mut outputs = sampling(case, from_config(&config, steps)?.as_ref())?;
    let sigmas = match config.class_name.as_deref() {
        Some("EulerDiscreteScheduler") => {
            Some(EulerDiscreteScheduler::new(&config, steps)?.sigmas().to_vec())
        }
        Some("EulerAncestralDiscreteScheduler") => {
            Some(EulerAncestralDiscreteScheduler::new(&config, steps)?.sigmas().to_vec())
        }
        _ => None,
    };
    if let Some(sigmas) = sigmas {
        outputs.insert("sigmas".into(), Tensor::new(sigmas, &Device::Cpu)?);
    }
    Ok(outputs)
}

fn sampling(case: &GoldenCase, scheduler: &dyn Scheduler) -> Result<Outputs> {
    let (model_outputs, noises) = (case.input("model_outputs")?, case.input("noises")?);
    let init = case.input("init")?;
    let mut sample = (&init * scheduler.init_noise_sigma())?;
    let (mut latents, mut scaled, mut originals) = (vec![sample.clone()], vec![], vec![]);
    for index in 0..scheduler.timesteps().len() {
        scaled.push(scheduler.scale_model_input(&sample, index)?);
        let noise = noises.get(index)?;
        let output = scheduler.step(&model_outputs.get(index)?, index, &sample, Some(&noise))?;
        sample = output.prev_sample;
        latents.push(sample.clone());
        originals.push(output.pred_original_sample);
    }
    let middle = scheduler.timesteps().len() / 2;
    let noisy = scheduler.add_noise(&case.input("x0")?, &init, middle)?;
    let device = &Device::Cpu;
    Ok(Outputs::from([
        ("timesteps".into(), Tensor::new(scheduler.timesteps(), device)?),
        ("init_noise_sigma".into(), Tensor::new(scheduler.init_noise_sigma(), device)?),
        ("latents".into(), Tensor::stack(&latents, 0)?),
        ("scaled_inputs".into(), Tensor::stack(&scaled, 0)?),
        ("second_output".into(), Tensor::stack(&originals, 0)?),
        ("add_noise".into(), noisy),
        ("add_noise_t".into(), Tensor::new(&scheduler.timesteps()[middle..=middle], device)?),
    ]))
}

fn inversion(case: &GoldenCase, scheduler: &DDIMInverseScheduler) -> Result<Outputs> {
    let model_outputs = case.input("model_outputs")?;
    let mut latents = vec![case.input("x0")?];
    for index in 0..scheduler.timesteps().len() {
        let next = scheduler.step(&model_outputs.get(index)?, index, &latents[index])?;
        latents.push(next);
    }
    let device = &Device::Cpu;
    Ok(Outputs::from([
        ("timesteps".into(), Tensor::new(scheduler.timesteps(), device)?),
        ("alphas_cumprod".into(), Tensor::new(scheduler.alphas_cumprod(), device)?),
        ("final_alpha_cumprod".into(), Tensor::new(scheduler.final_alpha_cumprod(), device)?),
        ("latents".into(), Tensor::stack(&latents, 0)?),
    ]))
}
