//! Gradients: recipes, optimiser, moving average, checkpoints that resume bit for bit, curves.
//!
//! A [`Recipe`] knows what is trained and what the loss is; the [`Trainer`] knows everything
//! else. Step `n` draws from a generator forked by the seed and `n`, so that a run that was
//! stopped and resumed sees what an uninterrupted one sees.

pub mod curves;
pub mod ema;
pub mod error;
pub mod export;
pub mod optimizer;
pub mod playroom;
pub mod prefetch;
pub mod progress;
pub mod recipe;
pub mod recipes;
pub mod run_dir;
pub mod schedule;
pub mod settings;
pub mod stages;
pub mod trainer;

pub use error::{Result, TrainError};
pub use prefetch::Prefetch;
pub use progress::{Event, Progress};
pub use recipe::{Recipe, StepLoss};
pub use settings::{PlanOfStages, TrainSettings};
pub use trainer::{Outcome, Trainer};
