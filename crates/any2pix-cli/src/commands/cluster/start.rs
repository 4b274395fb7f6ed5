//! `Start`: a file that says all about a job, and the program that reads it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use any2pix_agent::storage::write_atomically;
use serde_json::json;

use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// A file that says all about a job, and the program that reads it.
pub(super) struct Start {
    /// Where the file is kept.
    pub(super) file: PathBuf,
    /// What it says.
    pub(super) text: String,
    /// The program, with what stands before the file's name.
    pub(super) program: &'static [&'static str],
}

impl Start {
    /// Shows what would be started.
    pub(super) fn show(&self, printer: &Printer) {
        if printer.json {
            return printer.document(&json!({ "file": self.file, "text": self.text }));
        }
        printer.result(self.text.trim_end());
    }

    /// Writes the file.
    pub(super) fn write(&self) -> Result<(), Failure> {
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder).map_err(|error| {
                Failure::new(Exit::Storage, format!("{}: {error}", folder.display()))
            })?;
        }
        Ok(write_atomically(&self.file, self.text.as_bytes())?)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program[0]);
        command.args(&self.program[1..]).arg(&self.file);
        command
    }

    fn failed(&self, reason: impl std::fmt::Display) -> Failure {
        let failure = Failure::refused(format!("{}: {reason}", self.program.join(" ")));
        failure.hint(format!("what should be started is in {}", self.file.display()))
    }

    /// Becomes the program: its exit code and the signals that it gets are this process's.
    #[cfg(unix)]
    pub(super) fn become_it(&self) -> Result<Exit, Failure> {
        use std::os::unix::process::CommandExt;
        Err(self.failed(self.command().exec()))
    }

    /// Scripts need a Unix shell.
    #[cfg(not(unix))]
    pub(super) fn become_it(&self) -> Result<Exit, Failure> {
        Err(self.failed("needs a Unix shell"))
    }

    /// Runs the program to its end and shows what it says.
    pub(super) fn submit(&self, printer: &Printer) -> Result<Exit, Failure> {
        let output = self.command().stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| self.failed(error))?;
        if !output.status.success() {
            return Err(self.failed(output.status));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        if printer.json {
            printer.document(&json!({
                "status": "submitted", "file": self.file, "said": said.trim_end(),
            }));
        } else {
            printer.result(said.trim_end());
        }
        Ok(Exit::Done)
    }
}
