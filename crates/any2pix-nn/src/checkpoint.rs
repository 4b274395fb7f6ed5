//! `Checkpoint`: strict loading; a tensor nobody asked for is an error, and so is a missing one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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

/// Where tensors come from, with a note of which were asked for.
struct Recording {
    tensors: Arc<HashMap<String, Tensor>>,
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
        self.tensors.contains_key(name)
    }
}

/// A checkpoint that knows which of its tensors were used.
pub struct Checkpoint {
    origin: String,
    tensors: Arc<HashMap<String, Tensor>>,
    seen: Seen,
}

impl Checkpoint {
    /// Opens a safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path)
            .map_err(|source| CheckpointError::Unreadable { path: path.to_path_buf(), source })?;
        Self::from_bytes(&path.display().to_string(), &bytes)
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
        Self { origin: origin.to_string(), tensors: Arc::new(tensors), seen: Seen::default() }
    }

    /// The tensors whose names start with `prefix`, without it, as a checkpoint of their own;
    /// they count as used here.
    pub fn part(&self, prefix: &str) -> Self {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let tensors = self
            .tensors
            .iter()
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .filter_map(|(name, tensor)| {
                let rest = name.strip_prefix(prefix)?;
                seen.insert(name.clone());
                Some((rest.to_string(), tensor.clone()))
            })
            .collect();
        Self::from_tensors(&format!("{}: {prefix}*", self.origin), tensors)
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The tensor of that name, which then counts as used.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let found = self.tensors.get(name).cloned();
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
        let unused: BTreeSet<&String> = self
            .tensors
            .keys()
            .filter(|name| !seen.contains(*name) && !ignored.iter().any(|i| name.starts_with(i)))
            .collect();
        match unused.first() {
            None => Ok(()),
            Some(first) => Err(CheckpointError::Unused {
                origin: self.origin.clone(),
                count: unused.len(),
                first: (*first).clone(),
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
