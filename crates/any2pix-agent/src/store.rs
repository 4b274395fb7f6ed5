//! `ModelStore`: the files of a model, compiled into the program or in a folder.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use any2pix_nn::Checkpoint;
use serde::de::DeserializeOwned;

use crate::error::AgentError;
use crate::outcome::{sha256, sha256_of_file};

/// The embedded model's files: path in `models/playroom` and content, in the order of
/// `models/playroom/embedded.txt`.
static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Name of the embedded model.
pub const PLAYROOM: &str = "playroom";
/// No file of a model folder is larger.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// Folders within folders of a model; a link that goes in circles ends here.
const MAX_DEPTH: usize = 8;

#[derive(Clone, Debug)]
enum Place {
    Embedded,
    Folder(PathBuf),
}

/// The files of a model; remembers the hashes of the weights it has handed out.
#[derive(Debug)]
pub struct ModelStore {
    name: String,
    place: Place,
    hashes: Mutex<BTreeMap<String, String>>,
}

impl ModelStore {
    /// The model that is compiled in.
    pub fn embedded() -> Self {
        Self { name: PLAYROOM.to_string(), place: Place::Embedded, hashes: Mutex::default() }
    }

    /// `playroom`, or the folder of a model.
    pub fn open(model: &str) -> Result<Self, AgentError> {
        if model == PLAYROOM && !EMBEDDED.is_empty() {
            return Ok(Self::embedded());
        }
        let folder = Path::new(model);
        if !folder.is_dir() {
            let reason = if model == PLAYROOM {
                "this build carries no model (it was made without the feature `embedded`)"
            } else {
                "no such model, and no such folder"
            };
            return Err(AgentError::BadModel { model: model.to_string(), reason: reason.into() });
        }
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let name = absolute.file_name().map_or(model.into(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, place: Place::Folder(absolute), hashes: Mutex::default() })
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a file or a folder at `path`.
    pub fn has(&self, path: &str) -> bool {
        match &self.place {
            Place::Embedded => EMBEDDED.iter().any(|(name, _)| *name == path),
            Place::Folder(folder) => folder.join(path).exists(),
        }
    }

    /// Whether there is a file at `path`.
    pub fn has_file(&self, path: &str) -> bool {
        match &self.place {
            Place::Embedded => self.has(path),
            Place::Folder(folder) => folder.join(path).is_file(),
        }
    }

    /// Names of the files that a model's folder holds itself, sorted.
    pub fn files(&self) -> Vec<String> {
        let Place::Folder(folder) = &self.place else { return Vec::new() };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.path().is_file());
        let mut names: Vec<String> =
            files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The file at `path`, if the model has it.
    pub fn find(&self, path: &str) -> Result<Option<Cow<'static, [u8]>>, AgentError> {
        match &self.place {
            Place::Embedded => {
                let found = EMBEDDED.iter().find(|(name, _)| *name == path);
                Ok(found.map(|(_, bytes)| Cow::Borrowed(*bytes)))
            }
            Place::Folder(folder) => {
                let Some(file) = self.file(folder, path)? else { return Ok(None) };
                let bytes = std::fs::read(&file);
                bytes.map(|b| Some(Cow::Owned(b))).map_err(|e| self.bad(path, &e))
            }
        }
    }

    /// The file at `path` in a model's folder, if it is there.
    fn file(&self, folder: &Path, path: &str) -> Result<Option<PathBuf>, AgentError> {
        let file = folder.join(path);
        match std::fs::metadata(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Ok(meta) if meta.is_file() && meta.len() <= MAX_FILE_BYTES => Ok(Some(file)),
            Ok(_) => Err(self.bad(path, &"is not a regular file of a plausible size")),
            Err(error) => Err(self.bad(path, &error)),
        }
    }

    /// The file at `path`.
    pub fn read(&self, path: &str) -> Result<Cow<'static, [u8]>, AgentError> {
        self.find(path)?.ok_or_else(|| self.bad(path, &"is missing"))
    }

    /// The JSON document at `path`.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, AgentError> {
        serde_json::from_slice(&self.read(path)?).map_err(|e| self.bad(path, &e))
    }

    /// The weights at `path`, whose hash is remembered.
    pub fn weights(&self, path: &str) -> Result<Checkpoint, AgentError> {
        let origin = format!("{}/{path}", self.name);
        let (hash, checkpoint) = match &self.place {
            Place::Embedded => {
                let bytes = self.read(path)?;
                (sha256(&bytes), Checkpoint::from_bytes(&origin, &bytes))
            }
            Place::Folder(folder) => {
                let file = self.file(folder, path)?.ok_or_else(|| self.bad(path, &"is missing"))?;
                let hash = sha256_of_file(&file).map_err(|error| self.bad(path, &error))?;
                (hash, Checkpoint::open(&file))
            }
        };
        self.remember(path, hash);
        if path.ends_with(".index.json") {
            self.remember_shards(path)?;
        }
        checkpoint.map_err(AgentError::weights(path))
    }

    /// The weights at `path`, which several parts are read from: their hash is taken once.
    pub fn weights_again(&self, path: &str) -> Result<Checkpoint, AgentError> {
        match &self.place {
            Place::Folder(folder) if self.hashes().contains_key(path) => {
                let file = self.file(folder, path)?.ok_or_else(|| self.bad(path, &"is missing"))?;
                Checkpoint::open(&file).map_err(AgentError::weights(path))
            }
            _ => self.weights(path),
        }
    }

    /// Remembers the hashes of the files that an index of weights names.
    fn remember_shards(&self, path: &str) -> Result<(), AgentError> {
        let index: serde_json::Value = self.json(path)?;
        let shards: BTreeSet<&str> = index["weight_map"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.values().filter_map(|shard| shard.as_str()))
            .collect();
        let (Place::Folder(folder), Some(parent)) = (&self.place, Path::new(path).parent()) else {
            return Ok(());
        };
        for shard in shards {
            let shard = parent.join(shard).to_string_lossy().into_owned();
            let file = self.file(folder, &shard)?.ok_or_else(|| self.bad(&shard, &"is missing"))?;
            let hash = sha256_of_file(&file).map_err(|error| self.bad(&shard, &error))?;
            self.remember(&shard, hash);
        }
        Ok(())
    }

    /// SHA-256 over the names and contents of all files, whichever of them an edit uses.
    pub fn fingerprint(&self) -> Result<String, AgentError> {
        let lines = match &self.place {
            Place::Embedded => {
                let line = |(path, bytes): &(&str, &[u8])| format!("{path} {}\n", sha256(bytes));
                EMBEDDED.iter().map(line).collect()
            }
            Place::Folder(folder) => {
                let mut paths = Vec::new();
                files_below(folder, 0, &mut paths).map_err(|e| self.bad("", &e))?;
                paths.sort();
                let line = |path: &PathBuf| {
                    let shown = path.strip_prefix(folder).unwrap_or(path).display().to_string();
                    let hash = sha256_of_file(path).map_err(|e| self.bad(&shown, &e))?;
                    Ok(format!("{shown} {hash}\n"))
                };
                paths.iter().map(line).collect::<Result<String, AgentError>>()?
            }
        };
        Ok(sha256(lines.as_bytes()))
    }

    /// Remembers the hash of weights that an edit uses.
    pub fn remember(&self, path: &str, hash: String) {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        hashes.insert(path.to_string(), hash);
    }

    /// SHA-256 of every weights file that was handed out.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error about the file at `path`.
    pub fn bad(&self, path: &str, reason: &dyn std::fmt::Display) -> AgentError {
        AgentError::BadModel { model: self.name.clone(), reason: format!("{path}: {reason}") }
    }
}

/// The files of a folder and of those in it.
fn files_below(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(std::io::Error::other("its folders are nested too deeply"));
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, depth + 1, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
