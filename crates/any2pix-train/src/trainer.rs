//! `Trainer`: takes a recipe through its steps, saves, resumes, evaluates, samples and exports.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use any2pix_nn::Generator;
use any2pix_nn::ops::{Precision, PrecisionScope};
use candle_core::Tensor;
use serde_json::json;

use crate::ema::Ema;
use crate::optimizer::AdamW;
use crate::progress::StepReport;
use crate::recipes::component;
use crate::run_dir::{RunDir, Saved, Stamp};
use crate::{Event, Progress, Recipe, Result, TrainError, TrainSettings, curves};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken and the component was exported.
    Finished,
    /// It was asked to stop, and saved its state after `step` steps.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// What a run is given beside its recipe and settings.
#[derive(Clone, Debug)]
pub struct Trainer {
    /// Where the run leaves what it makes.
    pub run: RunDir,
    /// Where the trained component goes.
    pub model: PathBuf,
    /// Go on with what is in the run directory.
    pub resume: bool,
    /// Becomes true when the run shall save and return.
    pub stop: Arc<AtomicBool>,
}

/// Sums since the last row of the log.
#[derive(Default)]
struct Window {
    loss: f64,
    logs: Vec<(&'static str, f64)>,
    steps: u64,
}

impl Window {
    fn add(&mut self, loss: f64, logs: &[(&'static str, f64)]) {
        self.loss += loss;
        self.steps += 1;
        for (name, value) in logs {
            match self.logs.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += value,
                None => self.logs.push((name, *value)),
            }
        }
    }
}

/// Examples a second and the loss, smoothed, for those who watch.
struct Pace {
    began: Instant,
    step_began: Instant,
    seconds_a_step: f64,
    rate: f64,
    loss: f64,
    weight: f64,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        let zero = (0.0, 0.0, 0.0, 0.0);
        let (seconds_a_step, rate, loss, weight) = zero;
        Self { began: now, step_began: now, seconds_a_step, rate, loss, weight }
    }

    fn add(&mut self, loss: f64, samples: usize) {
        const KEEP: f64 = 0.95;
        let seconds = self.step_began.elapsed().as_secs_f64().max(1e-9);
        let mix = |old: f64, new: f64| KEEP * old + (1.0 - KEEP) * new;
        self.seconds_a_step = mix(self.seconds_a_step, seconds);
        self.loss = mix(self.loss, loss);
        self.weight = mix(self.weight, 1.0);
        self.rate = samples as f64 / (self.seconds_a_step / self.weight);
    }

    fn loss(&self) -> f64 {
        self.loss / self.weight
    }

    fn time_left(&self, steps: u64) -> Duration {
        Duration::from_secs_f64(self.seconds_a_step / self.weight.max(1e-9) * steps as f64)
    }
}

/// A run under way.
struct Running<'a> {
    trainer: &'a Trainer,
    recipe: &'a mut dyn Recipe,
    settings: &'a TrainSettings,
    progress: &'a mut dyn Progress,
    generator: Generator,
    adam: AdamW,
    ema: Ema,
    step: u64,
    window: Window,
    pace: Pace,
}

impl Trainer {
    /// Trains `recipe` to the end, or until it is asked to stop.
    pub fn run(
        &self,
        recipe: &mut dyn Recipe,
        settings: &TrainSettings,
        progress: &mut dyn Progress,
    ) -> Result<Outcome> {
        let saved = self.run.newest()?;
        if let (Some(saved), false) = (&saved, self.resume) {
            let path = self.run.root().to_path_buf();
            return Err(TrainError::RunExists { path, step: saved.stamp.step });
        }
        if saved.is_none() && settings.warm_start {
            warm_start(&self.model, recipe)?;
        }
        let adam = AdamW::new(recipe.parameters(), settings.adam());
        let ema = Ema::new(recipe.parameters(), settings.ema_decay)?;
        let generator = Generator::new(settings.seed).fork(recipe.name());
        let (trainer, step) = (self, 0);
        let (window, pace) = (Window::default(), Pace::new());
        let mut running = Running {
            trainer,
            recipe,
            settings,
            progress,
            generator,
            adam,
            ema,
            step,
            window,
            pace,
        };
        if let Some(saved) = saved {
            running.restore(&saved)?;
        }
        self.run.rewind(running.step)?;
        running.go()
    }
}

/// Puts the weights that the model directory has into the recipe's parameters of the same names.
fn warm_start(model: &Path, recipe: &mut dyn Recipe) -> Result<()> {
    let start = component::weights(model, recipe.component())?;
    let named = start.names().into_iter().filter_map(|n| Some((n.clone(), start.tensor(&n)?)));
    recipe.parameters().assign(&named.collect())?;
    recipe.started_warm()
}

impl Running<'_> {
    fn go(&mut self) -> Result<Outcome> {
        let precision = if self.settings.bf16 { Precision::Bf16 } else { Precision::F32 };
        let _scope = PrecisionScope::new(precision);
        let steps = self.settings.steps;
        let parameters = self.recipe.parameters().count();
        let stage = self.recipe.name();
        let started = Event::Started { stage, step: self.step, steps, parameters };
        self.progress.report(started);
        let mut saved_at = (self.step, Instant::now());
        while self.step < steps {
            if self.trainer.stop.load(Ordering::Relaxed) {
                if saved_at.0 != self.step {
                    self.save()?;
                }
                return Ok(Outcome::Stopped { step: self.step });
            }
            self.take_step()?;
            if self.step == steps {
                break;
            }
            let due = |every: u64| every > 0 && self.step.is_multiple_of(every);
            let (evaluate, sample) =
                (due(self.settings.evaluate_every), due(self.settings.sample_every));
            let minutes = saved_at.1.elapsed().as_secs_f64() / 60.0;
            if due(self.settings.checkpoint_every) || minutes >= self.settings.checkpoint_minutes {
                self.save()?;
                saved_at = (self.step, Instant::now());
            }
            if evaluate || sample {
                self.look(evaluate, sample)?;
            }
        }
        if saved_at.0 != self.step {
            self.save()?;
        }
        if !self.trainer.run.has_samples(steps) {
            self.look(true, true)?;
        }
        self.export()?;
        Ok(Outcome::Finished)
    }

    fn take_step(&mut self) -> Result<()> {
        self.pace.step_began = Instant::now();
        let mut generator = self.generator.fork(&format!("step {}", self.step));
        let step_loss = self.recipe.loss(self.step, &mut generator)?;
        let loss = f64::from(step_loss.loss.to_scalar::<f32>()?);
        self.finite("loss", loss)?;
        let gradients = any2pix_nn::backward(&step_loss.loss)?;
        let learning_rate = self.settings.schedule().at(self.step);
        let gradient_norm = self.adam.step(&gradients, learning_rate)?;
        self.finite("gradient norm", gradient_norm)?;
        self.ema.update()?;
        self.step += 1;
        self.window.add(loss, &step_loss.logs);
        self.pace.add(loss, step_loss.samples);
        let report = StepReport {
            step: self.step,
            steps: self.settings.steps,
            loss: self.pace.loss(),
            logs: &step_loss.logs,
            learning_rate,
            gradient_norm,
            rate: self.pace.rate,
            time_left: self.pace.time_left(self.settings.steps - self.step),
        };
        self.progress.report(Event::Step(&report));
        if self.step.is_multiple_of(self.settings.log_every) || self.step == self.settings.steps {
            self.log(&report)?;
        }
        Ok(())
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        Err(TrainError::NonFinite { step: self.step, what, value })
    }

    fn log(&mut self, report: &StepReport<'_>) -> Result<()> {
        let window = std::mem::take(&mut self.window);
        let count = window.steps.max(1) as f64;
        let mut row = json!({
            "step": report.step,
            "loss": window.loss / count,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "rate": report.rate,
            "seconds": self.pace.began.elapsed().as_secs_f64(),
        });
        for (name, sum) in window.logs {
            row[name] = json!(sum / count);
        }
        let run = &self.trainer.run;
        run.append(&run.log(), &row)
    }

    /// The state after `self.step` steps: weights, their average, both moments.
    fn save(&mut self) -> Result<()> {
        let named = self.recipe.parameters().named();
        let weight = |(name, var): (String, candle_core::Var)| {
            (format!("weights/{name}"), var.as_tensor().clone())
        };
        let mut tensors: Vec<(String, Tensor)> = named.into_iter().map(weight).collect();
        tensors.extend(self.ema.state("average/")?);
        tensors.extend(self.adam.state("moments/")?);
        let stamp = self.stamp();
        let path = self.trainer.run.save(&stamp, &tensors)?;
        self.progress.report(Event::Saved { step: self.step, path: &path });
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            stage: self.recipe.name().to_string(),
            step: self.step,
            settings: self.settings.fingerprint(),
        }
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        let step = saved.stamp.step;
        let differs = |reason: String| TrainError::Resume { path: saved.path.clone(), reason };
        let expected = Stamp { step, ..self.stamp() };
        if saved.stamp != expected {
            return Err(differs(format!("it was made with {:?}, not {expected:?}", saved.stamp)));
        }
        let weights = saved.group("weights/");
        let here = self.recipe.parameters().named();
        if let Some((name, _)) = here.iter().find(|(name, _)| !weights.contains_key(name)) {
            return Err(differs(format!("it has no weight `{name}`")));
        }
        let unknown = self.recipe.parameters().assign(&weights)?;
        if let Some(name) = unknown.first() {
            return Err(differs(format!("the recipe has no weight `{name}`")));
        }
        // Both count one for every step that was taken, so the step is all there is to know.
        self.ema.restore("average/", step, |name| saved.tensor(name))?;
        self.adam.restore("moments/", step, |name| saved.tensor(name))?;
        self.step = step;
        Ok(())
    }

    /// Evaluates and samples with the averaged weights in place, then draws the curves.
    fn look(&mut self, evaluate: bool, sample: bool) -> Result<()> {
        self.ema.swap()?;
        let seen = self.look_at_average(evaluate, sample);
        self.ema.swap()?;
        seen?;
        let run = &self.trainer.run;
        curves::draw(&run.curves(), &run.rows(&run.log())?, &run.rows(&run.figures())?)
    }

    fn look_at_average(&mut self, evaluate: bool, sample: bool) -> Result<()> {
        let run = &self.trainer.run;
        if evaluate {
            let mut generator = self.generator.fork("evaluate");
            let figures = self.recipe.evaluate(&mut generator)?;
            if !figures.is_empty() {
                let mut row = json!({ "step": self.step });
                for (name, value) in &figures {
                    row[name.as_str()] = json!(value);
                }
                run.append(&run.figures(), &row)?;
                self.progress.report(Event::Evaluated { step: self.step, figures: &figures });
            }
        }
        if sample {
            let dir = run.samples(self.step)?;
            self.recipe.sample(&dir, &mut self.generator.fork("sample"))?;
            self.progress.report(Event::Sampled { dir: &dir });
        }
        Ok(())
    }

    fn export(&mut self) -> Result<()> {
        self.ema.swap()?;
        let exported = self.recipe.export(&self.trainer.model);
        self.ema.swap()?;
        exported?;
        self.progress.report(Event::Exported { dir: &self.trainer.model });
        Ok(())
    }
}
