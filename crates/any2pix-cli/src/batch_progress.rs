//! `BatchProgress`: a batch's progress on stderr; a bar on a terminal, a line a row elsewhere.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use any2pix_agent::batch::{RowEvent, Watch};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt;
use crate::printer::Printer;

/// Shows a batch's progress.
pub(crate) struct BatchProgress<'a> {
    printer: &'a Printer,
    state: Mutex<Option<State>>,
}

struct State {
    bar: Option<ProgressBar>,
    total: usize,
    done: usize,
    /// Of them before this run.
    skipped: usize,
    began: Instant,
}

impl State {
    /// Rows a second, and the time that the rest takes at that rate.
    fn pace(&self) -> (f64, Duration) {
        let rate = (self.done - self.skipped) as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        let left = (self.total - self.done) as f64 / rate.max(1e-9);
        (rate, Duration::from_secs_f64(left.min(1e9)))
    }
}

fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    let template = "{wide_bar} {pos}/{len} {per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

impl<'a> BatchProgress<'a> {
    /// Progress of a batch that begins now.
    pub(crate) fn new(printer: &'a Printer) -> Self {
        Self { printer, state: Mutex::new(None) }
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(body)
    }

    /// Takes what moves off the screen.
    pub(crate) fn finish(&self) {
        self.with(|state| state.bar.take().inspect(ProgressBar::finish_and_clear));
    }

    /// How many rows are done, and of how many; none before the batch began.
    pub(crate) fn counted(&self) -> Option<(usize, usize)> {
        self.with(|state| (state.done, state.total))
    }

    fn say(&self, state: &State, line: &str) {
        match &state.bar {
            Some(bar) => bar.suspend(|| self.printer.note(line)),
            None => self.printer.note(line),
        }
    }
}

impl Watch for BatchProgress<'_> {
    fn begin(&self, total: usize, skipped: usize) {
        let bar = self.printer.is_interactive().then(|| {
            let bar = bar(total);
            bar.set_position(skipped as u64);
            bar.reset_eta();
            bar
        });
        let state = State { bar, total, done: skipped, skipped, began: Instant::now() };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    fn row(&self, event: &RowEvent<'_>) {
        self.with(|state| {
            state.done += 1;
            if let Some(bar) = &state.bar {
                bar.set_position(state.done as u64);
            }
            let (result, (rate, left)) = (event.result, state.pace());
            let place = format!("{}/{} {}", state.done, state.total, result.id);
            match &result.failure {
                Some(failure) => self.say(state, &format!("{place}: failed: {}", failure.error)),
                None if state.bar.is_some() => {}
                None => {
                    let (seconds, left) = (event.seconds, HumanDuration(left));
                    let pace = format!("{rate:.2} rows/s, {left} left");
                    self.say(state, &format!("{place}: done in {seconds:.1} s; {pace}"));
                }
            }
        });
    }

    fn warning(&self, message: &str) {
        self.printer.warning(message);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::requested().is_some()
    }
}
