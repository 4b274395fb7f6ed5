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

/// Blocks of pictures beside each other, four blocks a row.
struct Sheet {
    sheet: RgbImage,
    /// Width and height.
    block: (u32, u32),
}

impl Sheet {
    /// For `blocks` blocks of `pictures` pictures.
    fn new(blocks: usize, pictures: u32) -> Self {
        let rows = (blocks as u32).div_ceil(ACROSS).max(1);
        let block = (pictures * CELL + 4 * GAP, CELL + 2 * GAP);
        let sheet = RgbImage::from_pixel(ACROSS * block.0, rows * block.1, Rgb([250; 3]));
        Self { sheet, block }
    }

    /// Where picture `column` of a block stands.
    fn corner(&self, block: usize, column: usize) -> (i64, i64) {
        let (block, column) = (block as u32, column as u32);
        let (x, y) = (block % ACROSS * self.block.0, block / ACROSS * self.block.1);
        (i64::from(x + GAP + column * (CELL + GAP)), i64::from(y + GAP))
    }

    fn put(&mut self, picture: &RgbImage, (x, y): (i64, i64)) {
        let cell = imageops::resize(picture, CELL, CELL, FilterType::Triangle);
        imageops::replace(&mut self.sheet, &cell, x, y);
    }
}

/// Writes `contact_sheet.png` into `out`: up to `limit` items spread over the suite, each as
/// source, target, result. The border of a result is green when the plan was right and red when
/// it was not.
pub fn write(suite: &Suite, samples: &[Sample], out: &Path, limit: usize) -> Result<()> {
    let every = samples.len().div_ceil(limit.max(1)).max(1);
    let chosen: Vec<_> = suite.items.iter().zip(samples).step_by(every).collect();
    let mut sheet = Sheet::new(chosen.len(), PICTURES);
    for (index, (item, sample)) in chosen.iter().enumerate() {
        let right = sample.figures.get("plan_right").is_some_and(|value| *value > 0.5);
        let border = if right { Rgb([40, 160, 70]) } else { Rgb([200, 50, 40]) };
        let source = item.base.as_ref().map(|name| suite.picture(name)).transpose()?;
        let target = item.target.as_ref().map(|name| suite.picture(name)).transpose()?;
        let result = image::open(output_path(out, &item.id)).ok().map(|p| p.to_rgb8());
        for (column, picture) in [source, target, result].into_iter().enumerate() {
            let (x, y) = sheet.corner(index, column);
            if column == 2 {
                let frame = RgbImage::from_pixel(CELL + 4, CELL + 4, border);
                imageops::replace(&mut sheet.sheet, &frame, x - 2, y - 2);
            }
            if let Some(picture) = picture {
                sheet.put(&picture, (x, y));
            }
        }
    }
    let path = out.join("contact_sheet.png");
    sheet.sheet.save(&path).map_err(|e| EvalError::malformed(&path, e))
}

/// The bytes of a PNG of pairs, each before and after.
pub(crate) fn of_pairs(pairs: &[[RgbImage; 2]]) -> Result<Vec<u8>> {
    let mut sheet = Sheet::new(pairs.len(), 2);
    for (index, pair) in pairs.iter().enumerate() {
        for (column, picture) in pair.iter().enumerate() {
            sheet.put(picture, sheet.corner(index, column));
        }
    }
    let mut bytes = Cursor::new(Vec::new());
    sheet
        .sheet
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| EvalError::malformed("contact_sheet.png", e))?;
    Ok(bytes.into_inner())
}
