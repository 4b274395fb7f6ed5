//! Contact sheets: source, target and result of many items, or many pairs, on one picture.

use std::io::Cursor;
use std::path::Path;

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::journal::output_path;
use crate::report::Sample;
use crate::suite::Suite;
use crate::{EvalError, Result};

const CELL: u32 = 128;
const GAP: u32 = 4;
const ACROSS: u32 = 4;
/// Source, target, result.
const PICTURES: u32 = 3;

/// Writes `contact_sheet.png` into `out`: up to `limit` items spread over the suite, each as
/// source, target, result. The border of a result is green when the plan was right and red when
/// it was not.
pub fn write(suite: &Suite, samples: &[Sample], out: &Path, limit: usize) -> Result<()> {
    let every = samples.len().div_ceil(limit.max(1)).max(1);
    let chosen: Vec<_> = suite.items.iter().zip(samples).step_by(every).collect();
    let rows = (chosen.len() as u32).div_ceil(ACROSS);
    let block = (PICTURES * CELL + 4 * GAP, CELL + 2 * GAP);
    let mut sheet =
        RgbImage::from_pixel(ACROSS * block.0, rows.max(1) * block.1, Rgb([250, 250, 250]));
    for (index, (item, sample)) in chosen.iter().enumerate() {
        let index = index as u32;
        let (x, y) = (index % ACROSS * block.0 + GAP, index / ACROSS * block.1 + GAP);
        let right = sample.figures.get("plan_right").is_some_and(|value| *value > 0.5);
        let border = if right { Rgb([40, 160, 70]) } else { Rgb([200, 50, 40]) };
        let source = item.base.as_ref().map(|name| suite.picture(name)).transpose()?;
        let target = item.target.as_ref().map(|name| suite.picture(name)).transpose()?;
        let result = image::open(output_path(out, &item.id)).ok().map(|p| p.to_rgb8());
        for (column, picture) in [source, target, result].into_iter().enumerate() {
            let at = x + column as u32 * (CELL + GAP);
            if column == 2 {
                let frame = RgbImage::from_pixel(CELL + 4, CELL + 4, border);
                imageops::replace(&mut sheet, &frame, i64::from(at) - 2, i64::from(y) - 2);
            }
            if let Some(picture) = picture {
                let cell = imageops::resize(&picture, CELL, CELL, FilterType::Triangle);
                imageops::replace(&mut sheet, &cell, i64::from(at), i64::from(y));
            }
        }
    }
    let path = out.join("contact_sheet.png");
    sheet.save(&path).map_err(|e| EvalError::malformed(&path, e))
}

/// The bytes of a PNG of pairs, each before and after.
pub(crate) fn of_pairs(pairs: &[[RgbImage; 2]]) -> Result<Vec<u8>> {
    let rows = (pairs.len() as u32).div_ceil(ACROSS);
    let block = (2 * CELL + 4 * GAP, CELL + 2 * GAP);
    let size = (ACROSS * block.0, rows.max(1) * block.1);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb([250, 250, 250]));
    for (index, pair) in pairs.iter().enumerate() {
        let index = index as u32;
        let (x, y) = (index % ACROSS * block.0 + GAP, index / ACROSS * block.1 + GAP);
        for (column, picture) in pair.iter().enumerate() {
            let cell = imageops::resize(picture, CELL, CELL, FilterType::Triangle);
            let at = x + column as u32 * (CELL + GAP);
            imageops::replace(&mut sheet, &cell, i64::from(at), i64::from(y));
        }
    }
    let mut bytes = Cursor::new(Vec::new());
    sheet
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| EvalError::malformed("contact_sheet.png", e))?;
    Ok(bytes.into_inner())
}
