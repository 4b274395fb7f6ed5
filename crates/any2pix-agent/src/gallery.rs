//! `Gallery`: reference pictures by name and embedding, so that words and sounds can show what
//! they mean.
//!
//! A gallery is a folder of cut-outs (PNG with alpha) with `gallery.json` and, for each encoder
//! it was indexed with, their embeddings. The embedded model carries one; people make their own.

use std::path::{Path, PathBuf};

use any2pix_llm::plan::cosine;
use any2pix_nn::Checkpoint;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::outcome::{sha256, sha256_of_file};
use crate::storage::write_atomically;
use crate::store::ModelStore;

/// The list of a gallery's pictures.
pub const INDEX: &str = "gallery.json";
/// Their embeddings, in the list's order.
pub const EMBEDDINGS: &str = "embeddings.safetensors";
/// What the names of galleries begin with in records.
pub(crate) const RECORDED: &str = "galleries/";
/// Most pictures of a gallery.
const MAX_ITEMS: usize = 100_000;

/// A picture of a gallery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it shows.
    pub name: String,
    /// Its file, relative to the gallery.
    pub file: String,
    /// Its licence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub licence: String,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// `gallery.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// SHA-256 of the encoder's weights that the embeddings were made with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub encoder: String,
    /// The pictures.
    pub items: Vec<Item>,
}

/// Where a gallery's files are.
enum Place<'a> {
    Folder(PathBuf),
    Model(&'a ModelStore, &'static str),
}

/// A gallery that can be searched.
pub struct Gallery<'a> {
    place: Place<'a>,
    /// Its pictures.
    pub index: Index,
    /// One for each picture; `None` when the gallery is not indexed for this encoder: then
    /// pictures are found by name alone.
    embeddings: Option<Vec<Vec<f32>>>,
}

/// A picture that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Which.
    pub index: usize,
    /// Cosine of its embedding with the query, where the gallery has embeddings.
    pub similarity: Option<f32>,
}

fn bad(path: &Path, reason: impl Into<String>) -> AgentError {
    AgentError::Unusable { path: path.to_path_buf(), reason: reason.into() }
}

impl Index {
    /// Reads the index of the gallery in `dir`; a folder without one is an empty gallery.
    pub fn read(dir: &Path) -> Result<Self, AgentError> {
        let path = dir.join(INDEX);
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&path, &bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(AgentError::Unreadable { path, source }),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, AgentError> {
        let index: Self =
            serde_json::from_slice(bytes).map_err(|e| bad(path, format!("not a gallery: {e}")))?;
        if index.items.len() > MAX_ITEMS {
            return Err(bad(path, format!("more than {MAX_ITEMS} pictures")));
        }
        // A gallery may come from anywhere: its files stay inside its folder.
        let stray = index.items.iter().find(|item| !is_inside(&item.file));
        match stray {
            Some(item) => Err(bad(path, format!("`{}` leaves the gallery", item.file))),
            None => Ok(index),
        }
    }

    /// Writes the index into `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), AgentError> {
        let path = dir.join(INDEX);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|e| AgentError::Unwritable { path: path.clone(), source: e.into() })?;
        text.push(b'\n');
        write_atomically(&path, &text)
    }
}

/// A hash of what the gallery in `dir` shows: its index, its pictures and their embeddings.
pub fn fingerprint(dir: &Path) -> Result<String, AgentError> {
    let index = Index::read(dir)?;
    let files = index.items.iter().map(|item| item.file.as_str()).chain([INDEX, EMBEDDINGS]);
    let mut hashes = String::new();
    for path in files.map(|file| dir.join(file)) {
        let hash = sha256_of_file(&path);
        hashes += &hash.map_err(|source| AgentError::Unreadable { path, source })?;
    }
    Ok(sha256(hashes.as_bytes()))
}

/// What records call the gallery in `dir`, among the weights.
pub(crate) fn recorded_name(dir: &Path) -> String {
    format!("{RECORDED}{}", dir.file_name().unwrap_or_default().to_string_lossy())
}

/// True when a relative path has plain components only.
fn is_inside(file: &str) -> bool {
    let plain = |c| matches!(c, std::path::Component::Normal(_));
    !file.is_empty() && !file.contains('\\') && Path::new(file).components().all(plain)
}

/// Writes embeddings in the order of the index's pictures.
pub fn write_embeddings(dir: &Path, embeddings: &[Vec<f32>]) -> Result<(), AgentError> {
    let path = dir.join(EMBEDDINGS);
    let unwritable = |e: candle_core::Error| AgentError::Unwritable {
        path: path.clone(),
        source: std::io::Error::other(e.to_string()),
    };
    let width = embeddings.first().map_or(0, Vec::len);
    let flat: Vec<f32> = embeddings.iter().flatten().copied().collect();
    let tensor = Tensor::from_vec(flat, (embeddings.len(), width), &Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F16))
        .map_err(unwritable)?;
    let temporary = dir.join(format!(".{EMBEDDINGS}.{}.tmp", std::process::id()));
    candle_core::safetensors::save(&[("embeddings", tensor)].into(), &temporary)
        .map_err(unwritable)?;
    std::fs::rename(&temporary, &path)
        .map_err(|source| AgentError::Unwritable { path: path.clone(), source })
}

fn read_embeddings(checkpoint: &Checkpoint) -> candle_core::Result<Vec<Vec<f32>>> {
    match checkpoint.tensor("embeddings") {
        Some(tensor) => tensor.to_dtype(DType::F32)?.to_vec2(),
        None => candle_core::bail!("it has no tensor `embeddings`"),
    }
}

impl<'a> Gallery<'a> {
    /// The gallery in a folder, which must have been indexed with the encoder whose weights'
    /// hash is `encoder`.
    pub fn open(dir: &Path, encoder: &str) -> Result<Self, AgentError> {
        let index = Index::read(dir)?;
        if index.items.is_empty() {
            return Err(bad(dir, "an empty gallery, or none"));
        }
        if index.encoder != encoder {
            return Err(bad(dir, "the gallery was indexed with another model; index it again"));
        }
        let path = dir.join(EMBEDDINGS);
        let checkpoint = Checkpoint::open(&path).map_err(AgentError::weights(EMBEDDINGS))?;
        let embeddings = read_embeddings(&checkpoint).map_err(|e| bad(&path, e.to_string()))?;
        Self::new(Place::Folder(dir.to_path_buf()), index, Some(embeddings))
    }

    /// The gallery of a model, if it has one; `encoder` is the hash of its encoder's weights.
    pub fn of_model(store: &'a ModelStore, encoder: &str) -> Result<Option<Self>, AgentError> {
        const FOLDER: &str = "gallery";
        let Some(bytes) = store.find(&format!("{FOLDER}/{INDEX}"))? else { return Ok(None) };
        let index = Index::parse(Path::new(INDEX), &bytes)?;
        let path = format!("{FOLDER}/{EMBEDDINGS}");
        let embeddings = if index.encoder == encoder && store.find(&path)?.is_some() {
            Some(read_embeddings(&store.weights(&path)?).map_err(|e| store.bad(&path, &e))?)
        } else {
            None
        };
        Self::new(Place::Model(store, FOLDER), index, embeddings).map(Some)
    }

    fn new(
        place: Place<'a>,
        index: Index,
        embeddings: Option<Vec<Vec<f32>>>,
    ) -> Result<Self, AgentError> {
        if let Some(embeddings) = embeddings.as_ref().filter(|e| e.len() != index.items.len()) {
            let reason = format!("{} pictures, {} embeddings", index.items.len(), embeddings.len());
            return Err(bad(Path::new(EMBEDDINGS), reason));
        }
        Ok(Self { place, index, embeddings })
    }

    /// Cosine of picture `index` with `query`, where there are embeddings.
    fn similarity(&self, index: usize, query: &[f32]) -> Option<f32> {
        Some(cosine(query, self.embeddings.as_ref()?.get(index)?))
    }

    /// The picture nearest to `query`; among those called `name`, when there are any.
    pub fn nearest(&self, query: &[f32], name: Option<&str>) -> Option<Found> {
        let named = |item: &Item| name.is_some_and(|name| item.name.eq_ignore_ascii_case(name));
        let has_named = self.index.items.iter().any(named);
        if !has_named && self.embeddings.is_none() {
            return None;
        }
        let better = |best: Found, next: Found| {
            if next.similarity > best.similarity { next } else { best }
        };
        self.index
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| !has_named || named(item))
            .map(|(index, _)| Found { index, similarity: self.similarity(index, query) })
            .reduce(better)
    }

    /// Names of things, nearest to `query` first, each once; none without embeddings.
    pub fn nearest_names(&self, query: &[f32], count: usize) -> Vec<String> {
        let scored =
            self.index.items.iter().enumerate().filter_map(|(index, item)| {
                Some((self.similarity(index, query)?, item.name.as_str()))
            });
        let mut ranked: Vec<(f32, &str)> = scored.collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let mut names: Vec<String> = Vec::new();
        for (_, name) in ranked {
            if names.len() == count {
                break;
            }
            if !names.iter().any(|known| known == name) {
                names.push(name.to_string());
            }
        }
        names
    }

    /// The bytes of a picture.
    pub fn read(&self, index: usize) -> Result<(String, Vec<u8>), AgentError> {
        let Some(item) = self.index.items.get(index) else {
            return Err(bad(Path::new(INDEX), format!("no picture {index}")));
        };
        let bytes = match &self.place {
            Place::Model(store, folder) => {
                store.read(&format!("{folder}/{}", item.file))?.into_owned()
            }
            Place::Folder(dir) => {
                let path = dir.join(&item.file);
                std::fs::read(&path).map_err(|source| AgentError::Unreadable { path, source })?
            }
        };
        Ok((item.file.clone(), bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, file: &str) -> Item {
        Item { name: name.into(), file: file.into(), licence: String::new(), source: String::new() }
    }

    fn gallery(dir: &Path) -> Gallery<'static> {
        let items = vec![item("dog", "dog.png"), item("cat", "cat.png"), item("cat", "cat2.png")];
        Index { encoder: "abc".into(), items }.write(dir).unwrap();
        let embeddings = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.5, 0.5]];
        write_embeddings(dir, &embeddings).unwrap();
        Gallery::open(dir, "abc").unwrap()
    }

    #[test]
    fn a_name_comes_before_an_embedding_and_decides_only_where_it_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let gallery = gallery(dir.path());
        assert_eq!(gallery.nearest(&[1.0, 0.1], None).unwrap().index, 0);
        assert_eq!(gallery.nearest(&[1.0, 0.1], Some("Cat")).unwrap().index, 2);
        assert_eq!(gallery.nearest(&[1.0, 0.1], Some("unicorn")).unwrap().index, 0);
        assert_eq!(gallery.nearest_names(&[0.1, 1.0], 5), ["cat", "dog"]);
    }

    #[test]
    fn a_gallery_of_another_encoder_or_with_stray_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        gallery(dir.path());
        assert!(Gallery::open(dir.path(), "other").is_err());
        for stray in ["../x.png", "/etc/passwd", "a/../../x", "", r"..\x"] {
            let text = serde_json::to_string(&Index {
                encoder: "abc".into(),
                items: vec![item("dog", stray)],
            });
            std::fs::write(dir.path().join(INDEX), text.unwrap()).unwrap();
            let message = Index::read(dir.path()).unwrap_err().to_string();
            assert!(message.contains("leaves the gallery"), "{stray}: {message}");
        }
    }
}
