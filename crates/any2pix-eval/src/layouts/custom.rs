//! One's own test set: a file of JSON lines; paths are relative to it.

use std::collections::BTreeMap;
use std::path::Path;

use any2pix_agent::Instruction;
use serde::Deserialize;
use serde_json::Value;

use super::{Importer, Row, about, plain, text, word};
use crate::{EvalError, Result};

/// What the instruction may call the source.
const SOURCE: &str = "source";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: Option<Value>,
    #[serde(default)]
    source: Option<String>,
    instruction: String,
    /// Names in the instruction's brackets, and their files.
    #[serde(default)]
    references: BTreeMap<String, String>,
    #[serde(default)]
    operation: Option<String>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    mask: Option<String>,
    #[serde(default)]
    caption: Option<String>,
    #[serde(default)]
    source_caption: Option<String>,
    #[serde(default)]
    seed: u64,
}

/// `source` of the importer is the file.
pub(super) fn read(importer: &mut Importer) -> Result<()> {
    let path = importer.source.clone();
    let lines = text(&path)?;
    importer.source = path.parent().unwrap_or(Path::new("")).to_path_buf();
    for (index, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row = serde_json::from_str::<Line>(line)
            .map_err(|e| e.to_string())
            .and_then(|line| row(importer, index, line).map_err(|e| e.to_string()))
            .map_err(|e| EvalError::malformed(&path, format!("line {}: {e}", index + 1)))?;
        importer.rows.push(row);
    }
    Ok(())
}

fn row(importer: &Importer, index: usize, line: Line) -> Result<Row> {
    let given = line.id.as_ref().and_then(word).map(|id| plain(&id)).filter(|id| !id.is_empty());
    let id = given.unwrap_or_else(|| format!("{index:05}"));
    let take = |file: &Option<String>, role: &str| {
        let take = |file: &String| importer.take(&importer.path(file)?, &format!("{id}-{role}"));
        file.as_ref().map(take).transpose()
    };
    let base = take(&line.source, SOURCE)?;
    let mut instruction = Instruction::parse(&line.instruction)
        .map_err(|e| EvalError::malformed(&importer.source, e))?;
    let mut names_source = false;
    for (number, name) in instruction.names.iter_mut().enumerate() {
        let is_source = line.source.is_some()
            && (name == SOURCE || line.source.as_ref() == Some(name))
            && !line.references.contains_key(name);
        names_source |= is_source;
        *name = match (is_source, &base) {
            (true, Some(base)) => base.clone(),
            _ => {
                let file = line.references.get(name).unwrap_or(name);
                importer.take(&importer.path(file)?, &format!("{id}-{}", number + 1))?
            }
        };
    }
    let instruction = match &base {
        Some(base) if instruction.names.is_empty() => about(base, &line.instruction),
        Some(base) if !names_source => {
            let start = any2pix_agent::request::Segment::Text(": ".into());
            let index = instruction.names.len();
            instruction.names.push(base.clone());
            let reference = any2pix_agent::request::Segment::Reference(index);
            instruction.segments.splice(0..0, [reference, start]);
            instruction.to_string()
        }
        _ => instruction.to_string(),
    };
    Ok(Row {
        kind: line.operation.unwrap_or_else(|| "edit".into()),
        operation: String::new(),
        instruction,
        target: take(&line.target, "target")?,
        mask: take(&line.mask, "mask")?,
        caption: line.caption,
        source_caption: line.source_caption,
        seed: line.seed,
        base,
        id,
    })
}
