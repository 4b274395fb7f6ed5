//! `any2pix data playroom`: from package names to a prepared store, resumable.

use std::path::Path;

use super::catalogue::{Catalogue, Concept};
use super::error::{PlayroomError, Result};
use super::packages::{Packages, create_dir};
use super::splits::Splits;
use super::sprites::IconSets;
use super::store::{Index, StoredConcept, VERSION};
use super::{backgrounds, sounds, sprites};

/// Fetches what is missing and prepares the store in `dir`; `report` is told what is being done.
pub fn prepare(dir: &Path, report: &mut dyn FnMut(&str)) -> Result<Index> {
    create_dir(dir)?;
    let packages = Packages::at(dir.join("packages"));
    packages.fetch(report)?;
    let catalogue =
        Catalogue::load().map_err(PlayroomError::format(Path::new("catalogue.jsonl")))?;
    report("reading icon sets and the soundfont");
    let icons = IconSets::read(&packages)?;
    let orchestra = sounds::orchestra(&packages)?;
    let mut concepts = Vec::new();
    let declared = catalogue
        .concepts
        .iter()
        .map(|concept| (concept, false))
        .chain(catalogue.unseen.iter().map(|concept| (concept, true)));
    for (concept, unseen) in declared {
        report(&format!("preparing {}", concept.name));
        let sprites = sprites::prepare(dir, &packages, &icons, &catalogue, concept)?;
        let clips = sounds::prepare(dir, &packages, &orchestra, &catalogue, concept)?;
        let Concept { name, plural, synonyms, habitat, size, .. } = concept.clone();
        concepts.push(StoredConcept {
            name,
            plural,
            synonyms,
            habitat,
            size,
            unseen,
            sprites,
            clips,
        });
    }
    report("preparing backgrounds, weather and music");
    let index = Index {
        version: VERSION,
        concepts,
        backgrounds: backgrounds::prepare(dir, &packages, &catalogue)?,
        ambience: sounds::prepare_ambience(dir, &packages)?,
        music: sounds::prepare_music(dir, &orchestra)?,
    };
    Splits::of(&index).write(dir)?;
    index.write(dir)?;
    Ok(index)
}
