//! The reviewed catalogue as data: concepts with their pictures and sounds, and backgrounds.

use serde::{Deserialize, Serialize};

const CONCEPTS: &str = include_str!("../../../../models/playroom/data/catalogue.jsonl");
const UNSEEN: &str = include_str!("../../../../models/playroom/data/unseen.jsonl");
const BACKGROUNDS: &str = include_str!("../../../../models/playroom/data/backgrounds.jsonl");
const REJECTED: &str = include_str!("../../../../models/playroom/data/rejected.jsonl");

/// Under what conditions a file may be used and passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Licence {
    /// Public domain or CC0.
    Pd,
    /// Apache, MIT or CC-BY: may be shipped with attribution.
    Permissive,
    /// CC-BY-SA: for training only.
    ShareAlike,
    /// GPL: for training only.
    Gpl,
}

impl Licence {
    /// Whether files under it may be part of the shipped model.
    pub fn may_ship(self) -> bool {
        matches!(self, Self::Pd | Self::Permissive)
    }
}

/// Where in a scene a thing is usually found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Habitat {
    /// It stands on the ground.
    Ground,
    /// It flies or hangs.
    Air,
    /// It swims.
    Water,
    /// It lies on or leans against something.
    Surface,
}

/// One file of one package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// The package's name.
    pub package: String,
    /// Its path in the package; `#entry` for an entry inside of it.
    pub file: String,
    /// Its licence.
    pub licence: Licence,
}

/// A kind of thing: what it is called, where it lives, and the files that show and sound it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Concept {
    /// Its name.
    pub name: String,
    /// Its plural.
    pub plural: String,
    /// What else people call it.
    pub synonyms: Vec<String>,
    /// Where it is usually found.
    pub habitat: Habitat,
    /// Smallest and largest usual size in a scene, pixels of 128.
    pub size: [u32; 2],
    /// Pictures.
    pub images: Vec<SourceFile>,
    /// Recordings.
    pub sounds: Vec<SourceFile>,
    /// General MIDI programs that sound like it.
    #[serde(default)]
    pub programs: Vec<u8>,
}

/// A picture to compose scenes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Background {
    /// The package's name.
    pub package: String,
    /// Its path in the package.
    pub file: String,
    /// Its licence, in words.
    pub licence: String,
    /// What it shows: "a beach".
    pub label: String,
}

/// A file that the review by eye or ear turned down.
#[derive(Clone, Debug, Deserialize)]
pub struct Rejected {
    /// The package's name.
    pub package: String,
    /// Its path in the package.
    pub file: String,
    /// The concept it was listed under; all of them without.
    #[serde(default)]
    pub concept: Option<String>,
    /// Why.
    pub reason: String,
}

/// Everything declared.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// Concepts of training.
    pub concepts: Vec<Concept>,
    /// Concepts that are shown only as reference pictures, and only in evaluation.
    pub unseen: Vec<Concept>,
    /// Scenes and textures.
    pub backgrounds: Vec<Background>,
    rejected: Vec<Rejected>,
}

impl Catalogue {
    /// The catalogue compiled into this crate.
    pub fn load() -> serde_json::Result<Self> {
        Ok(Self {
            concepts: lines(CONCEPTS)?,
            unseen: lines(UNSEEN)?,
            backgrounds: lines(BACKGROUNDS)?,
            rejected: lines(REJECTED)?,
        })
    }

    /// Whether the review turned `file` down for `concept`.
    pub fn is_rejected(&self, concept: &str, package: &str, file: &str) -> bool {
        self.rejected.iter().any(|rejected| {
            rejected.file == file
                && rejected.package == package
                && rejected.concept.as_deref().is_none_or(|only| only == concept)
        })
    }
}

fn lines<T: for<'de> Deserialize<'de>>(text: &str) -> serde_json::Result<Vec<T>> {
    text.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_parses_and_names_are_unique() {
        let catalogue = Catalogue::load().unwrap();
        let mut names: Vec<&str> =
            catalogue.concepts.iter().chain(&catalogue.unseen).map(|c| c.name.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(catalogue.rejected.iter().all(|r| !r.reason.is_empty()));
    }
}
