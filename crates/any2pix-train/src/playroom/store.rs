//! The prepared store on disk: `index.json` beside folders of cut-outs, backgrounds and sounds.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::catalogue::{Habitat, Licence};
use super::error::{PlayroomError, Result};

/// The store's layout; a store of another version is made anew.
pub const VERSION: u32 = 3;

/// One prepared file and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Its path in the store.
    pub file: String,
    /// The package it came from.
    pub package: String,
    /// Its path there.
    pub source: String,
    /// Its licence.
    pub licence: Licence,
    /// Whether it was synthesised, not recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub synthesised: bool,
}

/// One concept of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredConcept {
    /// Its name.
    pub name: String,
    /// Its plural.
    pub plural: String,
    /// What else people call it.
    pub synonyms: Vec<String>,
    /// Where it is usually found.
    pub habitat: Habitat,
    /// Smallest and largest usual size, pixels of 128.
    pub size: [u32; 2],
    /// Whether it is kept for evaluation, as reference pictures only.
    pub unseen: bool,
    /// Cut-outs.
    pub sprites: Vec<StoredFile>,
    /// Recordings and synthesised instruments.
    pub clips: Vec<StoredFile>,
}

/// One background of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredBackground {
    /// Its path in the store.
    pub file: String,
    /// The package it came from.
    pub package: String,
    /// Its path there.
    pub source: String,
    /// Its licence, in words.
    pub licence: String,
    /// What it shows: "a beach".
    pub label: String,
}

/// A sound that stands for a look: rain, thunder, wind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredAmbience {
    /// Its path in the store.
    pub file: String,
    /// The look it asks for.
    pub look: String,
    /// Where it came from.
    pub source: String,
}

/// A synthesised piece of music with what is true of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredMusic {
    /// Its path in the store.
    pub file: String,
    /// Major (true) or minor.
    pub major: bool,
    /// Beats a minute.
    pub tempo: u32,
    /// From 0 (soft) to 1 (loud).
    pub loudness: f32,
}

/// What the store holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Index {
    /// [`VERSION`] when it was written.
    pub version: u32,
    /// Concepts in the catalogue's order.
    pub concepts: Vec<StoredConcept>,
    /// Backgrounds in the catalogue's order.
    pub backgrounds: Vec<StoredBackground>,
    /// Sounds of weather and places.
    pub ambience: Vec<StoredAmbience>,
    /// Music.
    pub music: Vec<StoredMusic>,
}

impl Index {
    /// Reads the index of the store in `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("index.json");
        let bytes = std::fs::read(&path).map_err(PlayroomError::io(&path))?;
        let index: Self = serde_json::from_slice(&bytes).map_err(PlayroomError::format(&path))?;
        if index.version == VERSION {
            return Ok(index);
        }
        let detail =
            format!("version {} where {VERSION} is needed; prepare it again", index.version);
        Err(PlayroomError::Format { path, detail })
    }

    /// Writes the index of the store in `dir`, last of all and at once.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join("index.json");
        let text = serde_json::to_vec_pretty(self).map_err(PlayroomError::format(&path))?;
        let partial = dir.join("index.json.tmp");
        std::fs::write(&partial, text).map_err(PlayroomError::io(&partial))?;
        std::fs::rename(&partial, &path).map_err(PlayroomError::io(&path))
    }
}
