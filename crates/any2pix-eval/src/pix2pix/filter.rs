//! The third stage: of every triplet's pairs the best that pass, in the published layout.

use std::path::{Path, PathBuf};

use any2pix_agent::AgentError;
use any2pix_agent::batch::Shard;
use any2pix_agent::claim::{self, Parts};
use any2pix_agent::outcome::sha256;
use any2pix_agent::storage::write_atomically;
use any2pix_encoders::image::{self as pictures, ImageLimits};
use image::RgbImage;
use serde_json::{Value, json};

use super::pairs::{PARTS as PAIRS, Row};
use super::score::{Encoder, Scores, Thresholds};
use super::{
    METADATA, PROMPT, Place, STAGE, Tell, Triplet, lines, name_of, ours, picture_name, version,
    wrong,
};
use crate::{EvalError, Result, contact_sheet};

/// The list of the kept pairs, as `any2pix train ip2p` and the published program read it.
const LIST: &str = "seeds.json";
/// The kept pairs on one picture.
const SHEET: &str = "contact_sheet.png";
/// How many pairs it shows, spread over all.
const SHOWN: usize = 48;
const PARTS: Parts = &[
    ("stage", "another stage"),
    ("any2pix", "another version of any2pix"),
    ("pairs", "other pairs"),
    ("shards", "another number of shards"),
    ("encoder", "another encoder"),
    ("thresholds", "other thresholds"),
    ("most", "another number of pairs"),
];

/// What is kept.
pub struct Filter<'a> {
    /// Who says how alike pictures and captions are.
    pub encoder: &'a Encoder,
    /// What a pair must reach.
    pub thresholds: Thresholds,
    /// Most pairs of a triplet.
    pub most: usize,
    /// Which of the triplets.
    pub shard: Shard,
    /// Go on where an earlier run stopped.
    pub resume: bool,
}

/// What came of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Triplets of the shard.
    pub prompts: usize,
    /// Of them those that have a pair.
    pub with_pairs: usize,
    /// Pairs that are kept.
    pub kept: usize,
    /// Triplets of all shards that are not done yet; without any the list is written.
    pub missing: usize,
}

/// A folder of pairs.
struct Source {
    path: PathBuf,
    prompts: usize,
    digest: String,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let none = || wrong(path, "holds no pairs that this program has painted");
        let document = claim::pinned(path, STAGE, PAIRS)?.ok_or_else(none)?;
        let prompts = document["prompts"].as_u64().ok_or_else(none)? as usize;
        let digest = sha256(document.to_string().as_bytes());
        Ok(Self { path: path.to_path_buf(), prompts, digest })
    }

    /// Words and pairs of a triplet.
    fn prompt(&self, index: usize) -> Result<(PathBuf, Triplet, Vec<Row>)> {
        let folder = self.path.join(name_of(index));
        let metadata = folder.join(METADATA);
        if !metadata.is_file() {
            return Err(wrong(&folder, "is not complete; paint its pairs first"));
        }
        let path = folder.join(PROMPT);
        let text = std::fs::read_to_string(&path).map_err(EvalError::io(&path))?;
        let triplet = serde_json::from_str(&text).map_err(|e| wrong(&path, e))?;
        Ok((folder, triplet, rows(&metadata)?))
    }
}

impl Filter<'_> {
    /// Scores the pairs in `from` and writes those that are kept into `out`; with the last
    /// triplet of the last shard, the list of them all and the contact sheet.
    ///
    /// # Errors
    /// Pairs that are not complete, an encoder that cannot be loaded, storage, a folder that is
    /// somebody else's, and [`EvalError::Stopped`].
    pub fn keep(&self, from: &Path, out: &Path, tell: &mut Tell<'_>) -> Result<Filtered> {
        let source = Source::open(from)?;
        let document = json!({
            "stage": "filter", "any2pix": version(), "pairs": source.digest,
            "shards": self.shard.count, "encoder": self.encoder.identity()?,
            "thresholds": self.thresholds, "most": self.most,
        });
        let place = Place::claim(out, &document, PARTS, self.shard, self.resume)?;
        let ours = ours(self.shard, source.prompts);
        let mut filtered = Filtered { prompts: ours.len(), ..Filtered::default() };
        for (done, index) in ours.iter().enumerate() {
            let folder = place.prompt(*index)?;
            if !folder.join(METADATA).is_file() {
                self.prompt(&source, *index, &folder)?;
            }
            let kept = kept(&folder)?.len();
            filtered.kept += kept;
            filtered.with_pairs += usize::from(kept > 0);
            if !tell(done + 1, ours.len()) {
                return Err(EvalError::Stopped);
            }
        }
        let is_missing = |index: &usize| !place.join(&name_of(*index)).join(METADATA).is_file();
        filtered.missing = (0..source.prompts).filter(is_missing).count();
        if filtered.missing == 0 {
            finish(&place, source.prompts)?;
        }
        Ok(filtered)
    }

    /// The best pairs of a triplet that pass.
    fn prompt(&self, source: &Source, index: usize, to: &Path) -> Result<()> {
        let (from, triplet, rows) = source.prompt(index)?;
        let captions = [self.encoder.text(&triplet.caption)?, self.encoder.text(&triplet.output)?];
        let mut passed = Vec::new();
        for row in rows {
            let picture = |which: usize| open(&from.join(picture_name(row.seed, which)));
            let scores = self.encoder.score(&captions, &[picture(0)?, picture(1)?])?;
            if self.thresholds.pass(&scores) {
                passed.push((row, scores));
            }
        }
        // Of equals the larger seed, as the published program has it.
        let order = |(row, scores): &(Row, Scores)| (scores.direction, row.seed);
        passed.sort_by(|a, b| {
            let ((a, seed_a), (b, seed_b)) = (order(a), order(b));
            b.total_cmp(&a).then(seed_b.cmp(&seed_a))
        });
        passed.truncate(self.most);
        write_atomically(&to.join(PROMPT), format!("{}\n", json!(triplet)).as_bytes())?;
        let mut metadata = String::new();
        for (row, scores) in &passed {
            for name in [0, 1].map(|which| picture_name(row.seed, which)) {
                let path = from.join(&name);
                let bytes = std::fs::read(&path).map_err(EvalError::io(&path))?;
                write_atomically(&to.join(&name), &bytes)?;
            }
            metadata.push_str(&format!("{}\n", self.row(row, scores)));
        }
        write_atomically(&to.join(METADATA), metadata.as_bytes())?;
        Ok(())
    }

    /// A row as published, with the names of the encoder's figures.
    fn row(&self, row: &Row, scores: &Scores) -> Value {
        let prefix = self.encoder.prefix();
        let mut value = json!(row);
        let Scores { first, second, direction, image } = *scores;
        for (name, score) in [("0", first), ("1", second), ("dir", direction), ("image", image)] {
            value[format!("{prefix}_{name}")] = json!(score);
        }
        value
    }
}

fn open(path: &Path) -> Result<RgbImage> {
    let picture = pictures::open(path, &ImageLimits::default());
    Ok(picture.map_err(|e| wrong(path, e))?.rgb)
}

/// The rows of a `metadata.jsonl`.
fn rows(path: &Path) -> Result<Vec<Row>> {
    let row = |(number, line): (usize, String)| {
        serde_json::from_str(&line).map_err(|e| wrong(path, format!("line {number}: {e}")))
    };
    lines(path)?.into_iter().map(row).collect()
}

/// The seeds of a folder's pairs.
fn kept(folder: &Path) -> Result<Vec<u32>> {
    Ok(rows(&folder.join(METADATA))?.into_iter().map(|row| row.seed).collect())
}

/// Writes the list and the contact sheet, unless another shard is at it.
fn finish(place: &Place, prompts: usize) -> Result<()> {
    let _lock = match claim::lock(&place.path, LIST) {
        Err(AgentError::Locked { .. }) => return Ok(()),
        other => other?,
    };
    claim::sweep(&place.path, |owner| matches!(owner, LIST | SHEET))?;
    let mut list: Vec<(String, Vec<String>)> = Vec::new();
    for name in (0..prompts).map(name_of) {
        let mut seeds: Vec<String> =
            kept(&place.join(&name))?.iter().map(ToString::to_string).collect();
        seeds.sort();
        if !seeds.is_empty() {
            list.push((name, seeds));
        }
    }
    let every = list.len().div_ceil(SHOWN).max(1);
    let mut shown = Vec::new();
    for (name, seeds) in list.iter().step_by(every) {
        let file = |which: usize| place.join(name).join(format!("{}_{which}.jpg", seeds[0]));
        shown.push([open(&file(0))?, open(&file(1))?]);
    }
    write_atomically(&place.join(SHEET), &contact_sheet::of_pairs(&shown)?)?;
    write_atomically(&place.join(LIST), format!("{}\n", json!(list)).as_bytes())?;
    Ok(())
}
