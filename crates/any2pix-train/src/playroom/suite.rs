//! The held-out evaluation suite: edits with their inputs, targets, masks and truth as files.

use std::path::Path;

use any2pix_nn::Generator;
use image::{GrayImage, RgbImage, imageops};
use serde::Serialize;

use super::audio;
use super::error::{PlayroomError, Result};
use super::packages::create_dir;
use super::recipe::difference;
use super::sample::{Familiarity, Kind, Media, Modality, ObjectSlot, Piece, Sample};
use super::scene::{BBox, SCENE_SIDE};
use super::splits::Split;
use super::world::World;

/// The seed of the suite.
const SEED: u64 = 500;
/// Sides of the suite's pictures: not 128, so that the evaluation exercises resizing.
const SIDES: [u32; 3] = [256, 320, 384];
/// Of a hundred edits, how many of each kind, in the order of [`Kind::ALL`].
const SHARES: [usize; 10] = [22, 18, 20, 12, 6, 4, 6, 3, 7, 2];

#[derive(Serialize)]
struct Row {
    id: String,
    kind: Kind,
    operation: &'static str,
    instruction: String,
    base: Option<String>,
    target: String,
    mask: String,
    subjects: Vec<Subject>,
    rest: Vec<Thing>,
    place: Option<&'static str>,
    look: Option<String>,
    caption: String,
    source_caption: String,
    seed: u64,
}

#[derive(Serialize)]
struct Subject {
    name: String,
    role: &'static str,
    modality: Modality,
    reference: Option<String>,
    held_out: bool,
    familiarity: Familiarity,
    bbox: [u32; 4],
}

#[derive(Serialize)]
struct Thing {
    name: String,
    bbox: [u32; 4],
}

#[derive(Serialize)]
struct ManifestRow<'a> {
    id: &'a str,
    instruction: &'a str,
    settings: Settings,
}

#[derive(Serialize)]
struct Settings {
    seed: u64,
}

/// Writes `count` held-out edits into `dir`: `suite.jsonl` with the truth, `manifest.jsonl` for
/// `any2pix batch`, `media/` (inputs), `targets/`, `masks/`.
pub fn write(world: &World, dir: &Path, count: usize) -> Result<()> {
    for folder in ["media", "targets", "masks"] {
        create_dir(&dir.join(folder))?;
    }
    let root = Generator::new(SEED);
    let (mut rows, mut manifest) = (String::new(), String::new());
    for (number, kind) in kinds(count).into_iter().enumerate() {
        let id = format!("{number:04}");
        let mut generator = root.fork(&id);
        let sample = world.sample(&mut generator, Split::HeldOut, Some(kind));
        let side = SIDES[generator.below(SIDES.len())];
        let row = write_item(&sample, dir, id, side, number as u64)?;
        let settings = Settings { seed: row.seed };
        let short = ManifestRow { id: &row.id, instruction: &row.instruction, settings };
        push_line(&mut rows, &row, dir)?;
        push_line(&mut manifest, &short, dir)?;
    }
    for (name, text) in [("manifest.jsonl", manifest), ("suite.jsonl", rows)] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(PlayroomError::io(&path))?;
    }
    Ok(())
}

fn push_line(text: &mut String, row: &impl Serialize, dir: &Path) -> Result<()> {
    let line = serde_json::to_string(row).map_err(PlayroomError::format(dir))?;
    text.push_str(&line);
    text.push('\n');
    Ok(())
}

/// The kinds of `count` edits by their shares, interleaved.
fn kinds(count: usize) -> Vec<Kind> {
    let mut ticks: Vec<(f64, usize)> = Vec::new();
    for (index, share) in SHARES.into_iter().enumerate() {
        let amount = (share * count).div_ceil(100);
        ticks.extend((0..amount).map(|i| ((i as f64 + 0.5) / amount as f64, index)));
    }
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    ticks.truncate(count);
    ticks.into_iter().map(|(_, index)| Kind::ALL[index]).collect()
}

fn write_item(sample: &Sample, dir: &Path, id: String, side: u32, seed: u64) -> Result<Row> {
    let (source, target) = sample.recipe.render(side);
    let files = write_media(sample, &source, dir, &id)?;
    let target_file = format!("targets/{id}.png");
    save(&target, &dir.join(&target_file))?;
    let mask = if sample.mask.pixels().all(|pixel| pixel[0] == 255) {
        GrayImage::from_pixel(side, side, image::Luma([255]))
    } else {
        difference(&source, &target)
    };
    let mask_file = format!("masks/{id}.png");
    let path = dir.join(&mask_file);
    mask.save(&path).map_err(PlayroomError::format(&path))?;
    let scaled = |bbox: &BBox| {
        [bbox.x, bbox.y, bbox.width, bbox.height].map(|value| value * side / SCENE_SIDE)
    };
    let rest = sample
        .objects_after
        .iter()
        .filter(|present| {
            let is_it =
                |slot: &&ObjectSlot| slot.concept == present.concept && slot.bbox == present.bbox;
            !sample.wanted.iter().any(|slot| is_it(&slot))
        })
        .map(|present| Thing { name: present.concept.clone(), bbox: scaled(&present.bbox) })
        .collect();
    Ok(Row {
        kind: sample.kind,
        operation: sample.operation,
        instruction: instruction(sample, &files),
        base: sample.base.map(|index| files[index].clone()),
        target: target_file,
        mask: mask_file,
        subjects: subjects(sample, &files, scaled),
        rest,
        place: sample.place.map(super::Place::word),
        look: sample.look.clone(),
        caption: sample.caption.clone(),
        source_caption: sample.source_caption.clone(),
        seed,
        id,
    })
}

fn subjects(sample: &Sample, files: &[String], scaled: impl Fn(&BBox) -> [u32; 4]) -> Vec<Subject> {
    let subject = |slot: &ObjectSlot, role| Subject {
        name: slot.concept.clone(),
        role,
        modality: slot.modality,
        reference: slot.media.map(|index| files[index].clone()),
        held_out: slot.familiarity != Familiarity::Known,
        familiarity: slot.familiarity,
        bbox: scaled(&slot.bbox),
    };
    // A thing that was adjusted is still there: only its new state is asked for.
    let gone = if sample.kind == Kind::Adjust { &[][..] } else { &sample.unwanted[..] };
    sample
        .wanted
        .iter()
        .map(|slot| subject(slot, "add"))
        .chain(gone.iter().map(|slot| subject(slot, "remove")))
        .collect()
}

fn instruction(sample: &Sample, files: &[String]) -> String {
    sample
        .pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Media(index) => format!("[{}]", files[*index]),
        })
        .collect()
}

/// Writes the inputs under names that say nothing of their content.
fn write_media(sample: &Sample, source: &RgbImage, dir: &Path, id: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for (index, media) in sample.media.iter().enumerate() {
        let name = |extension: &str| format!("media/{id}-{}.{extension}", index + 1);
        let file = match media {
            Media::Image { .. } if sample.base == Some(index) => {
                let file = name("png");
                save(source, &dir.join(&file))?;
                file
            }
            Media::Image { picture, .. } => {
                let file = name("png");
                let path = dir.join(&file);
                let scale = 2 * picture.width();
                let larger = imageops::resize(
                    picture,
                    scale,
                    2 * picture.height(),
                    imageops::FilterType::CatmullRom,
                );
                larger.save(&path).map_err(PlayroomError::format(&path))?;
                file
            }
            Media::Audio { samples, .. } => {
                let file = name("wav");
                audio::write_wav(&dir.join(&file), samples)?;
                file
            }
        };
        files.push(file);
    }
    Ok(files)
}

fn save(picture: &RgbImage, path: &Path) -> Result<()> {
    picture.save(path).map_err(PlayroomError::format(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_in_every_hundred() {
        let kinds = kinds(500);
        assert_eq!(kinds.len(), 500);
        for kind in Kind::ALL {
            let count = |part: &[Kind]| part.iter().filter(|k| **k == kind).count();
            assert!(count(&kinds) >= 10, "{kind:?}");
            assert!(count(&kinds[..100]) >= 1, "{kind:?}");
        }
    }
}
