//! `TrainSettings`: one stage's TOML file; `PlanOfStages`: the file that repeats a whole training.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::optimizer::AdamWSettings;
use crate::schedule::{Decay, Schedule};
use crate::{Result, TrainError};

/// One stage's numbers. What a recipe alone understands stands under `[recipe]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// The stage, where the file is not called after it.
    #[serde(default)]
    pub stage: Option<String>,
    /// Begin with the weights that the model directory has of the stage's component.
    #[serde(default)]
    pub warm_start: bool,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Examples a step.
    pub batch: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps of linear growth at the start.
    #[serde(default)]
    pub warmup: u64,
    /// What the rate does then.
    #[serde(default)]
    pub decay: Decay,
    /// The fraction of the rate that is left at the end.
    #[serde(default = "defaults::final_ratio")]
    pub final_ratio: f64,
    /// Decoupled weight decay; tensors of one dimension are spared.
    #[serde(default)]
    pub weight_decay: f64,
    /// Decay of the two moments.
    #[serde(default = "defaults::betas")]
    pub betas: (f64, f64),
    /// The highest global gradient norm; 0 turns clipping off.
    #[serde(default = "defaults::clip_norm")]
    pub clip_norm: f64,
    /// Decay of the moving average of the weights.
    #[serde(default = "defaults::ema_decay")]
    pub ema_decay: f64,
    /// All chance of the run comes from here.
    #[serde(default)]
    pub seed: u64,
    /// Steps between two rows of the log.
    #[serde(default = "defaults::log_every")]
    pub log_every: u64,
    /// Steps between two evaluations; 0: only at the end.
    #[serde(default)]
    pub evaluate_every: u64,
    /// Steps between two sets of samples; 0: only at the end.
    #[serde(default)]
    pub sample_every: u64,
    /// Steps between two checkpoints; 0: by the clock alone.
    #[serde(default)]
    pub checkpoint_every: u64,
    /// Minutes between two checkpoints.
    #[serde(default = "defaults::checkpoint_minutes")]
    pub checkpoint_minutes: f64,
    /// Rounds the operands of products to bfloat16 where the machine is faster at it; sums and
    /// weights stay f32.
    #[serde(default = "defaults::bf16")]
    pub bf16: bool,
    /// The recipe's own numbers.
    #[serde(default)]
    pub recipe: toml::Table,
}

mod defaults {
    pub(super) fn bf16() -> bool {
        true
    }
    pub(super) fn final_ratio() -> f64 {
        0.05
    }
    pub(super) fn betas() -> (f64, f64) {
        (0.9, 0.99)
    }
    pub(super) fn clip_norm() -> f64 {
        1.0
    }
    pub(super) fn ema_decay() -> f64 {
        0.999
    }
    pub(super) fn log_every() -> u64 {
        10
    }
    pub(super) fn checkpoint_minutes() -> f64 {
        5.0
    }
}

fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    toml::from_str(&text)
        .map_err(|e| TrainError::Config { path: path.to_path_buf(), reason: e.to_string() })
}

impl TrainSettings {
    /// Reads and checks a settings file.
    pub fn read(path: &Path) -> Result<Self> {
        let settings: Self = read_toml(path)?;
        let wrong = |reason: &str| {
            Err(TrainError::Config { path: path.to_path_buf(), reason: reason.to_string() })
        };
        if settings.steps == 0 || settings.batch == 0 || settings.log_every == 0 {
            return wrong("steps, batch and log_every must be at least 1");
        }
        if !(settings.learning_rate > 0.0 && settings.learning_rate.is_finite()) {
            return wrong("learning_rate must be a positive number");
        }
        if !(0.0..1.0).contains(&settings.ema_decay) {
            return wrong("ema_decay must be in [0, 1)");
        }
        Ok(settings)
    }

    /// The recipe's own numbers, as the recipe's own type.
    pub fn recipe<T: DeserializeOwned>(&self) -> Result<T> {
        self.recipe.clone().try_into().map_err(|e: toml::de::Error| TrainError::Config {
            path: PathBuf::from("[recipe]"),
            reason: e.to_string(),
        })
    }

    /// The learning rate over the run.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            learning_rate: self.learning_rate,
            warmup: self.warmup,
            steps: self.steps,
            decay: self.decay,
            final_ratio: self.final_ratio,
        }
    }

    /// What the optimiser needs to know.
    pub fn adam(&self) -> AdamWSettings {
        AdamWSettings {
            betas: self.betas,
            epsilon: 1e-8,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
        }
    }

    /// What must not change between the start of a run and its resumption, as text.
    ///
    /// How often something is logged, saved or looked at may change.
    pub fn fingerprint(&self) -> String {
        format!(
            "steps={} batch={} lr={} warmup={} decay={:?} end={} wd={} betas={:?} clip={} \
             ema={} seed={} bf16={} warm={} recipe={:?}",
            self.steps,
            self.batch,
            self.learning_rate,
            self.warmup,
            self.decay,
            self.final_ratio,
            self.weight_decay,
            self.betas,
            self.clip_norm,
            self.ema_decay,
            self.seed,
            self.bf16,
            self.warm_start,
            self.recipe
        )
    }
}

/// The stages of a whole training, in order, each with its settings file beside this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanOfStages {
    /// Names of settings files without `.toml`; the stage is called the same, or as the file says.
    pub stages: Vec<String>,
    #[serde(skip)]
    folder: PathBuf,
}

impl PlanOfStages {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let mut plan: Self = read_toml(path)?;
        plan.folder = path.parent().unwrap_or(Path::new(".")).to_path_buf();
        Ok(plan)
    }

    /// The settings file of a stage.
    pub fn settings_file(&self, stage: &str) -> PathBuf {
        self.folder.join(format!("{stage}.toml"))
    }
}
