//! Adding to a gallery, taking from it, and indexing it for an encoder.

use std::path::{Path, PathBuf};

use any2pix_encoders::image::{self, ImageLimits};
use any2pix_encoders::locator::Locator;
use image::RgbaImage;

use crate::components::Components;
use crate::error::AgentError;
use crate::gallery::{Index, Item, write_embeddings};
use crate::inputs;
use crate::matting::{self, Matte};
use crate::outcome::sha256;
use crate::progress::Stage;
use crate::request::Reference;
use crate::storage::write_atomically;

/// Longer side of a stored cut-out.
const STORED_SIDE: u32 = 512;
/// Pictures that are embedded in one batch.
const BATCH: usize = 32;

/// A picture that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Where it came from.
    pub from: PathBuf,
    /// Its file in the gallery.
    pub file: String,
    /// How it was cut out.
    pub matte: Matte,
}

/// Cuts out what `pictures` show, puts it into the gallery in `dir` under `name`, and indexes the
/// gallery.
pub fn add(
    dir: &Path,
    name: &str,
    pictures: &[PathBuf],
    components: &Components,
) -> Result<Vec<Added>, AgentError> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 60 || name.chars().any(char::is_control) {
        let reason = "a name has 1 to 60 printable characters".to_string();
        return Err(AgentError::Setting { name: "--name", value: format!("{name:?}"), reason });
    }
    let locator = components.locator()?;
    let cut = pictures.iter().map(|path| cut(path, &locator)).collect::<Result<Vec<_>, _>>()?;
    std::fs::create_dir_all(dir)
        .map_err(|source| AgentError::Unwritable { path: dir.to_path_buf(), source })?;
    let mut index = Index::read(dir)?;
    let mut added = Vec::new();
    for (from, (png, matte)) in pictures.iter().zip(cut) {
        // Names are anything; files are named by content.
        let file = format!("{}.png", &sha256(&png)[..16]);
        write_atomically(&dir.join(&file), &png)?;
        index.items.retain(|item| item.file != file);
        let source = from.file_name().map(|n| n.to_string_lossy().into_owned());
        index.items.push(Item {
            name: name.to_string(),
            file: file.clone(),
            licence: String::new(),
            source: source.unwrap_or_default(),
        });
        added.push(Added { from: from.clone(), file, matte });
    }
    save(dir, index, components)?;
    Ok(added)
}

/// Takes what is called `name`, or the picture with that file name, from the gallery in `dir`.
pub fn remove(dir: &Path, name: &str, components: &Components) -> Result<Vec<Item>, AgentError> {
    let mut index = Index::read(dir)?;
    let is_it = |item: &Item| item.name.eq_ignore_ascii_case(name) || item.file == name;
    let (gone, kept) = index.items.into_iter().partition::<Vec<Item>, _>(is_it);
    if gone.is_empty() {
        let reason = format!("no picture in it is called `{name}`");
        return Err(AgentError::Unusable { path: dir.to_path_buf(), reason });
    }
    index.items = kept;
    save(dir, index, components)?;
    for item in &gone {
        let path = dir.join(&item.file);
        std::fs::remove_file(&path).map_err(|source| AgentError::Unwritable { path, source })?;
    }
    Ok(gone)
}

/// Embeds every picture of the gallery in `dir` anew.
pub fn reindex(dir: &Path, components: &Components) -> Result<usize, AgentError> {
    let index = Index::read(dir)?;
    let count = index.items.len();
    save(dir, index, components)?;
    Ok(count)
}

fn save(dir: &Path, mut index: Index, components: &Components) -> Result<(), AgentError> {
    let imagebind = components.imagebind()?;
    let mut embeddings = Vec::with_capacity(index.items.len());
    for items in index.items.chunks(BATCH) {
        let pictures = items
            .iter()
            .map(|item| {
                let path = dir.join(&item.file);
                let reference = Reference::open(&item.file, &path)?;
                decode(&path, &reference.bytes).map(|picture| picture.rgb)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let rows = imagebind
            .encode_images(&pictures)
            .and_then(|rows| rows.to_vec2::<f32>())
            .map_err(AgentError::compute(Stage::Encode))?;
        embeddings.extend(rows);
    }
    index.encoder = components.encoder_hash()?;
    write_embeddings(dir, &embeddings)?;
    index.write(dir)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<image::Picture, AgentError> {
    image::decode(&path.display().to_string(), bytes, &ImageLimits::default())
        .map_err(|error| AgentError::Media { error: Box::new(error) })
}

/// The object of the picture at `path` as a PNG file.
fn cut(path: &Path, locator: &Locator) -> Result<(Vec<u8>, Matte), AgentError> {
    let reference = Reference::open("", path)?;
    let (cut, matte) = matting::cut_out(&decode(path, &reference.bytes)?, locator)
        .map_err(AgentError::compute(Stage::Locate))?;
    Ok((png(&inputs::shrunk(&cut, STORED_SIDE))?, matte))
}

fn png(picture: &RgbaImage) -> Result<Vec<u8>, AgentError> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ::image::ImageFormat::Png).map_err(|e| {
        AgentError::Unwritable { path: PathBuf::from("PNG"), source: std::io::Error::other(e) }
    })?;
    Ok(bytes.into_inner())
}
