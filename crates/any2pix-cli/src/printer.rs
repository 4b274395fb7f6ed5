//! `Printer`: the only place that writes to the terminal.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};

use serde_json::{Value, json};

use crate::diagnostics::Failure;

/// Writes results to stdout and everything else to stderr.
pub(crate) struct Printer {
    /// Results are one JSON document.
    pub(crate) json: bool,
    /// Nothing but results and errors.
    pub(crate) quiet: bool,
    /// A JSON document takes one line.
    lines: bool,
}

/// `text` without what would steer a terminal: file names and a model's words may hold anything.
pub(crate) fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() && !"\n\t".contains(c) { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

/// Writes a line to stderr; a closed stderr is nobody's error.
pub(crate) fn stderr_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// `text` as one line, without what would steer a terminal.
pub(crate) fn printable_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl Printer {
    /// A printer of results as JSON or as text.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, lines: false }
    }

    /// A printer like this one, for several results: each JSON document takes one line.
    pub(crate) fn of_lines(&self) -> Self {
        Self { lines: true, ..*self }
    }

    /// A line of the result, on stdout. A reader that went away (`| head`) ends the process
    /// quietly.
    pub(crate) fn result(&self, line: &str) {
        let mut stdout = std::io::stdout();
        // What another program reads is not changed.
        let line =
            if stdout.is_terminal() { Cow::Owned(printable(line)) } else { Cow::Borrowed(line) };
        if let Err(error) = writeln!(stdout, "{line}")
            && error.kind() == ErrorKind::BrokenPipe
        {
            std::process::exit(0);
        }
    }

    /// The result as a JSON document, on stdout.
    pub(crate) fn document(&self, document: &Value) {
        let text = match self.lines {
            true => document.to_string(),
            false => serde_json::to_string_pretty(document).unwrap_or_default(),
        };
        self.result(&text);
    }

    /// A line that tells what is going on, on stderr.
    pub(crate) fn note(&self, line: &str) {
        if !self.quiet && !self.json {
            stderr_line(line);
        }
    }

    /// A line about something that deserves attention, on stderr.
    pub(crate) fn warning(&self, line: &str) {
        if !self.json {
            stderr_line(&format!("warning: {line}"));
        }
    }

    /// True when moving bars make sense.
    pub(crate) fn is_interactive(&self) -> bool {
        !self.quiet && !self.json && std::io::stderr().is_terminal()
    }

    /// `error:`, causes, then `hint:` lines on stderr; with `--json` a document on stdout too.
    pub(crate) fn failure(&self, failure: &Failure) {
        let mut causes = failure.causes.iter();
        stderr_line(&format!("error: {}", causes.next().map_or("", String::as_str)));
        for cause in causes {
            stderr_line(&format!("  caused by: {cause}"));
        }
        for hint in &failure.hints {
            stderr_line(&format!("hint: {hint}"));
        }
        if self.json {
            self.document(&json!({
                "status": "error",
                "exit_code": failure.exit as u8,
                "error": failure.causes,
                "hints": failure.hints,
            }));
        }
    }
}
