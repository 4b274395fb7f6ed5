//! Parquet files as Hugging Face publishes data sets of pictures: MagicBrush and Emu Edit.
//!
//! Rows are read one at a time, so that a picture is in memory only while it is written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use image::ImageFormat;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record};

use super::{Importer, Row, about, magicbrush, plain};
use crate::{EvalError, Result};

/// Largest picture inside of a row.
const MOST_PICTURE: usize = 100 << 20;

/// The Parquet files in `folder` and in its `data`, in order.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = [folder.to_path_buf(), folder.join("data")]
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "parquet"));
    files.sort();
    files
}

fn records(path: &Path, mut take: impl FnMut(&Columns<'_>) -> Result<()>) -> Result<()> {
    let malformed = |error| EvalError::malformed(path, error);
    let file = File::open(path).map_err(EvalError::io(path))?;
    let reader = SerializedFileReader::new(file).map_err(malformed)?;
    for record in reader.get_row_iter(None).map_err(malformed)? {
        let record = record.map_err(malformed)?;
        take(&Columns { path, record: &record })?;
    }
    Ok(())
}

/// The fields of a row by name.
struct Columns<'a> {
    path: &'a Path,
    record: &'a Record,
}

impl Columns<'_> {
    fn field(&self, name: &str) -> Result<&Field> {
        let mut columns = self.record.get_column_iter();
        columns
            .find(|(known, _)| *known == name)
            .map(|(_, field)| field)
            .ok_or_else(|| EvalError::malformed(self.path, format!("there is no column `{name}`")))
    }

    /// Text, or a number as text.
    fn text(&self, name: &str) -> Result<String> {
        match self.field(name)? {
            Field::Str(text) => Ok(text.clone()),
            Field::Int(number) => Ok(number.to_string()),
            Field::Long(number) => Ok(number.to_string()),
            _ => Err(EvalError::malformed(self.path, format!("`{name}` is no text"))),
        }
    }

    /// The bytes of a picture: a group of `bytes` and `path`.
    fn picture(&self, name: &str) -> Result<&[u8]> {
        let bytes = match self.field(name)? {
            Field::Group(group) => group.get_column_iter().find_map(|(field, value)| match value {
                Field::Bytes(bytes) if field == "bytes" => Some(bytes.data()),
                _ => None,
            }),
            _ => None,
        };
        bytes.filter(|bytes| bytes.len() <= MOST_PICTURE).ok_or_else(|| {
            EvalError::malformed(self.path, format!("`{name}` is no picture inside of the file"))
        })
    }
}

/// Puts a picture into the suite under the extension of what it is.
fn put(importer: &Importer, bytes: &[u8], name: &str) -> Result<String> {
    let format = image::guess_format(bytes).unwrap_or(ImageFormat::Png);
    let extension = format.extensions_str().first().unwrap_or(&"png");
    importer.put(bytes, &format!("{name}.{extension}"))
}

/// `img_id`, `turn_index`, `source_img`, `mask_img`, `instruction`, `target_img`; no captions.
pub(super) fn magicbrush(importer: &mut Importer, files: &[PathBuf]) -> Result<()> {
    for path in files {
        records(path, |columns| {
            let turn = columns.text("turn_index")?;
            let id = format!("{}-{turn}", plain(&columns.text("img_id")?));
            let source = columns.picture("source_img")?;
            let base = put(importer, source, &format!("{id}-source"))?;
            let target = put(importer, columns.picture("target_img")?, &format!("{id}-target"))?;
            let mask = magicbrush::mask_of(path, columns.picture("mask_img")?, source)?;
            let row = Row {
                kind: format!("turn {turn}"),
                operation: String::new(),
                instruction: about(&base, &columns.text("instruction")?),
                target: Some(target),
                mask: Some(importer.put(&mask, &format!("{id}-mask.png"))?),
                caption: None,
                source_caption: None,
                seed: 0,
                base: Some(base),
                id,
            };
            importer.rows.push(row);
            Ok(())
        })?;
    }
    Ok(())
}

/// `instruction`, `image`, `task`, `idx`, `input_caption`, `output_caption`; of the splits the
/// one called test, when the files say so.
pub(super) fn emu_edit(importer: &mut Importer, files: &[PathBuf]) -> Result<()> {
    let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let is_test = |path: &&PathBuf| name(path).is_some_and(|name| name.starts_with("test"));
    let any_test = files.iter().any(|path| is_test(&path));
    for path in files.iter().filter(|path| !any_test || is_test(path)) {
        records(path, |columns| {
            let id = format!("{:05}-{}", importer.rows.len(), plain(&columns.text("idx")?));
            let base = put(importer, columns.picture("image")?, &format!("{id}-source"))?;
            let row = Row {
                kind: columns.text("task")?,
                operation: String::new(),
                instruction: about(&base, &columns.text("instruction")?),
                target: None,
                mask: None,
                caption: Some(columns.text("output_caption")?),
                source_caption: Some(columns.text("input_caption")?),
                seed: 0,
                base: Some(base),
                id,
            };
            importer.rows.push(row);
            Ok(())
        })?;
    }
    Ok(())
}
