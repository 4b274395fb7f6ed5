//! MM-Inst as InstructAny2Pix publishes it: `instruction.json` with conversations whose brackets
//! hold captions, and `media_map.json` from captions to files.
//!
//! The map names what an encoder made of a file, `NAME.npz`; the file itself is `NAME`. A caption
//! that is not in the map is text, as in the published training.

use std::collections::BTreeMap;

use any2pix_agent::Instruction;
use any2pix_agent::request::Segment;
use serde::Deserialize;

use super::{Importer, Row};
use crate::{EvalError, Result};

#[derive(Deserialize)]
struct Task {
    #[serde(default)]
    base: String,
    #[serde(default)]
    result: Option<String>,
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

#[derive(Deserialize)]
struct Media {
    fpath: String,
}

type Map = BTreeMap<String, Media>;

/// A caption as the map has it.
fn key(caption: &str) -> String {
    caption.trim().trim_matches(['[', ']']).to_lowercase().replace('.', "").trim().to_string()
}

pub(super) fn read(importer: &mut Importer) -> Result<()> {
    let tasks: Vec<Task> = importer.json("instruction.json")?;
    let map: Map = importer.json("media_map.json")?;
    let map: Map = map.into_iter().map(|(caption, media)| (key(&caption), media)).collect();
    for (index, task) in tasks.into_iter().enumerate() {
        let row = row(importer, &map, index, &task)
            .map_err(|e| EvalError::malformed(&importer.source, format!("task {index}: {e}")))?;
        importer.rows.push(row);
    }
    Ok(())
}

fn row(importer: &Importer, map: &Map, index: usize, task: &Task) -> Result<Row> {
    let id = format!("{index:05}");
    let human = task.conversations.iter().find(|turn| turn.from == "human");
    let words = human.map(|turn| turn.value.as_str()).unwrap_or_default();
    let parsed =
        Instruction::parse(words).map_err(|e| EvalError::malformed(&importer.source, e))?;
    let mut names = Vec::new();
    let mut taken = BTreeMap::new();
    let mut base = None;
    for (number, caption) in parsed.names.iter().enumerate() {
        let Some(media) = map.get(&key(caption)) else { continue };
        let file = media.fpath.strip_suffix(".npz").unwrap_or(&media.fpath);
        let name = importer.take(&importer.path(file)?, &format!("{id}-{}", number + 1))?;
        if key(caption) == key(&task.base) {
            base = Some(name.clone());
        }
        taken.insert(number, names.len());
        names.push(name);
    }
    let segments = parsed.segments.into_iter().map(|segment| match segment {
        Segment::Reference(number) => match taken.get(&number) {
            Some(at) => Segment::Reference(*at),
            None => Segment::Text(parsed.names[number].clone()),
        },
        words => words,
    });
    let instruction = Instruction { segments: segments.collect(), names }.to_string();
    Ok(Row {
        kind: "edit".into(),
        operation: String::new(),
        instruction,
        base,
        target: None,
        mask: None,
        caption: task.result.clone(),
        source_caption: Some(key(&task.base)).filter(|caption| !caption.is_empty()),
        seed: 0,
        id,
    })
}
