//! The shipped gallery: cut-outs that may be passed on, a few of every concept.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::error::{PlayroomError, Result};
use super::packages::create_dir;
use super::raster;
use super::splits::Splits;
use super::sprites::slug;
use super::store::{Index, StoredFile};

/// Longest side of a cut-out.
const SIDE: u32 = 128;
/// Most cut-outs of a concept.
const A_CONCEPT: usize = 4;

#[derive(Serialize)]
struct Item {
    name: String,
    file: String,
    licence: String,
    source: String,
}

#[derive(Serialize)]
struct Listing {
    items: Vec<Item>,
}

/// Writes cut-outs of the store in `store` and their list `gallery.json` into `dir`.
pub fn write(store: &Path, dir: &Path) -> Result<usize> {
    let index = Index::read(store)?;
    let splits = Splits::of(&index);
    create_dir(dir)?;
    let mut items = Vec::new();
    for concept in index.concepts.iter().filter(|concept| !concept.unseen) {
        let usable: Vec<&StoredFile> = concept
            .sprites
            .iter()
            .filter(|s| s.licence.may_ship() && !splits.sprites.contains(&s.file))
            .collect();
        for (number, sprite) in varied(&usable).into_iter().take(A_CONCEPT).enumerate() {
            let file = format!("{}-{}.png", slug(&concept.name), number + 1);
            let picture = raster::decode(&store.join(&sprite.file))?;
            let path = dir.join(&file);
            raster::shrink_to(&picture, SIDE).save(&path).map_err(PlayroomError::format(&path))?;
            items.push(Item {
                name: concept.name.clone(),
                file,
                licence: licence(sprite).to_owned(),
                source: format!("{}: {}", sprite.package, sprite.source),
            });
        }
    }
    let count = items.len();
    let path = dir.join("gallery.json");
    let mut text =
        serde_json::to_vec_pretty(&Listing { items }).map_err(PlayroomError::format(&path))?;
    text.push(b'\n');
    std::fs::write(&path, text).map_err(PlayroomError::io(&path))?;
    Ok(count)
}

/// Packages in turn, so that a concept is shown in several manners.
fn varied<'a>(files: &[&'a StoredFile]) -> Vec<&'a StoredFile> {
    let mut groups: BTreeMap<&str, Vec<&'a StoredFile>> = BTreeMap::new();
    for file in files {
        groups.entry(&file.package).or_default().push(file);
    }
    let longest = groups.values().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|turn| groups.values().filter_map(move |group| group.get(turn).copied()))
        .collect()
}

fn licence(sprite: &StoredFile) -> &'static str {
    match sprite.package.as_str() {
        "@iconify-json/noto" => "Apache-2.0",
        "@iconify-json/fluent-emoji-flat" => "MIT",
        _ => "public domain",
    }
}
