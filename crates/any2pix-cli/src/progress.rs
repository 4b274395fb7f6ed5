//! `Terminal`: an edit's progress on stderr; a line a stage, a bar where a stage takes long.

use std::time::{Duration, Instant};

use any2pix_agent::{Progress, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt;
use crate::printer::Printer;

/// A stage shorter than this has no bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows an edit's progress.
pub(crate) struct Terminal<'a> {
    printer: &'a Printer,
    stage: Stage,
    began: Instant,
    bar: Option<ProgressBar>,
    /// Every stage is named while it runs, also one that is short.
    names_stages: bool,
}

impl<'a> Terminal<'a> {
    /// Progress of an edit that begins now.
    pub(crate) fn new(printer: &'a Printer) -> Self {
        let (stage, began) = (Stage::Load, Instant::now());
        Self { printer, stage, began, bar: None, names_stages: false }
    }

    /// Progress of an edit that somebody waits for at a prompt.
    pub(crate) fn of_conversation(printer: &'a Printer) -> Self {
        Self { names_stages: true, ..Self::new(printer) }
    }

    /// Takes what moves off the screen.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Terminal<'_> {
    fn stage(&mut self, stage: Stage) {
        self.finish();
        self.stage = stage;
        self.began = Instant::now();
        if self.names_stages && self.printer.is_interactive() {
            let name = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            name.set_style(ProgressStyle::default_spinner());
            name.set_message(stage.to_string());
            name.tick();
            self.bar = Some(name);
        }
    }

    fn step(&mut self, done: usize, total: usize) {
        if !self.printer.is_interactive() {
            return;
        }
        let is_name = self.bar.as_ref().is_some_and(|bar| bar.length().is_none());
        if (self.bar.is_none() || is_name) && self.began.elapsed() >= PATIENCE {
            self.finish();
            let bar =
                ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg:>9} {wide_bar} {pos}/{len} {eta}")
            {
                bar.set_style(style);
            }
            bar.set_message(self.stage.to_string());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        }
    }

    fn warning(&mut self, message: &str) {
        self.finish();
        self.printer.warning(message);
    }

    fn plan(&mut self, lines: &[String]) {
        self.finish();
        for line in lines {
            self.printer.note(line);
        }
    }

    fn is_cancelled(&self) -> bool {
        interrupt::requested().is_some()
    }
}
