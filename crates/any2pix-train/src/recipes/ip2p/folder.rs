//! `Folder`: edits in the layout of the published data: `seeds.json` lists the folders, each with
//! `prompt.json` and pairs `<seed>_0.jpg`, `<seed>_1.jpg`.

use std::path::{Path, PathBuf};

use any2pix_encoders::resize::{Filter, resize};
use any2pix_nn::Generator;
use image::{RgbImage, imageops};
use serde::Deserialize;

use super::pairs::Pair;
use super::watch::Looked;
use crate::playroom::splits::Split;
use crate::recipes::component;
use crate::{Result, TrainError};

const LIST: &str = "seeds.json";
/// What of the list, from its beginning, is for training.
const TRAINING: f64 = 0.9;
/// What of the rest is for validation; the last part is the test's.
const VALIDATION: f64 = 0.95;

/// The words of a folder.
#[derive(Deserialize)]
struct Prompt {
    /// The instruction.
    edit: String,
}

/// The listed pairs.
pub(super) struct Folder {
    root: PathBuf,
    /// Folders and the seeds of the pairs in them.
    list: Vec<(String, Vec<String>)>,
    side: u32,
}

impl Folder {
    /// Whether `data` has the list.
    pub(super) fn is_one(data: &Path) -> bool {
        data.join(LIST).is_file()
    }

    /// Reads the list; pairs are drawn at `side` pixels.
    pub(super) fn open(root: &Path, side: u32) -> Result<Self> {
        let list: Vec<(String, Vec<String>)> = component::json(&root.join(LIST))?;
        let inside = |name: &str| {
            let plain =
                |part: std::path::Component| matches!(part, std::path::Component::Normal(_));
            !name.is_empty() && Path::new(name).components().all(plain)
        };
        let folder = Self { root: root.to_path_buf(), list, side };
        let bad = |name: &String, seeds: &Vec<String>| {
            !inside(name) || seeds.is_empty() || !seeds.iter().all(|seed| inside(seed))
        };
        if let Some((name, _)) = folder.list.iter().find(|(name, seeds)| bad(name, seeds)) {
            return Err(TrainError::Data {
                what: format!("{}: `{name}` is no folder with seeds", root.join(LIST).display()),
                hint: "each entry is a folder's name and the seeds of its pairs".into(),
            });
        }
        for split in [Split::Train, Split::HeldOut] {
            if folder.part(split).is_empty() {
                return Err(TrainError::Data {
                    what: format!("{}: too few folders", root.join(LIST).display()),
                    hint: "of twenty, eighteen are for training and one is for validation".into(),
                });
            }
        }
        Ok(folder)
    }

    /// The first nine tenths for training, the next twentieth to look at.
    fn part(&self, split: Split) -> &[(String, Vec<String>)] {
        let at = |part: f64| (self.list.len() as f64 * part).floor() as usize;
        match split {
            Split::Train => &self.list[..at(TRAINING)],
            Split::HeldOut => &self.list[at(TRAINING)..at(VALIDATION)],
        }
    }

    /// One pair, squeezed to a square and mirrored half of the time in training.
    pub(super) fn draw(&self, split: Split, generator: &mut Generator) -> Result<Pair> {
        let part = self.part(split);
        let (name, seeds) = &part[generator.below(part.len())];
        let folder = self.root.join(name);
        let seed = &seeds[generator.below(seeds.len())];
        let prompt: Prompt = component::json(&folder.join("prompt.json"))?;
        let flip = split == Split::Train && generator.chance(0.5);
        let picture = |which: u32| self.picture(&folder.join(format!("{seed}_{which}.jpg")), flip);
        Ok(Pair {
            source: Some(picture(0)?),
            target: picture(1)?,
            text: prompt.edit,
            looked: Looked::default(),
        })
    }

    fn picture(&self, path: &Path, flip: bool) -> Result<RgbImage> {
        let picture = image::open(path).map_err(|e| TrainError::Data {
            what: format!("{}: {e}", path.display()),
            hint: "the list names a pair that is not there".into(),
        })?;
        let size = (self.side, self.side);
        let mut picture = resize(&picture.to_rgb8(), size, Filter::Lanczos);
        if flip {
            imageops::flip_horizontal_in_place(&mut picture);
        }
        Ok(picture)
    }
}
