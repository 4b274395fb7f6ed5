//! The data set of InstructPix2Pix: `seeds.json`, and for each prompt a folder with `prompt.json`
//! and `SEED_0.jpg`, `SEED_1.jpg`.
//!
//! The published evaluation draws one of a prompt's pairs; the first is taken here, so that a
//! suite is the same whoever makes it.

use serde::Deserialize;

use super::{Importer, Row, about, plain};
use crate::Result;

/// Training and validation: the test split is what is left.
const BEFORE_TEST: f64 = 0.9 + 0.05;

#[derive(Deserialize)]
struct Prompt {
    edit: String,
    /// The generator wrote `caption`, the evaluation reads `input`.
    #[serde(alias = "caption")]
    input: String,
    output: String,
}

pub(super) fn read(importer: &mut Importer) -> Result<()> {
    let all: Vec<(String, Vec<String>)> = importer.json("seeds.json")?;
    let first = (BEFORE_TEST * all.len() as f64).floor() as usize;
    for (name, seeds) in all.into_iter().skip(first) {
        let Some(seed) = seeds.first() else { continue };
        let prompt: Prompt = importer.json(&format!("{name}/prompt.json"))?;
        let id = plain(&name);
        let take = |which: u8, role: &str| {
            let path = importer.path(&format!("{name}/{seed}_{which}.jpg"))?;
            importer.take(&path, &format!("{id}-{role}"))
        };
        let base = take(0, "source")?;
        let row = Row {
            kind: "edit".into(),
            operation: String::new(),
            instruction: about(&base, &prompt.edit),
            target: Some(take(1, "target")?),
            mask: None,
            caption: Some(prompt.output),
            source_caption: Some(prompt.input),
            seed: 0,
            base: Some(base),
            id,
        };
        importer.rows.push(row);
    }
    Ok(())
}
