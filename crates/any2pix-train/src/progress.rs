//! `Progress`: what a run tells while it runs; the command line prints it.

use std::path::Path;
use std::time::Duration;

/// Something happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The run begins, or goes on, after `step` steps.
    Started {
        /// The stage.
        stage: &'a str,
        /// Steps done.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Numbers that are trained.
        parameters: usize,
    },
    /// A step was taken.
    Step(&'a StepReport<'a>),
    /// Held-out figures were computed.
    Evaluated {
        /// Steps done.
        step: u64,
        /// Names and values.
        figures: &'a [(String, f64)],
    },
    /// Samples were written.
    Sampled {
        /// Where.
        dir: &'a Path,
    },
    /// The state was saved.
    Saved {
        /// Steps done.
        step: u64,
        /// Where.
        path: &'a Path,
    },
    /// The component was written into the model directory.
    Exported {
        /// The model directory.
        dir: &'a Path,
    },
}

/// One step in figures.
#[derive(Clone, Copy, Debug)]
pub struct StepReport<'a> {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// The smoothed loss.
    pub loss: f64,
    /// The parts of this step's loss.
    pub logs: &'a [(&'static str, f64)],
    /// What the optimiser used.
    pub learning_rate: f64,
    /// Before clipping.
    pub gradient_norm: f64,
    /// Examples a second, lately.
    pub rate: f64,
    /// At this pace.
    pub time_left: Duration,
}

/// Whoever wants to know.
pub trait Progress {
    /// Is called for every event, on the training thread.
    fn report(&mut self, event: Event<'_>);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&mut self, _: Event<'_>) {}
}
