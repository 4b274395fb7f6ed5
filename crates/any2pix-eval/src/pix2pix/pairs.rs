//! The second stage: pairs of pictures by Prompt-to-Prompt, many for every triplet.

use std::collections::BTreeSet;
use std::path::Path;

use any2pix_agent::AgentError;
use any2pix_agent::batch::Shard;
use any2pix_agent::claim::Parts;
use any2pix_agent::instruct_pix2pix::{PairCaptions, PairPainter, PairSettings, TextToImage};
use any2pix_agent::outcome::precision_name;
use any2pix_agent::storage::write_atomically;
use any2pix_nn::Generator;
use any2pix_nn::ops;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{METADATA, PROMPT, Place, Tell, Triplets, ours, picture_name, version};
use crate::{EvalError, Result};

/// Quality of the published pictures.
const QUALITY: u8 = 100;
pub(super) const PARTS: Parts = &[
    ("stage", "another stage"),
    ("any2pix", "another version of any2pix"),
    ("triplets", "other triplets"),
    ("prompts", "other triplets"),
    ("shards", "another number of shards"),
    ("model", "another model"),
    ("settings", "other settings"),
];

/// A pair, as the rows of `metadata.jsonl` have it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// Its seed, after which its files are called.
    pub(super) seed: u32,
    /// For how much of the steps attention was shared.
    pub(super) p2p_threshold: f64,
    /// The guidance.
    pub(super) cfg_scale: f64,
}

/// What is painted.
pub struct Pairs<'a> {
    /// What paints.
    pub model: &'a TextToImage,
    /// How.
    pub settings: PairSettings,
    /// Captions before and after.
    pub triplets: &'a Triplets,
    /// Pairs of a triplet.
    pub samples: usize,
    /// Chooses the seeds of the pairs.
    pub seed: u64,
    /// Which of the triplets.
    pub shard: Shard,
    /// Go on where an earlier run stopped.
    pub resume: bool,
}

/// What came of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Painted {
    /// Triplets of the shard.
    pub prompts: usize,
    /// Pairs that were painted now; the others were there.
    pub painted: usize,
}

impl Pairs<'_> {
    /// Paints what is not there yet in `out`.
    ///
    /// # Errors
    /// A model that cannot be loaded, storage, a folder that is somebody else's, and
    /// [`EvalError::Stopped`].
    pub fn paint(&self, out: &Path, tell: &mut Tell<'_>) -> Result<Painted> {
        self.settings.validate()?;
        let place = Place::claim(out, &self.document()?, PARTS, self.shard, self.resume)?;
        let prompts = self.triplets.len();
        let ours = ours(self.shard, prompts);
        let (mut painter, mut painted) = (None, 0);
        for (done, index) in ours.iter().enumerate() {
            let folder = place.prompt(*index)?;
            let before = done * self.samples;
            if !folder.join(METADATA).is_file() {
                let painter = match &mut painter {
                    Some(painter) => painter,
                    none => none.insert(self.model.load(&self.settings)?),
                };
                let mut tell = |count: usize| tell(before + count, ours.len() * self.samples);
                painted += self.prompt(*index, &folder, painter, &mut tell)?;
            }
            if !tell(before + self.samples, ours.len() * self.samples) {
                return Err(EvalError::Stopped);
            }
        }
        Ok(Painted { prompts: ours.len(), painted })
    }

    fn document(&self) -> Result<Value> {
        Ok(json!({
            "stage": "pairs",
            "any2pix": version(),
            "triplets": self.triplets.hash,
            "prompts": self.triplets.len(),
            "shards": self.shard.count,
            "model": self.model.identity()?,
            "settings": {
                "pairs": self.settings, "samples": self.samples, "seed": self.seed,
                "precision": precision_name(ops::precision()),
            },
        }))
    }

    /// The seeds of a triplet's pairs, all different.
    fn seeds(&self, index: usize) -> Vec<u32> {
        let mut generator = Generator::new(self.seed).fork(&format!("prompt {index}"));
        let (mut seen, mut seeds) = (BTreeSet::new(), Vec::new());
        while seeds.len() < self.samples {
            let seed = (generator.next_u64() >> 32) as u32;
            if seen.insert(seed) {
                seeds.push(seed);
            }
        }
        seeds
    }

    /// Paints the pairs of a triplet that are not there; says how many those were.
    fn prompt(
        &self,
        index: usize,
        folder: &Path,
        painter: &PairPainter,
        tell: &mut dyn FnMut(usize) -> bool,
    ) -> Result<usize> {
        let triplet = &self.triplets.list[index];
        write_atomically(&folder.join(PROMPT), format!("{}\n", json!(triplet)).as_bytes())?;
        let mut read: Option<PairCaptions> = None;
        let (mut rows, mut painted) = (String::new(), 0);
        for (count, seed) in self.seeds(index).into_iter().enumerate() {
            if !tell(count) {
                return Err(EvalError::Stopped);
            }
            let files = [0, 1].map(|which| folder.join(picture_name(seed, which)));
            if !files.iter().all(|file| file.is_file()) {
                let read = match &mut read {
                    Some(read) => read,
                    none => none.insert(self.model.read([&triplet.caption, &triplet.output])?),
                };
                let pair = painter.paint(read, u64::from(seed), &mut || !tell(count))?;
                for (file, picture) in files.iter().zip(&pair.pictures) {
                    write_atomically(file, &jpeg(picture)?)?;
                }
                painted += 1;
            }
            let (threshold, guidance) = painter.drawn(u64::from(seed))?;
            let (p2p_threshold, cfg_scale) = (f64::from(threshold), f64::from(guidance));
            rows.push_str(&format!("{}\n", json!(Row { seed, p2p_threshold, cfg_scale })));
        }
        write_atomically(&folder.join(METADATA), rows.as_bytes())?;
        Ok(painted)
    }
}

fn jpeg(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    let (width, height) = picture.dimensions();
    let written = encoder.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8);
    let reason =
        |e: image::ImageError| AgentError::Unencodable { format: "JPEG", reason: e.to_string() };
    written.map_err(reason)?;
    Ok(bytes)
}
