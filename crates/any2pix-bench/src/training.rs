//! A whole training step: forward, backward, AdamW, moving average.

use any2pix_diffusion::unet::{
    Context, PerBlock, UNet2DConditionModel, UNet2DConditionModelConfig, UNetConditions,
};
use any2pix_nn::ops::PrecisionScope;
use any2pix_nn::{Generator, Parameters, operations_so_far};
use any2pix_train::ema::Ema;
use any2pix_train::optimizer::{AdamW, AdamWSettings};
use candle_core::Device;

use crate::timing::{Bench, Failure, Outcome, Report, Work, peak_mb};

/// Examples a step.
const BATCH: usize = 16;

/// The reference model: three levels of 64, 128, 160 channels, attention at the two lower ones,
/// over their own positions and 8 tokens of 64.
fn config() -> UNet2DConditionModelConfig {
    let names = |values: [&str; 3]| values.map(String::from).to_vec();
    UNet2DConditionModelConfig {
        block_out_channels: vec![64, 128, 160],
        layers_per_block: 1,
        down_block_types: names(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
        up_block_types: names(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
        attention_head_dim: PerBlock::All(4),
        cross_attention_dim: 64,
        use_linear_projection: true,
        ..UNet2DConditionModelConfig::default()
    }
}

/// A model in training, on a task that has something to learn: to tell the noise from a smooth
/// picture.
pub(crate) struct Run {
    unet: UNet2DConditionModel,
    adam: AdamW,
    ema: Ema,
    generator: Generator,
    step: u64,
    parameters: Parameters,
}

impl Run {
    pub(crate) fn new() -> Result<Self, Failure> {
        let parameters = Parameters::new(1);
        let unet = UNet2DConditionModel::load(parameters.builder(&Device::Cpu), &config())?;
        let settings = AdamWSettings {
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip_norm: 1.0,
        };
        let (adam, ema) = (AdamW::new(&parameters, settings), Ema::new(&parameters, 0.999)?);
        Ok(Self { unet, adam, ema, generator: Generator::new(2), step: 0, parameters })
    }

    /// Takes a step and returns its loss.
    pub(crate) fn step(&mut self) -> Result<f32, Failure> {
        let mut generator = self.generator.fork(&format!("step {}", self.step));
        self.step += 1;
        let device = Device::Cpu;
        let noise = generator.randn((BATCH, 4, 16, 16), &device)?;
        let tokens = generator.randn((BATCH, 8, 64), &device)?;
        let level = tokens.narrow(1, 0, 1)?.narrow(2, 0, 4)?.reshape((BATCH, 4, 1, 1))?;
        let sample = noise.broadcast_add(&level)?;
        let times: Vec<f64> = (0..BATCH).map(|_| generator.uniform_in(0.0, 999.0).into()).collect();
        let context = Context { encoder_hidden_states: tokens, image_prompt: None, control: None };
        let conditions = UNetConditions { context, added: None };
        let predicted = self.unet.forward(&sample, &times, &conditions)?;
        let loss = (predicted - noise)?.sqr()?.mean_all()?;
        self.adam.step(&any2pix_nn::backward(&loss)?, 1e-4)?;
        self.ema.update()?;
        Ok(loss.to_scalar()?)
    }

    /// How many numbers are trained.
    pub(crate) fn count(&self) -> usize {
        self.parameters.count()
    }
}

pub(crate) fn unet_8m(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    for &precision in bench.precisions() {
        let _scope = PrecisionScope::new(precision);
        let mut run = Run::new()?;
        run.step()?;
        let before = operations_so_far();
        run.step()?;
        let operations = (operations_so_far() - before) as f64;
        let seconds = bench.median(|| run.step().map(drop))?;
        let shape = format!("{BATCH}x4x16x16, {:.2} M", run.count() as f64 / 1e6);
        let mut row = bench.row(shape, precision, seconds, Work::Operations(operations));
        row.samples_per_s = Some(BATCH as f64 / seconds);
        row.peak_mb = peak_mb();
        if report(&row).is_break() {
            return Ok(std::ops::ControlFlow::Break(()));
        }
    }
    Ok(std::ops::ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use any2pix_nn::ops::Precision;

    use super::*;

    /// Losses of a run, averaged so that single batches do not matter.
    fn curve(precision: Precision, steps: usize) -> Vec<f32> {
        let _scope = PrecisionScope::new(precision);
        let mut run = Run::new().unwrap();
        let losses: Vec<f32> = (0..steps).map(|_| run.step().unwrap()).collect();
        losses.chunks(steps / 5).map(|part| part.iter().sum::<f32>() / part.len() as f32).collect()
    }

    #[test]
    fn rounded_products_learn_as_exact_ones_do() {
        let (exact, rounded) = (curve(Precision::F32, 30), curve(Precision::Bf16, 30));
        assert!(exact[4] < 0.9 * exact[0], "nothing was learnt: {exact:?}");
        for (exact, rounded) in exact.iter().zip(&rounded) {
            assert!((exact - rounded).abs() < 0.02 * exact, "{exact} {rounded}");
        }
    }
}
