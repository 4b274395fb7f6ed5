//! `Run`: one edit under way; its clock, its warnings, and whether someone asked to stop.

use std::time::Instant;

use crate::error::AgentError;
use crate::outcome::{StageTime, peak_memory, resident_memory};
use crate::progress::{Progress, Stage};

/// One edit under way.
pub struct Run<'a> {
    progress: &'a mut dyn Progress,
    /// Wall time of each stage so far.
    pub timings: Vec<StageTime>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl<'a> Run<'a> {
    /// An edit that begins now.
    pub fn new(progress: &'a mut dyn Progress) -> Self {
        Self { progress, timings: Vec::new(), warnings: Vec::new() }
    }

    /// Does a stage, unless someone asked to stop; its time adds to that of earlier ones of the
    /// same kind.
    pub fn stage<T>(
        &mut self,
        stage: Stage,
        body: impl FnOnce(&mut Self) -> Result<T, AgentError>,
    ) -> Result<T, AgentError> {
        self.continue_or_stop(stage)?;
        self.progress.stage(stage);
        let start = Instant::now();
        let result = body(self)?;
        let seconds = start.elapsed().as_secs_f64();
        match self.timings.iter_mut().find(|time| time.stage == stage) {
            Some(time) => time.seconds += seconds,
            None => self.timings.push(StageTime {
                stage,
                seconds,
                resident_memory: None,
                peak_memory: None,
            }),
        }
        if let Some(time) = self.timings.iter_mut().find(|time| time.stage == stage) {
            time.resident_memory = resident_memory();
            time.peak_memory = peak_memory();
        }
        Ok(result)
    }

    /// An error when someone asked to stop.
    pub fn continue_or_stop(&self, stage: Stage) -> Result<(), AgentError> {
        if self.progress.is_cancelled() { Err(AgentError::Cancelled { stage }) } else { Ok(()) }
    }

    /// True when someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
    }

    /// `done` of `total` steps of the stage are behind.
    pub fn step(&mut self, done: usize, total: usize) {
        self.progress.step(done, total);
    }

    /// Something that the user should know.
    pub fn warn(&mut self, message: String) {
        self.progress.warning(&message);
        self.warnings.push(message);
    }

    /// Shows the plan.
    pub fn show_plan(&mut self, lines: &[String]) {
        self.progress.plan(lines);
    }
}

/// Does a stage whose parts are dropped at its end, and gives their memory back.
pub(crate) fn stage<T>(
    run: &mut Run,
    stage: Stage,
    body: impl FnOnce(&mut Run) -> Result<T, AgentError>,
) -> Result<T, AgentError> {
    run.stage(stage, |run| {
        let result = body(run);
        any2pix_nn::release_memory();
        result
    })
}
