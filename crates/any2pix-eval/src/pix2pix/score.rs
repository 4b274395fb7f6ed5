//! Who says how alike pictures and captions are: a published CLIP, or the embedded model's own
//! encoder, whose figures carry its own name.

use std::path::Path;

use any2pix_agent::components::Components;
use any2pix_agent::store::PLAYROOM;
use any2pix_nn::ops::{Precision, PrecisionScope};
use image::RgbImage;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Result;
use crate::metrics::{retrieval::cosine, similarity::directional};
use crate::published::{self, Clip, ColourRange};

/// What a pair must reach to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Thresholds {
    /// Likeness of the two pictures.
    pub image: f64,
    /// Likeness of each picture and its caption.
    pub caption: f64,
    /// Likeness of the change of the pictures and that of the captions.
    pub direction: f64,
}

/// How alike the pictures and captions of a pair are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scores {
    /// The first picture and the first caption.
    pub(super) first: f64,
    /// The second picture and the second caption.
    pub(super) second: f64,
    /// The change of the pictures and that of the captions.
    pub(super) direction: f64,
    /// The two pictures.
    pub(super) image: f64,
}

impl Thresholds {
    pub(super) fn pass(&self, scores: &Scores) -> bool {
        scores.image >= self.image
            && scores.first >= self.caption
            && scores.second >= self.caption
            && scores.direction >= self.direction
    }
}

/// An encoder of pictures and words.
pub enum Encoder {
    /// CLIP, as its authors publish it.
    Clip(Box<ClipFolder>),
    /// The embedded model's.
    Playroom(Box<Components>),
}

/// A CLIP that somebody named.
pub struct ClipFolder {
    clip: Clip,
    folder: String,
    hash: String,
}

impl Encoder {
    /// CLIP in `folder` (config.json, weights, vocabulary), or the embedded model's encoder.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else {
            return Ok(Self::Playroom(Box::new(Components::open(PLAYROOM)?)));
        };
        let _exact = PrecisionScope::new(Precision::F32);
        let (clip, hash) = published::open_clip(folder)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self::Clip(Box::new(ClipFolder { clip, folder: name, hash })))
    }

    /// The published thresholds for CLIP. To the embedded encoder a picture is less like its
    /// caption: that threshold is what about three of four exact pairs of the Playroom reach.
    pub fn thresholds(&self) -> Thresholds {
        match self {
            Self::Clip(_) => Thresholds { image: 0.7, caption: 0.2, direction: 0.2 },
            Self::Playroom(_) => Thresholds { image: 0.7, caption: 0.08, direction: 0.2 },
        }
    }

    /// What the figures are called: no other encoder's carry the name of CLIP's.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            Self::Clip(_) => "clip_sim",
            Self::Playroom(_) => "playroom_sim",
        }
    }

    /// What it is, to the last weight.
    pub(super) fn identity(&self) -> Result<Value> {
        Ok(match self {
            Self::Clip(clip) => json!({ "name": clip.folder, "sha256": clip.hash }),
            Self::Playroom(components) => {
                json!({ "name": PLAYROOM, "sha256": components.encoder_hash()? })
            }
        })
    }

    /// # Errors
    /// A caption that the tokenizer refuses.
    pub(super) fn text(&self, caption: &str) -> Result<Vec<f32>> {
        let _exact = PrecisionScope::new(Precision::F32);
        Ok(match self {
            Self::Clip(clip) => published::described(&clip.clip, &clip.folder, caption)?,
            Self::Playroom(components) => {
                components.spoken(&[caption])?.to_vec2()?.into_iter().next().unwrap_or_default()
            }
        })
    }

    fn image(&self, picture: &RgbImage) -> Result<Vec<f32>> {
        let _exact = PrecisionScope::new(Precision::F32);
        Ok(match self {
            Self::Clip(clip) => clip.clip.plain_image(picture, ColourRange::Unit)?,
            Self::Playroom(components) => {
                let embeddings =
                    components.imagebind()?.encode_images(std::slice::from_ref(picture))?;
                embeddings.to_vec2()?.into_iter().next().unwrap_or_default()
            }
        })
    }

    /// A pair under what [`Self::text`] says of its captions.
    pub(super) fn score(
        &self,
        captions: &[Vec<f32>; 2],
        pictures: &[RgbImage; 2],
    ) -> Result<Scores> {
        let (before, after) = (self.image(&pictures[0])?, self.image(&pictures[1])?);
        Ok(Scores {
            first: cosine(&before, &captions[0]),
            second: cosine(&after, &captions[1]),
            direction: directional([&before, &after], [&captions[0], &captions[1]]),
            image: cosine(&before, &after),
        })
    }
}
