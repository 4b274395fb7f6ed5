//! `Failure` and `Exit`: how an error becomes `error:`, causes, `hint:` lines and an exit code.

use any2pix_agent::batch::Fault;
use any2pix_agent::{AgentError, ErrorClass};
use any2pix_nn::Hint;

use crate::interrupt;
use crate::printer::printable;

/// Faults of a manifest that are shown.
const MOST_FAULTS: usize = 100;

/// What the process says to the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Finished, but some items failed or are missing.
    Items = 1,
    /// Usage or input refused; nothing was done.
    Refused = 2,
    /// A model cannot be loaded.
    Model = 3,
    /// No space, read-only, input/output.
    Storage = 4,
    /// A defect of ours.
    Internal = 5,
    /// Busy or locked; try again.
    Busy = 75,
    /// SIGINT.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The error, then its causes, one line each.
    pub(crate) causes: Vec<String>,
    /// What to try next.
    pub(crate) hints: Vec<String>,
}

impl Failure {
    /// A failure of one line.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, causes: vec![one_line(&message.into())], hints: Vec::new() }
    }

    /// Usage or input is wrong.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// A defect of ours.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message)
    }

    /// An error with its causes and hints.
    pub(crate) fn of(exit: Exit, error: &dyn Hint) -> Self {
        let mut causes: Vec<String> = vec![one_line(&error.to_string())];
        let mut source = error.source();
        while let Some(cause) = source {
            let line = one_line(&cause.to_string());
            if !causes.contains(&line) {
                causes.push(line);
            }
            source = cause.source();
        }
        Self { exit, causes, hints: error.hints() }
    }

    /// Adds what to try next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<ErrorClass> for Exit {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Refused => Self::Refused,
            ErrorClass::Model => Self::Model,
            ErrorClass::Storage => Self::Storage,
            ErrorClass::Internal => Self::Internal,
            ErrorClass::Busy => Self::Busy,
            ErrorClass::Cancelled => interrupt::requested().unwrap_or(Self::Interrupted),
        }
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        let mut failure = Self::of(error.class().into(), &error);
        if let AgentError::Manifest { faults, .. } = &error {
            let line = |fault: &Fault| one_line(&format!("line {}: {}", fault.line, fault.reason));
            failure.causes.extend(faults.iter().take(MOST_FAULTS).map(line));
            if let Some(more) = faults.len().checked_sub(MOST_FAULTS).filter(|more| *more > 0) {
                failure.causes.push(format!("and {more} more"));
            }
        }
        failure
    }
}

/// Everything of a message but backtraces (which candle appends) and raw control characters
/// (which a file name may hold).
fn one_line(message: &str) -> String {
    let frame = |line: &str| {
        let rest = line.trim_start();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && rest[digits..].starts_with(": ") && rest.len() < line.len()
    };
    let lines = message.lines().take_while(|line| !frame(line)).map(str::trim);
    printable(&lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": "))
}

/// A panic is a defect of ours: one line instead of a backtrace.
pub(crate) fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload();
        let text = message
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| message.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        crate::printer::stderr_line(&format!("error: internal error at {place}: {text}"));
        crate::printer::stderr_line("hint: this is a defect of any2pix; please report it");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backtraces_and_control_characters_are_dropped() {
        let text = "shape mismatch\n   0: candle_core::error\n             at /x/y.rs:1\n";
        assert_eq!(one_line(text), "shape mismatch");
        assert_eq!(
            one_line("loading \u{1b}[31m\nno such file"),
            "loading \u{fffd}[31m: no such file"
        );
    }
}
