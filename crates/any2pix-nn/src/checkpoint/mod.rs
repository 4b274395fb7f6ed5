//! `Checkpoint`: strict loading; a tensor nobody asked for is an error, and so is a missing one.
//!
//! Formats are told by content: safetensors, an index of several files, both containers of
//! `torch.save`, GGUF. A file is mapped, its directory is read and checked against its size when
//! it is opened, and a tensor takes memory of its own only when it is asked for.

mod bytes;
mod error;
mod file;
mod finite;
mod gguf;
mod index;
mod iq4;
mod json;
mod names;
mod pickle;
mod safetensors;
mod stored;
mod torch;
mod zip;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

pub use error::CheckpointError;
pub use names::{Ignore, Names, Rename};
pub use stored::StoredType;

use bytes::Bytes;
use error::Fault;
use file::Contents;
use stored::Stored;

type Seen = Arc<Mutex<BTreeSet<String>>>;

/// A tensor in memory, or in a file of which it is read when it is asked for.
#[derive(Clone)]
enum Source {
    Memory(Tensor),
    File(Stored),
}

impl Source {
    fn read(&self) -> TensorResult<Tensor> {
        match self {
            Self::Memory(tensor) => Ok(tensor.clone()),
            Self::File(stored) => stored.read(),
        }
    }

    /// As candle shows a type, or as the file calls it.
    fn is_float(&self) -> bool {
        match self {
            Self::Memory(tensor) => tensor.dtype().is_float(),
            Self::File(stored) => stored.kind().is_float(),
        }
    }

    fn type_name(&self) -> String {
        match self {
            Self::Memory(tensor) => format!("{:?}", tensor.dtype()),
            Self::File(stored) => stored.kind().to_string(),
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Memory(tensor) => tensor.dims(),
            Self::File(stored) => stored.shape(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Memory(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Self::File(stored) => stored.len(),
        }
    }
}

type Tensors = BTreeMap<String, Source>;

/// One line of a listing: a tensor, of which nothing was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The type of its numbers in the file.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Bytes of its numbers.
    pub bytes: usize,
}

/// Where tensors come from, with a note of which were asked for.
struct Recording {
    tensors: Arc<Tensors>,
    seen: Seen,
}

impl Recording {
    /// Reads a tensor for a layer: weights that are no numbers, or not finite, are refused here,
    /// where their name is known and before anything is computed with them.
    fn find(&self, name: &str, dtype: DType, dev: &Device) -> TensorResult<Tensor> {
        note(&self.seen, name);
        let Some(source) = self.tensors.get(name) else {
            candle_core::bail!("the checkpoint has no tensor `{name}`")
        };
        if dtype.is_float() && !source.is_float() {
            let stored = source.type_name();
            candle_core::bail!("tensor `{name}` is of type {stored}, the model reads {dtype:?}");
        }
        let tensor = source.read()?;
        if !finite::is_finite(&tensor)? {
            candle_core::bail!("tensor `{name}` has numbers that are not finite");
        }
        tensor.to_device(dev)?.to_dtype(dtype)
    }
}

fn note(seen: &Seen, name: &str) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string());
}

impl SimpleBackend for Recording {
    fn get(
        &self,
        s: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        dev: &Device,
    ) -> TensorResult<Tensor> {
        // Before it is read: a shape that nobody asked for may not cost memory.
        if let Some(source) = self.tensors.get(name).filter(|source| source.shape() != s.dims()) {
            candle_core::bail!(
                "tensor `{name}` has shape {:?}, the config asks for {:?}",
                source.shape(),
                s.dims()
            );
        }
        self.find(name, dtype, dev)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> TensorResult<Tensor> {
        self.find(name, dtype, dev)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// A checkpoint that knows which of its tensors were used.
pub struct Checkpoint {
    origin: String,
    tensors: Arc<Tensors>,
    metadata: BTreeMap<String, String>,
    ignored: Vec<String>,
    seen: Seen,
}

impl Checkpoint {
    /// Opens a file of weights, which is mapped: it must not be changed while this lives. An
    /// index (`*.index.json`) opens all files that it lists.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        Ok(Self::from_contents(&path.display().to_string(), file::open(path)?))
    }

    /// Reads a file of weights from memory; `origin` names it in errors.
    pub fn from_bytes(origin: &str, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let contents = file::read(&Bytes::new(bytes.to_vec())).map_err(|fault| fault.at(origin))?;
        Ok(Self::from_contents(origin, contents))
    }

    fn from_contents(origin: &str, contents: Contents) -> Self {
        let Contents { tensors, metadata } = contents;
        let tensors = tensors.into_iter().map(|(name, t)| (name, Source::File(t))).collect();
        Self { metadata, ..Self::from_sources(origin, tensors) }
    }

    fn from_sources(origin: &str, tensors: Tensors) -> Self {
        Self {
            origin: origin.to_string(),
            tensors: Arc::new(tensors),
            metadata: BTreeMap::new(),
            ignored: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// A checkpoint over tensors that are already in memory.
    pub fn from_tensors(origin: &str, tensors: HashMap<String, Tensor>) -> Self {
        let sources = tensors.into_iter().map(|(name, t)| (name, Source::Memory(t)));
        Self::from_sources(origin, sources.collect())
    }

    /// The tensors whose names start with `prefix`, without it, as a checkpoint of their own;
    /// they count as used here.
    pub fn part(&self, prefix: &str) -> Self {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let tensors = self
            .tensors
            .iter()
            .filter_map(|(name, source)| {
                let rest = name.strip_prefix(prefix)?.to_string();
                seen.insert(name.clone());
                Some((rest, source.clone()))
            })
            .collect();
        Self::from_sources(&format!("{}: {prefix}*", self.origin), tensors)
    }

    /// The same tensors under other names; two that come by the same name are an error.
    pub fn renamed(&self, rename: impl Fn(&str) -> String) -> Result<Self, CheckpointError> {
        let mut tensors = Tensors::new();
        for (name, source) in self.tensors.iter() {
            let to = rename(name);
            if tensors.contains_key(&to) {
                let reason = format!("`{name}` would become `{to}`, which another tensor is");
                return Err(Fault::Malformed(reason).at(&self.origin));
            }
            tensors.insert(to, source.clone());
        }
        Ok(self.with_tensors(tensors))
    }

    /// The same tensors under the names that `names` gives them; what it ignores, `finish`
    /// ignores.
    pub fn with_names(&self, names: &Names) -> Result<Self, CheckpointError> {
        let mut renamed = self.renamed(|name| names.apply(name))?;
        renamed.ignored.extend(names.ignore.iter().map(|ignore| ignore.prefix.clone()));
        Ok(renamed)
    }

    /// The same tensors, those for which `order` has an answer with row `order[i]` of theirs as
    /// row i; blocks of quantised rows stay as they are. An order that is no permutation of the
    /// rows is an error.
    pub fn with_rows(
        &self,
        order: impl Fn(&str) -> Option<Vec<u32>>,
    ) -> Result<Self, CheckpointError> {
        let mut tensors = (*self.tensors).clone();
        for (name, source) in &mut tensors {
            let Some(order) = order(name) else { continue };
            let wrong = |reason: String| Fault::Malformed(format!("`{name}`: {reason}"));
            let rows = source.shape().first().copied().unwrap_or(0);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if sorted.len() != rows || sorted.iter().zip(0..).any(|(row, i)| *row != i) {
                let reason = format!("{rows} rows cannot be put in an order of {}", order.len());
                return Err(wrong(reason).at(&self.origin));
            }
            *source = match &*source {
                Source::File(stored) => Source::File(stored.reordered(order.into())),
                Source::Memory(tensor) => {
                    let count = order.len();
                    let ordered = Tensor::from_vec(order, count, tensor.device())
                        .and_then(|order| tensor.index_select(&order, 0))
                        .map_err(|error| wrong(error.to_string()).at(&self.origin))?;
                    Source::Memory(ordered)
                }
            };
        }
        Ok(self.with_tensors(tensors))
    }

    /// The same tensors, those that `which` chooses as matrices when they are convolutions of one
    /// pixel: `(o, i, 1, 1)` becomes `(o, i)`.
    pub fn with_matrices(&self, which: impl Fn(&str) -> bool) -> Self {
        let matrix = |(name, source): (&String, &Source)| {
            let source = match (source.shape(), source) {
                ([_, _, 1, 1], Source::File(stored)) if which(name) => {
                    Source::File(stored.without_last_axes(2))
                }
                ([o, i, 1, 1], Source::Memory(tensor)) if which(name) => {
                    tensor.reshape((*o, *i)).map_or_else(|_| source.clone(), Source::Memory)
                }
                _ => source.clone(),
            };
            (name.clone(), source)
        };
        self.with_tensors(self.tensors.iter().map(matrix).collect())
    }

    /// The tensors of both; one that both have is an error.
    pub fn joined(&self, other: &Self) -> Result<Self, CheckpointError> {
        let mut tensors = (*self.tensors).clone();
        for (name, source) in other.tensors.iter() {
            if tensors.insert(name.clone(), source.clone()).is_some() {
                let reason = format!("`{name}` is in {} too", self.origin);
                return Err(Fault::Malformed(reason).at(&other.origin));
            }
        }
        Ok(self.with_tensors(tensors))
    }

    fn with_tensors(&self, tensors: Tensors) -> Self {
        Self {
            metadata: self.metadata.clone(),
            ignored: self.ignored.clone(),
            ..Self::from_sources(&self.origin, tensors)
        }
    }

    /// The file's name, or what the tensors were called.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What the file says besides its tensors, as text and shortened.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Every tensor with its type and shape, sorted by name; none is read.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |(name, source): (&String, &Source)| Entry {
            name: name.clone(),
            dtype: source.type_name(),
            shape: source.shape().to_vec(),
            bytes: source.bytes(),
        };
        self.tensors.iter().map(entry).collect()
    }

    /// The tensor of that name, which then counts as used; a quantised one in f32.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let found = self.tensors.get(name).and_then(|source| source.read().ok());
        if found.is_some() {
            note(&self.seen, name);
        }
        found
    }

    /// The blocks of the tensor of that name, which then counts as used; `None` if there is no
    /// such tensor, or it is not of a quantised format that products are computed with.
    pub fn quantised(&self, name: &str) -> TensorResult<Option<QTensor>> {
        let Some(Source::File(stored)) = self.tensors.get(name) else { return Ok(None) };
        if !stored.has_finite_scales() {
            candle_core::bail!("tensor `{name}` has numbers that are not finite");
        }
        let Some(tensor) = stored.quantised()? else { return Ok(None) };
        note(&self.seen, name);
        Ok(Some(tensor))
    }

    /// The builder that a model loads from.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let backend = Recording { tensors: self.tensors.clone(), seen: self.seen.clone() };
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// Call after the model is built: an error unless every tensor was asked for. `ignored`
    /// lists prefixes of names that the published files hold and no model reads; those that
    /// [`Names`] ignores are left out too.
    pub fn finish(&self, ignored: &[&str]) -> Result<(), CheckpointError> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let unused: Vec<&String> = self
            .tensors
            .keys()
            .filter(|name| !seen.contains(*name))
            .filter(|name| !ignored.iter().any(|i| name.starts_with(i)))
            .filter(|name| !self.ignored.iter().any(|i| name.starts_with(i)))
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
