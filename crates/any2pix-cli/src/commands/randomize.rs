//! `any2pix edit --randomize N`: one edit with many seeds and guidances, and all of them on a sheet.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use any2pix_agent::{EditRequest, EditSettings, Encoding, Pipeline, storage};
use any2pix_nn::Generator;
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::diagnostics::Failure;
use crate::printer::Printer;
use crate::progress::Terminal;

/// Guidances are drawn between these shares of what they are set to. About the published 7.5 and
/// 1.5 they are 6 to 9 and 1.2 to 1.8, as in InstructPix2Pix' `edit_app.py`.
const SHARES: [f32; 2] = [0.8, 1.2];
/// Seeds are below this, as there.
const SEEDS: usize = 100_000;
/// Longest side of a picture on the sheet, and the space around it, pixels.
const THUMBNAIL: u32 = 256;
const MARGIN: u32 = 8;

/// The settings of each edit: the first as they are, the others drawn from their seed.
fn drawn(settings: &EditSettings, count: usize) -> Vec<EditSettings> {
    let mut generator = Generator::new(settings.seed).fork("randomize");
    let draw = |_| {
        let mut about = |value: f64| {
            let share = generator.uniform_in(SHARES[0], SHARES[1]);
            (value * f64::from(share) * 100.0).round() / 100.0
        };
        let guidance = about(settings.guidance);
        let image_guidance = about(settings.image_guidance);
        let seed = generator.below(SEEDS) as u64;
        EditSettings { seed, guidance, image_guidance, ..settings.clone() }
    };
    std::iter::once(settings.clone()).chain((1..count).map(draw)).collect()
}

/// `a/out.png` as `a/out-NAME.png`.
fn beside(output: &Path, name: &str, extension: &str) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{name}.{extension}"))
}

/// Pictures in rows, as many as columns.
fn sheet(pictures: &[RgbImage]) -> RgbImage {
    let columns = (pictures.len() as f64).sqrt().ceil().max(1.0) as u32;
    let rows = (pictures.len() as u32).div_ceil(columns);
    let cell = THUMBNAIL + MARGIN;
    let (width, height) = (columns * cell + MARGIN, rows * cell + MARGIN);
    let mut sheet = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    for (i, picture) in (0..).zip(pictures) {
        let (x, y) = (MARGIN + i % columns * cell, MARGIN + i / columns * cell);
        imageops::replace(&mut sheet, picture, i64::from(x), i64::from(y));
    }
    sheet
}

fn thumbnail(image: &DynamicImage) -> RgbImage {
    match image.width().max(image.height()) > THUMBNAIL {
        true => image.resize(THUMBNAIL, THUMBNAIL, FilterType::CatmullRom).to_rgb8(),
        false => image.to_rgb8(),
    }
}

/// Makes the edits, each in a file of its own beside `output`, and the sheet. What is done when an
/// edit fails stays.
pub(super) fn run(
    (pipeline, request): (&dyn Pipeline, &EditRequest),
    count: usize,
    (output, encoding): (&Path, Encoding),
    inputs: &[PathBuf],
    printer: &Printer,
) -> Result<(), Failure> {
    let (mut thumbnails, mut edits) = (Vec::new(), Vec::<Value>::new());
    for (i, settings) in drawn(&request.settings, count).into_iter().enumerate() {
        let path = beside(output, &(i + 1).to_string(), encoding.format.extension());
        storage::refuse_inputs(&path, inputs)?;
        let request = EditRequest { settings, ..request.clone() };
        let mut progress = Terminal::new(printer);
        let outcome = pipeline.edit(&request, &mut progress)?;
        storage::write_atomically(&path, &outcome.encode(encoding)?)?;
        progress.finish();
        let EditSettings { seed, guidance, image_guidance, .. } = request.settings;
        let told = format!("seed {seed}, guidance {guidance}, image guidance {image_guidance}");
        printer.result(&format!("{}  {told}", path.display()));
        thumbnails.push(thumbnail(&outcome.image));
        edits.push(outcome.document(Some(&path)));
    }
    let path = beside(output, "sheet", "png");
    storage::refuse_inputs(&path, inputs)?;
    let mut bytes = Cursor::new(Vec::new());
    let drawn = sheet(&thumbnails).write_to(&mut bytes, ImageFormat::Png);
    drawn.map_err(|e| Failure::internal(format!("the sheet cannot be written: {e}")))?;
    storage::write_atomically(&path, &bytes.into_inner())?;
    if printer.json {
        printer.document(&json!({ "sheet": path.to_string_lossy(), "edits": edits }));
    } else {
        printer.result(&path.display().to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidances_are_drawn_about_what_they_are_set_to() {
        let settings =
            EditSettings { seed: 4, guidance: 7.5, image_guidance: 1.5, ..EditSettings::default() };
        let all = drawn(&settings, 40);
        assert_eq!(all[0], settings, "the first is the edit as it was asked for");
        assert_eq!(all, drawn(&settings, 40));
        assert_eq!(all[..5], drawn(&settings, 5), "more of them change none");
        for s in &all {
            assert!((6.0..=9.0).contains(&s.guidance) && (1.2..=1.8).contains(&s.image_guidance));
        }
        let seeds: std::collections::BTreeSet<u64> = all.iter().map(|s| s.seed).collect();
        assert!(seeds.len() > 35);
    }

    #[test]
    fn a_sheet_has_room_for_all() {
        let pictures = vec![RgbImage::new(256, 100); 5];
        assert_eq!(sheet(&pictures).dimensions(), (3 * 264 + 8, 2 * 264 + 8));
        assert_eq!(beside(Path::new("a/out.webp"), "sheet", "png"), Path::new("a/out-sheet.png"));
    }
}
