//! `Transfer`: files that are fetched or written, on stderr; a bar each where that makes sense.

use any2pix_hub::{Progress, human_bytes};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt;
use crate::printer::Printer;

/// Shows what comes and goes.
pub(super) struct Transfer<'a> {
    printer: &'a Printer,
    bar: Option<ProgressBar>,
}

impl<'a> Transfer<'a> {
    /// Nothing is on the screen yet.
    pub(super) fn new(printer: &'a Printer) -> Self {
        Self { printer, bar: None }
    }

    /// Takes what moves off the screen.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Transfer<'_> {
    fn file(&mut self, name: &str, done: u64, bytes: u64) {
        self.finish();
        if !self.printer.is_interactive() {
            let rest = match done {
                0 => String::new(),
                done => format!(", {} are there", human_bytes(done)),
            };
            self.printer.note(&format!("{name}: {}{rest}", human_bytes(bytes)));
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_string());
        bar.set_position(done);
        bar.reset_eta();
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn warning(&mut self, message: &str) {
        self.printer.warning(message);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::requested().is_some()
    }
}
