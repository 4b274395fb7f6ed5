//! `any2pix show FILE`: what a picture was made from.

use std::path::PathBuf;

use any2pix_agent::Recording;
use serde_json::{Map, Value};

use crate::diagnostics::{Exit, Failure};
use crate::printer::{Printer, printable_line};

/// Show what a picture remembers of its edit: instruction, inputs, plan, settings, weights.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A picture that any2pix wrote: PNG, JPEG or WebP.
    file: PathBuf,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let recording = Recording::open(&args.file)?;
    if printer.json {
        printer.document(recording.document());
        return Ok(Exit::Done);
    }
    if let Some(record) = recording.document().as_object() {
        rows(record).iter().for_each(|row| printer.result(&printable_line(row)));
    }
    Ok(Exit::Done)
}

/// One line a fact; objects and lists take a line for each of their parts.
fn rows(record: &Map<String, Value>) -> Vec<String> {
    let mut rows = Vec::new();
    for (name, value) in record {
        match value {
            Value::Object(parts) => {
                rows.push(name.clone());
                let parts = parts.iter().filter(|(_, value)| !value.is_null());
                rows.extend(parts.map(|(part, value)| format!("  {part:<22} {}", word(value))));
            }
            Value::Array(parts) => {
                rows.push(name.clone());
                rows.extend(parts.iter().map(|part| format!("  {}", word(part))));
            }
            value => rows.push(format!("{name:<24} {}", word(value))),
        }
    }
    rows
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
