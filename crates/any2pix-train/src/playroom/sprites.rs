//! From catalogued pictures to cut-outs: decoded, matted, cropped, checked, at most 160 pixels.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbaImage;
use rayon::prelude::*;
use serde_json::Value;

use super::catalogue::{Catalogue, Concept, SourceFile};
use super::error::{PlayroomError, Result};
use super::packages::{Packages, create_dir};
use super::raster;
use super::store::StoredFile;

/// Longest side of a stored cut-out.
pub const SPRITE_SIDE: u32 = 160;
/// Cut-outs with a longest side below this are too coarse to be used.
const SMALLEST_SIDE: u32 = 40;

/// The icon sets: bodies of drawings by name.
pub struct IconSets(BTreeMap<String, Value>);

impl IconSets {
    /// Reads the icon sets that the catalogue uses.
    pub fn read(packages: &Packages) -> Result<Self> {
        let mut sets = BTreeMap::new();
        for package in super::packages::PACKAGES
            .iter()
            .filter(|p| p.registry == super::packages::Registry::Npm)
        {
            let path = packages.file(package.name, "icons.json");
            let bytes = std::fs::read(&path).map_err(PlayroomError::io(&path))?;
            let set = serde_json::from_slice(&bytes).map_err(PlayroomError::format(&path))?;
            sets.insert(package.name.to_owned(), set);
        }
        Ok(Self(sets))
    }

    /// The drawing `name` of `package` as a whole SVG document; aliases are followed.
    fn svg(&self, package: &str, name: &str) -> Option<String> {
        let set = self.0.get(package)?;
        let name = match set["aliases"][name]["parent"].as_str() {
            Some(parent) => parent,
            None => name,
        };
        let icon = &set["icons"][name];
        let body = icon["body"].as_str()?;
        let side = |key: &str| icon[key].as_f64().or(set[key].as_f64()).unwrap_or(16.0);
        let (width, height) = (side("width"), side("height"));
        let spaces =
            r#"xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink""#;
        let size = format!(r#"width="{width}" height="{height}" viewBox="0 0 {width} {height}""#);
        Some(format!("<svg {spaces} {size}>{body}</svg>"))
    }
}

/// Decodes one catalogued picture into a cut-out, or says why it cannot be one.
fn cut_out(
    packages: &Packages,
    icons: &IconSets,
    source: &SourceFile,
) -> std::result::Result<RgbaImage, String> {
    let path = packages.file(&source.package, &source.file);
    let mut flat = false;
    let mut picture = if let Some((_, name)) = source.file.split_once('#') {
        // Icons are reviewed drawings; a flat one is still a good picture of its thing.
        flat = true;
        let svg = icons.svg(&source.package, name).ok_or("no such icon")?;
        raster::rasterise(svg.as_bytes(), &path).map_err(|e| e.to_string())?
    } else if source.file.ends_with(".svg") {
        let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
        raster::rasterise(&bytes, &path).map_err(|e| e.to_string())?
    } else {
        raster::decode(&path).map_err(|e| e.to_string())?
    };
    if raster::is_opaque(&picture) {
        raster::matte_white(&mut picture);
    }
    let picture = raster::crop_to_alpha(&picture).ok_or("nothing to see")?;
    check(&picture, flat)?;
    Ok(raster::shrink_to(&picture, SPRITE_SIDE))
}

/// Turns down what is too small, a full rectangle, bare lines or, unless `flat`, of one colour.
fn check(picture: &RgbaImage, flat: bool) -> std::result::Result<(), String> {
    let (width, height) = picture.dimensions();
    if width.max(height) < SMALLEST_SIDE {
        return Err(format!("only {width}×{height} pixels"));
    }
    let area = f64::from(width) * f64::from(height);
    let solid: Vec<[f64; 3]> = picture
        .pixels()
        .filter(|pixel| pixel[3] > 128)
        .map(|pixel| [f64::from(pixel[0]), f64::from(pixel[1]), f64::from(pixel[2])])
        .collect();
    let coverage = solid.len() as f64 / area;
    if coverage > 0.985 {
        return Err("a full rectangle".to_owned());
    }
    if coverage < 0.08 {
        return Err("thin lines".to_owned());
    }
    let spread: f64 = (0..3)
        .map(|channel| {
            let mean = solid.iter().map(|c| c[channel]).sum::<f64>() / solid.len() as f64;
            solid.iter().map(|c| (c[channel] - mean).powi(2)).sum::<f64>() / solid.len() as f64
        })
        .sum::<f64>()
        .sqrt();
    if spread < 14.0 && !flat { Err("a single colour".to_owned()) } else { Ok(()) }
}

/// Writes the cut-outs of `concept` under `dir/sprites/<concept>/`.
pub fn prepare(
    dir: &Path,
    packages: &Packages,
    icons: &IconSets,
    catalogue: &Catalogue,
    concept: &Concept,
) -> Result<Vec<StoredFile>> {
    let folder = format!("sprites/{}", slug(&concept.name));
    create_dir(&dir.join(&folder))?;
    let kept: Vec<(usize, &SourceFile)> = concept
        .images
        .iter()
        .enumerate()
        .filter(|(_, s)| !catalogue.is_rejected(&concept.name, &s.package, &s.file))
        .collect();
    let cut: Vec<Option<RgbaImage>> = kept
        .par_iter()
        .map(|(_, source)| {
            cut_out(packages, icons, source)
                .inspect_err(|reason| {
                    tracing::debug!(concept = concept.name, file = source.file, reason, "left out");
                })
                .ok()
        })
        .collect();
    let mut stored = Vec::new();
    for ((number, source), picture) in kept.into_iter().zip(cut) {
        let Some(picture) = picture else { continue };
        let file = format!("{folder}/{number:02}.png");
        let path = dir.join(&file);
        picture.save(&path).map_err(PlayroomError::format(&path))?;
        stored.push(StoredFile {
            file,
            package: source.package.clone(),
            source: source.file.clone(),
            licence: source.licence,
            synthesised: false,
        });
    }
    Ok(stored)
}

/// A concept's name as a folder.
pub(super) fn slug(name: &str) -> String {
    name.replace(' ', "_")
}
