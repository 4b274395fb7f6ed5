//! `Recipe`: what one stage trains, its loss, its figures, its samples, its weights.

use std::path::Path;

use any2pix_nn::{Generator, Parameters};
use candle_core::Tensor;

use crate::Result;

/// What one training step computed.
pub struct StepLoss {
    /// A scalar to go down, with its graph.
    pub loss: Tensor,
    /// Named parts of it, averaged into the log.
    pub logs: Vec<(&'static str, f64)>,
    /// How many examples it saw, for the rate.
    pub samples: usize,
}

impl StepLoss {
    /// A loss without named parts.
    pub fn new(loss: Tensor, samples: usize) -> Self {
        Self { loss, logs: Vec::new(), samples }
    }

    /// Adds a named part to the log.
    pub fn log(mut self, name: &'static str, value: f64) -> Self {
        self.logs.push((name, value));
        self
    }
}

/// One stage of training.
///
/// All chance comes from the generator that is handed in: it depends on the seed and the step
/// alone, and a recipe keeps no state between steps that changes the next loss. That is what
/// makes a resumed run equal to an uninterrupted one.
pub trait Recipe {
    /// The stage's name, also that of its settings file.
    fn name(&self) -> &str;

    /// The folder of the model directory that the stage's weights are written to.
    fn component(&self) -> &str {
        self.name()
    }

    /// What is trained.
    fn parameters(&self) -> &Parameters;

    /// The weights of an earlier run were put in place; what is not part of them can follow.
    fn started_warm(&mut self) -> Result<()> {
        Ok(())
    }

    /// The loss of one step.
    fn loss(&mut self, step: u64, generator: &mut Generator) -> Result<StepLoss>;

    /// Figures on held-out data; the averaged weights are in place.
    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let _ = generator;
        Ok(Vec::new())
    }

    /// Pictures or texts to look at, written to `dir`; the averaged weights are in place.
    fn sample(&mut self, dir: &Path, generator: &mut Generator) -> Result<()> {
        let _ = (dir, generator);
        Ok(())
    }

    /// Writes the component (`<name>/config.json`, `<name>/model.safetensors`) into the model
    /// directory `dir`; the averaged weights are in place.
    fn export(&self, dir: &Path) -> Result<()>;
}
