//! From catalogued scenes to backgrounds of at most 320 pixels on the longer side.

use std::path::Path;

use image::DynamicImage;

use super::catalogue::{Background, Catalogue};
use super::error::{PlayroomError, Result};
use super::packages::{Packages, create_dir};
use super::raster;
use super::store::StoredBackground;

/// Longest side of a stored background.
const BACKGROUND_SIDE: u32 = 320;
/// A background must at least fill a scene.
const SMALLEST_SIDE: u32 = 128;

/// Writes the backgrounds under `dir/backgrounds/`.
pub fn prepare(
    dir: &Path,
    packages: &Packages,
    catalogue: &Catalogue,
) -> Result<Vec<StoredBackground>> {
    create_dir(&dir.join("backgrounds"))?;
    let mut stored = Vec::new();
    for (number, background) in catalogue.backgrounds.iter().enumerate() {
        if let Some(file) = prepare_one(dir, packages, background, number)? {
            stored.push(StoredBackground {
                file,
                package: background.package.clone(),
                source: background.file.clone(),
                licence: background.licence.clone(),
                label: background.label.clone(),
            });
        }
    }
    Ok(stored)
}

fn prepare_one(
    dir: &Path,
    packages: &Packages,
    background: &Background,
    number: usize,
) -> Result<Option<String>> {
    let file = format!("backgrounds/{number:03}.png");
    let path = dir.join(&file);
    if path.is_file() {
        return Ok(Some(file));
    }
    let picture = raster::decode(&packages.file(&background.package, &background.file))?;
    let (width, height) = picture.dimensions();
    let longest = (BACKGROUND_SIDE * width.max(height) / width.min(height)).min(480);
    let small = raster::shrink_to(&picture, longest.max(BACKGROUND_SIDE));
    if small.width().min(small.height()) < SMALLEST_SIDE {
        return Ok(None);
    }
    let small = DynamicImage::ImageRgba8(small).to_rgb8();
    small.save(&path).map_err(PlayroomError::format(&path))?;
    Ok(Some(file))
}
