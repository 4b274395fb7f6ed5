//! What is kept from training: fixed by a seed, written down.

use std::collections::BTreeSet;
use std::path::Path;

use any2pix_nn::Generator;
use serde::{Deserialize, Serialize};

use super::error::{PlayroomError, Result};
use super::store::{Index, StoredFile};

/// The seed of all splits.
const SEED: u64 = 20;

/// Which part of the world a sample is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What training may see.
    Train,
    /// Backgrounds, templates, cut-outs and clips that training does not see, and unseen concepts.
    HeldOut,
}

/// Store paths of what is held out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splits {
    /// Backgrounds: a fifth of the scenes that people would name.
    pub backgrounds: BTreeSet<String>,
    /// Cut-outs: one of every concept with five or more, two from ten.
    pub sprites: BTreeSet<String>,
    /// Clips: one of every concept with three or more, from a second package where there is one.
    pub clips: BTreeSet<String>,
    /// Concepts that only evaluation shows, as reference pictures.
    pub unseen: BTreeSet<String>,
}

impl Splits {
    /// The splits of the store with this index.
    pub fn of(index: &Index) -> Self {
        let root = Generator::new(SEED);
        let mut splits = Self::default();
        let mut backgrounds: Vec<&str> =
            index.backgrounds.iter().map(|background| background.file.as_str()).collect();
        root.fork("backgrounds").shuffle(&mut backgrounds);
        splits
            .backgrounds
            .extend(backgrounds.iter().take(backgrounds.len() / 5).map(|file| (*file).to_owned()));
        for concept in &index.concepts {
            if concept.unseen {
                splits.unseen.insert(concept.name.clone());
                continue;
            }
            let mut generator = root.fork(&concept.name);
            let mut sprites: Vec<&StoredFile> = concept.sprites.iter().collect();
            generator.shuffle(&mut sprites);
            let count = match sprites.len() {
                0..5 => 0,
                5..10 => 1,
                _ => 2,
            };
            splits.sprites.extend(sprites.iter().take(count).map(|file| file.file.clone()));
            splits.clips.extend(held_out_clip(&concept.clips, &mut generator));
        }
        splits
    }

    /// Writes `splits.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join("splits.json");
        let text = serde_json::to_vec_pretty(self).map_err(PlayroomError::format(&path))?;
        std::fs::write(&path, text).map_err(PlayroomError::io(&path))
    }
}

/// A recording whose package has fewest of the concept's clips, so that it sounds unlike the rest.
fn held_out_clip(clips: &[StoredFile], generator: &mut Generator) -> Option<String> {
    let mut recordings: Vec<&StoredFile> = clips.iter().filter(|clip| !clip.synthesised).collect();
    if clips.len() < 3 || recordings.is_empty() {
        return None;
    }
    generator.shuffle(&mut recordings);
    let siblings =
        |clip: &StoredFile| clips.iter().filter(|other| other.package == clip.package).count();
    recordings.sort_by_key(|clip| siblings(clip));
    recordings.first().map(|clip| clip.file.clone())
}

/// Which of `count` templates of `family` are held out: a fifth.
pub fn held_out_templates(family: &str, count: usize) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    Generator::new(SEED).fork("templates").fork(family).shuffle(&mut order);
    order.into_iter().take(count / 5).collect()
}
