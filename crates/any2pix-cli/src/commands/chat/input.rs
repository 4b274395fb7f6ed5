//! Where lines come from: the line editor at a terminal, or standard input as it is.

use std::io::{BufRead, StdinLock};
use std::path::PathBuf;

use any2pix_agent::bounded_lines::{BoundedLines, Line, MAX_LINE_BYTES};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{ColorMode, CompletionType, Config, Editor};

use super::helper::Helping;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// Lines that are remembered from run to run.
const HISTORY: usize = 1000;

/// What came.
pub(super) enum Heard {
    /// A line, or several that belong together.
    Line(String),
    /// Something that is no line of text.
    Wrong(Failure),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// The end.
    Left(Exit),
}

/// Where lines come from.
pub(super) enum Input {
    /// A line editor.
    Terminal {
        /// It.
        editor: Box<Editor<Helping, FileHistory>>,
        /// Where lines are remembered, if they are.
        history: Option<PathBuf>,
        /// The last thing that came was Ctrl-C.
        interrupted: bool,
    },
    /// Standard input.
    Lines(BoundedLines<StdinLock<'static>>),
}

fn failed(error: ReadlineError) -> Failure {
    Failure::internal(format!("the terminal cannot be read: {error}"))
}

impl Input {
    /// The line editor, with its history in `state`.
    pub(super) fn terminal(
        home: Option<PathBuf>,
        keys: Vec<String>,
        state: Option<PathBuf>,
        printer: &Printer,
    ) -> Result<Self, Failure> {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .color_mode(if plain { ColorMode::Disabled } else { ColorMode::Enabled })
            .max_history_size(HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(failed)?
            .auto_add_history(true)
            .build();
        interrupt::guard_terminal()?;
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Helping::new(home, keys)));
        let mut history = state.map(|state| state.join("chat_history"));
        if let Some(path) = &history {
            if let Some(parent) = path.parent() {
                // A folder that cannot be made is a history that cannot be written, said below.
                let _ = std::fs::create_dir_all(parent);
            }
            if path.exists() && editor.load_history(path).is_err() {
                printer.warning(&format!("{}: the history cannot be read", path.display()));
                history = None;
            }
        }
        Ok(Self::Terminal { editor: Box::new(editor), history, interrupted: false })
    }

    /// Standard input, line by line.
    pub(super) fn lines() -> Self {
        Self::Lines(BoundedLines::new(std::io::stdin().lock()))
    }

    /// Waits for the next line.
    pub(super) fn next(&mut self, prompt: &str) -> Result<Heard, Failure> {
        match self {
            Self::Lines(lines) => {
                interrupt::one_is_enough();
                line(lines)
            }
            Self::Terminal { editor, history, interrupted } => {
                let came = interrupt::while_reading(|| editor.readline(prompt));
                let twice = std::mem::replace(interrupted, false);
                match came {
                    Ok(line) => {
                        let kept = history.as_ref().map(|path| editor.append_history(path));
                        if matches!(kept, Some(Err(_))) {
                            // Said by the warning at the start, or not worth an interruption.
                            *history = None;
                        }
                        Ok(Heard::Line(line))
                    }
                    Err(ReadlineError::Interrupted) if twice => Ok(Heard::Left(Exit::Interrupted)),
                    Err(ReadlineError::Interrupted) => {
                        *interrupted = true;
                        Ok(Heard::Interrupted)
                    }
                    Err(ReadlineError::Eof) => Ok(Heard::Left(Exit::Done)),
                    Err(error) => Err(failed(error)),
                }
            }
        }
    }
}

/// The next line of `lines`.
fn line(lines: &mut BoundedLines<impl BufRead>) -> Result<Heard, Failure> {
    let failed = |error| Failure::new(Exit::Storage, format!("standard input: {error}"));
    let wrong = |what: String| Heard::Wrong(Failure::refused(format!("standard input: {what}")));
    Ok(match lines.next_line().map_err(failed)? {
        None => Heard::Left(Exit::Done),
        Some(Line::Text(text)) => Heard::Line(text),
        Some(Line::TooLong) => wrong(format!("a line is longer than {} KB", MAX_LINE_BYTES >> 10)),
        Some(Line::Invalid { offset }) => wrong(format!("byte {offset} is not UTF-8")),
    })
}
