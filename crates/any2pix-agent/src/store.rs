//! `ModelStore`: the files of a model, compiled into the program or in a folder.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use any2pix_nn::Checkpoint;
use serde::de::DeserializeOwned;

use crate::error::AgentError;
use crate::outcome::{sha256, sha256_of_file};

/// The embedded model's files: path in `models/playroom` and content, in the order of
/// `models/playroom/embedded.txt`.
static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Name of the embedded model.
pub const PLAYROOM: &str = "playroom";
/// The models that may be compiled in, and their folders in `models/playroom`.
const MODELS: [(&str, &str); 2] = [(PLAYROOM, ""), ("playroom-ip2p", "ip2p")];
/// No file of a model folder is larger.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// No file of a model folder lies deeper.
const MAX_DEPTH: usize = 8;

#[derive(Clone, Debug)]
enum Place {
    /// A folder of `models/playroom`; nothing for the folder itself.
    Embedded(&'static str),
    Folder(PathBuf),
}

/// The file at `path`, seen from a folder of `models/playroom`; `..` leads out of that folder.
fn embedded(root: &str, path: &str) -> Option<&'static [u8]> {
    let mut parts: Vec<&str> = Vec::new();
    for part in root.split('/').chain(path.split('/')).filter(|part| !part.is_empty()) {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let whole = parts.join("/");
    EMBEDDED.iter().find(|(name, _)| *name == whole).map(|(_, bytes)| *bytes)
}

/// The models that this program carries.
pub fn carried() -> impl Iterator<Item = &'static str> {
    let is_carried = |(_, root): &(_, &str)| embedded(root, "model_index.json").is_some();
    MODELS.into_iter().filter(is_carried).map(|(name, _)| name)
}

/// The files of a model; remembers the hashes of the weights it has handed out.
#[derive(Debug)]
pub struct ModelStore {
    name: String,
    place: Place,
    /// Of all weights that were read so far.
    hashes: Arc<Mutex<BTreeMap<String, String>>>,
    /// Those that were handed out here.
    used: Mutex<BTreeSet<String>>,
    /// The weights of the edit that is repeated: no others are handed out.
    expected: Option<Arc<BTreeMap<String, String>>>,
    /// [`Self::fingerprint`], once somebody asked: a worker is asked for many shards, and a model
    /// may have tens of gigabytes.
    fingerprint: Arc<OnceLock<String>>,
}

impl ModelStore {
    /// The model that is compiled in.
    pub fn embedded() -> Self {
        Self::new(PLAYROOM.to_string(), Place::Embedded(""))
    }

    /// One of the models that are [`carried`], or the folder of one.
    pub fn open(model: &str) -> Result<Self, AgentError> {
        let known = MODELS.iter().find(|(name, _)| *name == model);
        if let Some((name, folder)) = known
            && carried().any(|carried| carried == *name)
        {
            return Ok(Self::new(name.to_string(), Place::Embedded(folder)));
        }
        let folder = Path::new(model);
        if !folder.is_dir() {
            let reason = if known.is_some() {
                "this build does not carry it; `any2pix models list` says what it carries"
            } else {
                "no such model, and no such folder"
            };
            return Err(AgentError::BadModel { model: model.to_string(), reason: reason.into() });
        }
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let name = absolute.file_name().map_or(model.into(), |n| n.to_string_lossy().into_owned());
        Ok(Self::new(name, Place::Folder(absolute)))
    }

    fn new(name: String, place: Place) -> Self {
        Self {
            name,
            place,
            hashes: Arc::default(),
            used: Mutex::default(),
            expected: None,
            fingerprint: Arc::default(),
        }
    }

    /// Refuses, from now on, weights that are not those of `expected`.
    pub fn expect(&mut self, expected: Option<BTreeMap<String, String>>) {
        self.expected = expected.map(Arc::new);
    }

    /// The same files for one edit: [`Self::hashes`] will be of what that edit uses, whatever was
    /// read before or is read beside it.
    pub fn for_one_edit(&self) -> Self {
        Self {
            name: self.name.clone(),
            place: self.place.clone(),
            hashes: self.hashes.clone(),
            used: Mutex::default(),
            expected: self.expected.clone(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a file or a folder at `path`.
    pub fn has(&self, path: &str) -> bool {
        match &self.place {
            Place::Embedded(root) => embedded(root, path).is_some(),
            Place::Folder(folder) => folder.join(path).exists(),
        }
    }

    /// Whether there is a file at `path`.
    pub fn has_file(&self, path: &str) -> bool {
        match &self.place {
            Place::Embedded(_) => self.has(path),
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
            Place::Embedded(root) => Ok(embedded(root, path).map(Cow::Borrowed)),
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
            Place::Embedded(_) => {
                let bytes = self.read(path)?;
                (sha256(&bytes), Checkpoint::from_bytes(&origin, &bytes))
            }
            Place::Folder(folder) => {
                let file = self.file(folder, path)?.ok_or_else(|| self.bad(path, &"is missing"))?;
                let hash = sha256_of_file(&file).map_err(|error| self.bad(path, &error))?;
                (hash, Checkpoint::open(&file))
            }
        };
        self.remember(path, hash)?;
        if path.ends_with(".index.json") {
            self.remember_shards(path)?;
        }
        checkpoint.map_err(AgentError::weights(path))
    }

    /// The weights at `path`, which several parts are read from: their hash is taken once.
    pub fn weights_again(&self, path: &str) -> Result<Checkpoint, AgentError> {
        match &self.place {
            Place::Folder(folder) if self.knows(path) => {
                self.use_again(path);
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
            self.remember(&shard, hash)?;
        }
        Ok(())
    }

    /// Remembers the hash of weights that an edit uses; an error when an edit is repeated that
    /// used others.
    pub fn remember(&self, path: &str, hash: String) -> Result<(), AgentError> {
        let expected = self.expected.as_ref().map(|expected| expected.get(path));
        if let Some(expected) = expected.filter(|expected| *expected != Some(&hash)) {
            let (path, expected) = (path.to_string(), expected.cloned());
            return Err(AgentError::OtherWeights { path, expected, found: hash });
        }
        locked(&self.hashes).insert(path.to_string(), hash);
        self.use_again(path);
        Ok(())
    }

    /// [`Self::remember`] of what `hash` says, which is asked only when nobody knows it yet.
    pub fn remember_once(
        &self,
        path: &str,
        hash: impl FnOnce() -> Result<String, AgentError>,
    ) -> Result<(), AgentError> {
        if !self.knows(path) {
            return self.remember(path, hash()?);
        }
        self.use_again(path);
        Ok(())
    }

    fn knows(&self, path: &str) -> bool {
        locked(&self.hashes).contains_key(path)
    }

    /// Remembers that an edit uses weights that were read before.
    pub fn use_again(&self, path: &str) {
        locked(&self.used).insert(path.to_string());
    }

    /// One hash of the names and the bytes of all files of the model, taken when it is first asked
    /// for.
    pub fn fingerprint(&self) -> Result<String, AgentError> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known.clone());
        }
        let hash = self.hash_of_all()?;
        Ok(self.fingerprint.get_or_init(|| hash).clone())
    }

    fn hash_of_all(&self) -> Result<String, AgentError> {
        let mut list = String::new();
        match &self.place {
            Place::Embedded(_) => {
                for (name, bytes) in EMBEDDED {
                    list += &format!("{name} {}\n", sha256(bytes));
                }
            }
            Place::Folder(folder) => {
                let mut files = Vec::new();
                self.walk(folder, Path::new(""), &mut files)?;
                for file in files {
                    let name = file.to_string_lossy();
                    let hash = sha256_of_file(&folder.join(&file));
                    list += &format!("{name} {}\n", hash.map_err(|e| self.bad(&name, &e))?);
                }
            }
        }
        Ok(sha256(list.as_bytes()))
    }

    /// The files under `inside`, a path in the model's `folder`, in order; hidden ones are nobody's.
    fn walk(
        &self,
        folder: &Path,
        inside: &Path,
        files: &mut Vec<PathBuf>,
    ) -> Result<(), AgentError> {
        if inside.components().count() > MAX_DEPTH {
            return Err(self.bad(&inside.to_string_lossy(), &"is nested too deep"));
        }
        let bad = |error: std::io::Error| self.bad(&inside.to_string_lossy(), &error);
        let entries = std::fs::read_dir(folder.join(inside)).map_err(bad)?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(bad)?.file_name());
        }
        names.retain(|name| !name.to_string_lossy().starts_with('.'));
        names.sort();
        for path in names.iter().map(|name| inside.join(name)) {
            match folder.join(&path).is_dir() {
                true => self.walk(folder, &path, files)?,
                false => files.push(path),
            }
        }
        Ok(())
    }

    /// SHA-256 of every weights file that was handed out.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let (known, used) = (locked(&self.hashes), locked(&self.used));
        used.iter().filter_map(|path| Some((path.clone(), known.get(path)?.clone()))).collect()
    }

    /// An error about the file at `path`.
    pub fn bad(&self, path: &str, reason: &dyn std::fmt::Display) -> AgentError {
        AgentError::BadModel { model: self.name.clone(), reason: format!("{path}: {reason}") }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;

    #[test]
    fn an_edit_knows_the_weights_that_it_used_and_no_others() {
        let store = ModelStore::embedded();
        let (one, other) = (store.for_one_edit(), store.for_one_edit());
        one.weights("vae/model.safetensors").unwrap();
        other.weights("llm/model.safetensors").unwrap();
        let names = |store: &ModelStore| store.hashes().into_keys().collect::<Vec<_>>();
        assert_eq!(names(&one), ["vae/model.safetensors"]);
        assert_eq!(names(&other), ["llm/model.safetensors"]);
        other.use_again("vae/model.safetensors");
        assert_eq!(names(&other), ["llm/model.safetensors", "vae/model.safetensors"]);
        assert!(store.hashes().is_empty());
    }

    #[test]
    fn a_fingerprint_is_of_every_name_and_byte() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("unet")).unwrap();
        std::fs::write(dir.path().join("unet/config.json"), "{}").unwrap();
        let print = || ModelStore::open(dir.path().to_str().unwrap()).unwrap().fingerprint();
        let first = print().unwrap();
        assert_eq!(print().unwrap(), first);
        std::fs::write(dir.path().join("unet/config.json"), "{ }").unwrap();
        let second = print().unwrap();
        assert_ne!(second, first);
        std::fs::rename(dir.path().join("unet/config.json"), dir.path().join("x.json")).unwrap();
        assert_ne!(print().unwrap(), second);
    }
}
