//! A run that is killed and resumed equals an uninterrupted one, bit for bit.

#![allow(clippy::unwrap_used, reason = "a test fails by unwrapping")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, Generator, GroupNorm, Linear, Parameters};
use any2pix_train::progress::Silent;
use any2pix_train::run_dir::RunDir;
use any2pix_train::{
    Event, Outcome, Progress, Recipe, Result, StepLoss, TrainError, TrainSettings, Trainer, export,
};
use candle_core::{D, DType, Device, Tensor};

/// A convolutional denoiser of random stripes, with a head that tells their direction.
struct Stripes {
    parameters: Parameters,
    conv_in: Conv2d,
    norm: GroupNorm,
    conv_out: Conv2d,
    head: Linear,
    poison: Option<u64>,
}

impl Stripes {
    fn new() -> Result<Self> {
        let parameters = Parameters::new(5);
        let vb = parameters.builder(&Device::Cpu);
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), 1, 8, Conv2dConfig::K3)?,
            norm: GroupNorm::load(vb.pp("norm"), 4, 8, 1e-5)?,
            conv_out: Conv2d::load(vb.pp("conv_out"), 8, 1, Conv2dConfig::K3)?,
            head: Linear::load(vb.pp("head"), 8, 2)?,
            parameters,
            poison: None,
        })
    }

    fn batch(generator: &mut Generator) -> Result<(Tensor, Tensor, Tensor)> {
        let (mut clean, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (across, phase) = (generator.chance(0.5), generator.below(4));
            labels.push(u32::from(across));
            clean.extend((0..64).map(|i| {
                let along = if across { i / 8 } else { i % 8 };
                if (along + phase) % 4 < 2 { 1f32 } else { -1.0 }
            }));
        }
        let clean = Tensor::from_vec(clean, (4, 8, 8, 1), &Device::Cpu)?;
        let noisy = (&clean + generator.randn_like(&clean)?)?;
        Ok((clean, noisy, Tensor::new(labels, &Device::Cpu)?))
    }

    fn losses(&self, generator: &mut Generator) -> Result<(Tensor, Tensor)> {
        let (clean, noisy, labels) = Self::batch(generator)?;
        let hidden_states = self.norm.forward_silu(&self.conv_in.forward(&noisy)?)?;
        let pixels = (self.conv_out.forward(&hidden_states)? - clean)?.sqr()?.mean_all()?;
        let logits = self.head.forward(&hidden_states.mean((1, 2))?)?;
        let logits = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        Ok((pixels, candle_nn::loss::nll(&logits, &labels)?))
    }
}

impl Recipe for Stripes {
    fn name(&self) -> &str {
        "stripes"
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, step: u64, generator: &mut Generator) -> Result<StepLoss> {
        let (pixels, direction) = self.losses(generator)?;
        let mut loss = (&pixels + &direction)?;
        if self.poison == Some(step) {
            loss = (loss * f64::NAN)?;
        }
        let pixels = f64::from(pixels.to_scalar::<f32>()?);
        Ok(StepLoss::new(loss, 4).log("pixels", pixels))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let (pixels, _) = self.losses(generator)?;
        Ok(vec![("pixels".into(), f64::from(pixels.to_scalar::<f32>()?))])
    }

    fn export(&self, dir: &Path) -> Result<()> {
        let config = serde_json::json!({ "channels": 8 });
        export::component(dir, "stripes", &config, self.parameters.tensors(), DType::F16)
    }
}

/// Raises the stop flag once a step is done.
struct StopAt(u64, Arc<AtomicBool>);

impl Progress for StopAt {
    fn report(&mut self, event: Event<'_>) {
        if matches!(event, Event::Step(report) if report.step == self.0) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

fn settings() -> TrainSettings {
    let text = "steps = 50\nbatch = 4\nlearning_rate = 6e-3\nwarmup = 5\nweight_decay = 0.01\n\
                evaluate_every = 20\ncheckpoint_every = 15\nseed = 9";
    toml::from_str(text).unwrap()
}

fn scratch(name: &str) -> PathBuf {
    let root = std::env::temp_dir().join(format!("any2pix-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    root
}

fn trainer(root: &Path, resume: bool) -> Trainer {
    let run = RunDir::open(root.join("run")).unwrap();
    Trainer { run, model: root.join("model"), resume, stop: Arc::default() }
}

fn bits(trainer: &Trainer) -> BTreeMap<String, Vec<u32>> {
    let saved = trainer.run.newest().unwrap().unwrap();
    assert_eq!(saved.stamp.step, 50);
    let bits = |t: Tensor| {
        let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    saved.group("").into_iter().map(|(name, tensor)| (name, bits(tensor))).collect()
}

#[test]
fn fifty_steps_stopped_at_thirty_equal_fifty_steps() {
    let (whole, broken) = (scratch("whole"), scratch("broken"));
    let straight = trainer(&whole, false);
    let outcome = straight.run(&mut Stripes::new().unwrap(), &settings(), &mut Silent).unwrap();
    assert_eq!(outcome, Outcome::Finished);

    let first = trainer(&broken, false);
    let mut stop = StopAt(31, first.stop.clone());
    let outcome = first.run(&mut Stripes::new().unwrap(), &settings(), &mut stop).unwrap();
    assert_eq!(outcome, Outcome::Stopped { step: 31 });
    // As if the process had died there: the last checkpoint is the one of step 30.
    std::fs::remove_file(broken.join("run/checkpoints/step-00000031.safetensors")).unwrap();
    let second = trainer(&broken, true);
    let outcome = second.run(&mut Stripes::new().unwrap(), &settings(), &mut Silent).unwrap();
    assert_eq!(outcome, Outcome::Finished);

    assert_eq!(bits(&straight), bits(&second));
    let weights =
        |root: &Path| std::fs::read(root.join("model/stripes/model.safetensors")).unwrap();
    assert_eq!(weights(&whole), weights(&broken));
    let figures = |t: &Trainer| t.run.rows(&t.run.figures()).unwrap();
    assert_eq!(figures(&straight), figures(&second));
    assert_eq!(figures(&straight).len(), 3);
    let losses = straight.run.rows(&straight.run.log()).unwrap();
    let loss = |row: usize| losses[row]["loss"].as_f64().unwrap();
    assert!(loss(4) < 0.8 * loss(0), "it must learn: {} to {}", loss(0), loss(4));
    assert!(whole.join("run/curves.svg").exists());
    for root in [whole, broken] {
        std::fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn a_run_is_not_overwritten_nor_resumed_with_other_settings() {
    let root = scratch("guard");
    let mut recipe = Stripes::new().unwrap();
    trainer(&root, false).run(&mut recipe, &settings(), &mut Silent).unwrap();
    let again = trainer(&root, false).run(&mut recipe, &settings(), &mut Silent);
    assert!(matches!(again, Err(TrainError::RunExists { step: 50, .. })));
    let other = TrainSettings { learning_rate: 1e-4, ..settings() };
    let resumed = trainer(&root, true).run(&mut recipe, &other, &mut Silent);
    assert!(matches!(resumed, Err(TrainError::Resume { .. })));
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_names_the_step() {
    let root = scratch("poison");
    let mut recipe = Stripes { poison: Some(17), ..Stripes::new().unwrap() };
    let error = trainer(&root, false).run(&mut recipe, &settings(), &mut Silent).unwrap_err();
    assert!(error.to_string().contains("step 17"), "{error}");
    let saved = trainer(&root, true).run.newest().unwrap().unwrap();
    assert_eq!(saved.stamp.step, 15);
    std::fs::remove_dir_all(root).unwrap();
}
