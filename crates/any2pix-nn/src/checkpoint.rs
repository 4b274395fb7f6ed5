//! `Checkpoint`: strict loading; a tensor nobody asked for is an error, and so is a missing one.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use thiserror::Error;

use crate::Hint;

/// What can be wrong with a checkpoint.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not a valid safetensors file.
    #[error("{origin}: not a valid safetensors file: {reason}")]
    Malformed {
        /// File name, or what the bytes were.
        origin: String,
        /// The first defect found.
        reason: String,
    },
    /// Tensors that the model never asked for.
    #[error("{origin}: {count} tensors were never read, first `{first}`")]
    Unused {
        /// File name, or what the bytes were.
        origin: String,
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
}

impl Hint for CheckpointError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unreadable { path, .. } => {
                vec![format!("is `{}` the right folder, and readable by you?", path.display())]
            }
            Self::Malformed { .. } => {
                vec!["the file may be cut short: fetch or convert it again".to_string()]
            }
            Self::Unused { .. } => {
                vec!["the weights and the config.json beside them do not belong together".into()]
            }
        }
    }
}

type Seen = Arc<Mutex<BTreeSet<String>>>;

/// Tensors in memory, or in a file that is mapped and of which each tensor is read when it is
/// asked for.
enum Source {
    Memory(HashMap<String, Tensor>),
    File(MmapedSafetensors),
}

impl Source {
    fn get(&self, name: &str) -> Option<Tensor> {
        match self {
            Self::Memory(tensors) => tensors.get(name).cloned(),
            // Types were checked when the file was opened.
            Self::File(map) => map.load(name, &Device::Cpu).ok(),
        }
    }

    fn names(&self) -> BTreeSet<String> {
        match self {
            Self::Memory(tensors) => tensors.keys().cloned().collect(),
            Self::File(map) => map.tensors().into_iter().map(|(name, _)| name).collect(),
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::Memory(tensors) => tensors.contains_key(name),
            Self::File(map) => map.get(name).is_ok(),
        }
    }
}

/// Where tensors come from, with a note of which were asked for.
struct Recording {
    tensors: Arc<Source>,
    seen: Seen,
}

impl Recording {
    fn note(&self, name: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string());
    }

    fn find(&self, name: &str, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        self.note(name);
        match self.tensors.get(name) {
            Some(tensor) => tensor.to_device(dev)?.to_dtype(dtype),
            None => candle_core::bail!("the checkpoint has no tensor `{name}`"),
        }
    }
}

impl SimpleBackend for Recording {
    fn get(
        &self,
        s: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        dev: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.find(name, dtype, dev)?;
        if tensor.shape() != &s {
            candle_core::bail!(
                "tensor `{name}` has shape {:?}, the config asks for {:?}",
                tensor.dims(),
                s.dims()
            );
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        self.find(name, dtype, dev)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }
}

/// A checkpoint that knows which of its tensors were used.
pub struct Checkpoint {
    origin: String,
    tensors: Arc<Source>,
    seen: Seen,
}

impl Checkpoint {
    /// Opens a safetensors file, which is mapped: it must not be changed while this lives. A
    /// tensor takes memory of its own only when it is asked for.
    #[allow(unsafe_code)]
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let malformed =
            |reason: String| CheckpointError::Malformed { origin: origin.clone(), reason };
        let unreadable = |source| CheckpointError::Unreadable { path: path.to_path_buf(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Err(malformed("it is empty".to_string()));
        }
        // SAFETY: who opens a model's file leaves it alone while it is used, as said above.
        let map = unsafe { MmapedSafetensors::new(path) }.map_err(|e| malformed(e.to_string()))?;
        for (name, view) in map.tensors() {
            if DType::try_from(view.dtype()).is_err() {
                return Err(malformed(format!("`{name}` is of type {:?}", view.dtype())));
            }
        }
        let tensors = Arc::new(Source::File(map));
        Ok(Self { origin, tensors, seen: Seen::default() })
    }

    /// Reads a safetensors file from memory; `origin` names it in errors.
    pub fn from_bytes(origin: &str, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|e| {
            CheckpointError::Malformed { origin: origin.to_string(), reason: e.to_string() }
        })?;
        Ok(Self::from_tensors(origin, tensors))
    }

    /// A checkpoint over tensors that are already in memory.
    pub fn from_tensors(origin: &str, tensors: HashMap<String, Tensor>) -> Self {
        let tensors = Arc::new(Source::Memory(tensors));
        Self { origin: origin.to_string(), tensors, seen: Seen::default() }
    }

    /// The tensors whose names start with `prefix`, without it, as a checkpoint of their own;
    /// they count as used here.
    pub fn part(&self, prefix: &str) -> Self {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let tensors = self
            .tensors
            .names()
            .into_iter()
            .filter_map(|name| {
                let rest = name.strip_prefix(prefix)?.to_string();
                let tensor = self.tensors.get(&name)?;
                seen.insert(name);
                Some((rest, tensor))
            })
            .collect();
        Self::from_tensors(&format!("{}: {prefix}*", self.origin), tensors)
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.names().into_iter().collect()
    }

    /// The tensor of that name, which then counts as used.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let found = self.tensors.get(name);
        if found.is_some() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string());
        }
        found
    }

    /// The builder that a model loads from.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let backend = Recording { tensors: self.tensors.clone(), seen: self.seen.clone() };
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// Call after the model is built: an error unless every tensor was asked for. `ignored`
    /// lists prefixes of names that the published files hold and no model reads.
    pub fn finish(&self, ignored: &[&str]) -> Result<(), CheckpointError> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let unused: BTreeSet<String> = self
            .tensors
            .names()
            .into_iter()
            .filter(|name| !seen.contains(name) && !ignored.iter().any(|i| name.starts_with(i)))
            .collect();
        match unused.first() {
            None => Ok(()),
            Some(first) => Err(CheckpointError::Unused {
                origin: self.origin.clone(),
                count: unused.len(),
                first: first.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        Checkpoint::from_tensors(
            "test",
            HashMap::from([
                ("linear.weight".to_string(), zeros(&[8, 4])),
                ("linear.bias".to_string(), zeros(&[8])),
                ("add_embedding.weight".to_string(), zeros(&[8, 4])),
            ]),
        )
    }

    #[test]
    fn an_unused_tensor_is_named() {
        let checkpoint = checkpoint();
        let vb = checkpoint.builder(DType::F32, &Device::Cpu);
        crate::Linear::load(vb.pp("linear"), 4, 8).unwrap();
        let error = checkpoint.finish(&[]).unwrap_err().to_string();
        assert!(error.contains("add_embedding.weight"), "{error}");
        checkpoint.finish(&["add_embedding."]).unwrap();
    }

    #[test]
    fn a_missing_tensor_and_a_wrong_shape_are_named() {
        let vb = checkpoint().builder(DType::F32, &Device::Cpu);
        let missing = crate::Linear::load(vb.pp("other"), 4, 8).unwrap_err().to_string();
        assert!(missing.contains("other."), "{missing}");
        let shape = crate::Linear::load(vb.pp("linear"), 5, 8).unwrap_err().to_string();
        assert!(shape.contains("linear.weight") && shape.contains("[8, 4]"), "{shape}");
    }
}
