//! MagicBrush's folders or Parquet files, every turn edited from its own true input (the published "all turns",
//! independent edits).

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use any2pix_encoders::image::{self as pictures, ImageLimits};
use image::{GrayImage, ImageFormat, Luma};
use serde::Deserialize;

use super::{Importer, Row, about, plain, tables};
use crate::{EvalError, Result};

#[derive(Deserialize)]
struct Turn {
    input: String,
    mask: Option<String>,
    output: String,
    instruction: String,
}

/// Captions by picture, by session.
type Descriptions = BTreeMap<String, BTreeMap<String, String>>;

pub(super) fn read(importer: &mut Importer) -> Result<()> {
    let files = tables::files(&importer.source);
    if !files.is_empty() {
        return tables::magicbrush(importer, &files);
    }
    let sessions: BTreeMap<String, Vec<Turn>> = importer.json("edit_sessions.json")?;
    // Only dev and test have them.
    let described = importer.path("global_descriptions.json")?.is_file();
    let descriptions: Descriptions = match described {
        true => importer.json("global_descriptions.json")?,
        false => Descriptions::new(),
    };
    for (session, turns) in sessions {
        for (index, turn) in turns.into_iter().enumerate() {
            let number = index + 1;
            let id = format!("{}-{number}", plain(&session));
            let caption = |file: &str| descriptions.get(&session)?.get(file).cloned();
            let path = |file: &str| importer.path(&format!("images/{session}/{file}"));
            let source = path(&turn.input)?;
            let base = importer.take(&source, &format!("{id}-source"))?;
            let mask = turn.mask.as_ref().map(|file| {
                let bytes = mask(&path(file)?, &source)?;
                importer.put(&bytes, &format!("{id}-mask.png"))
            });
            let row = Row {
                kind: format!("turn {number}"),
                operation: String::new(),
                instruction: about(&base, &turn.instruction),
                target: Some(importer.take(&path(&turn.output)?, &format!("{id}-target"))?),
                mask: mask.transpose()?,
                caption: caption(&turn.output),
                source_caption: caption(&turn.input),
                seed: 0,
                base: Some(base),
                id,
            };
            importer.rows.push(row);
        }
    }
    Ok(())
}

fn mask(path: &Path, source: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).map_err(EvalError::io(path));
    mask_of(path, &read(path)?, &read(source)?)
}

/// A published mask is the source with a hole in it, transparent or white; what is made of it is
/// white where something may change. `path` is named in errors.
pub(super) fn mask_of(path: &Path, mask: &[u8], source: &[u8]) -> Result<Vec<u8>> {
    let decode = |bytes: &[u8]| {
        pictures::decode(&path.display().to_string(), bytes, &ImageLimits::default())
            .map_err(|e| EvalError::malformed(path, e))
    };
    let picture = decode(mask)?;
    let (width, height) = picture.rgb.dimensions();
    let hole: GrayImage = if let Some(alpha) = picture.alpha() {
        GrayImage::from_fn(width, height, |x, y| Luma([255 - alpha.get_pixel(x, y).0[0]]))
    } else {
        let source = decode(source)?.rgb;
        let is_white = |x, y| picture.rgb.get_pixel(x, y).0 == [255; 3];
        let was_white = |x, y| source.get_pixel_checked(x, y).is_some_and(|p| p.0 == [255; 3]);
        GrayImage::from_fn(width, height, |x, y| {
            Luma([if is_white(x, y) && !was_white(x, y) { 255 } else { 0 }])
        })
    };
    let mut bytes = Cursor::new(Vec::new());
    hole.write_to(&mut bytes, ImageFormat::Png).map_err(|e| EvalError::malformed(path, e))?;
    Ok(bytes.into_inner())
}
