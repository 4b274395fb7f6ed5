//! Golden cases: recorded inputs, weights and outputs of an official implementation, and the
//! comparison of ours with them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use crate::ops::{self, Precision};
use crate::{Checkpoint, CheckpointError};

/// What a case is and how close an output must be.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenMeta {
    /// The component that is run: `imagebind`, `vae`, …
    pub component: String,
    /// The case's name within the component.
    pub case: String,
    /// Absolute part of the tolerance.
    #[serde(default)]
    pub atol: f64,
    /// Part of the tolerance that grows with the largest reference value.
    #[serde(default)]
    pub rtol: f64,
    /// Everything else that meta.json says.
    #[serde(flatten)]
    pub rest: HashMap<String, Value>,
}

/// One folder of `meta.json` and mostly `config.json`, `io.safetensors`, `weights.safetensors`.
pub struct GoldenCase {
    /// The folder.
    pub dir: PathBuf,
    /// What the case is.
    pub meta: GoldenMeta,
    /// `config.json`, with the upstream keys.
    pub config: Value,
    io: HashMap<String, Tensor>,
}

/// Our outputs, under the names of the reference's without `out.`.
pub type Outputs = BTreeMap<String, Tensor>;

/// How one output compares.
#[derive(Clone, Debug)]
pub struct Row {
    /// The output's name.
    pub name: String,
    /// Largest absolute difference; infinite when it is missing or has another shape.
    pub max_abs: f64,
    /// Largest absolute reference value.
    pub reference_max: f64,
    /// Difference of the Euclidean norms over the reference's.
    pub relative_norm: f64,
    /// Cosine of the two, flattened.
    pub cosine: f64,
    /// Within `atol + rtol * reference_max`.
    pub passes: bool,
    /// Why it does not, when numbers do not say it.
    pub note: String,
}

/// Relative tolerance where numbers are rounded to bfloat16; twice that for whole pipelines where
/// both operands of products are, not weights alone: dozens of passes, one after the other.
const ROUNDED_RTOL: f64 = 0.03;

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path)
        .map_err(|source| CheckpointError::Unreadable { path: path.to_path_buf(), source })
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_slice(&read(path)?).map_err(|e| CheckpointError::Malformed {
        origin: path.display().to_string(),
        reason: e.to_string(),
    })
}

fn tensors(path: &Path) -> Result<HashMap<String, Tensor>, CheckpointError> {
    candle_core::safetensors::load_buffer(&read(path)?, &Device::Cpu).map_err(|e| {
        CheckpointError::Malformed { origin: path.display().to_string(), reason: e.to_string() }
    })
}

impl GoldenCase {
    /// Opens the case in `dir`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let dir = dir.as_ref();
        let meta = parse(&dir.join("meta.json"))?;
        let config_path = dir.join("config.json");
        let config = if config_path.exists() { parse(&config_path)? } else { Value::Null };
        let io_path = dir.join("io.safetensors");
        // A tokenizer's case records texts and ids in files of its own.
        let io = if io_path.exists() { tensors(&io_path)? } else { HashMap::new() };
        Ok(Self { dir: dir.to_path_buf(), meta, config, io })
    }

    /// Every folder with a `meta.json` at or below `root`, sorted.
    pub fn find(root: impl AsRef<Path>) -> Result<Vec<PathBuf>, CheckpointError> {
        let mut found = Vec::new();
        let mut stack = vec![root.as_ref().to_path_buf()];
        while let Some(dir) = stack.pop() {
            let unreadable = |source| CheckpointError::Unreadable { path: dir.clone(), source };
            if dir.join("meta.json").is_file() {
                found.push(dir);
                continue;
            }
            for entry in std::fs::read_dir(&dir).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                if path.is_dir() {
                    stack.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Input `in.NAME`.
    pub fn input(&self, name: &str) -> candle_core::Result<Tensor> {
        match self.io.get(&format!("in.{name}")) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("{}: io.safetensors has no in.{name}", self.dir.display()),
        }
    }

    /// Input `in.NAME`, when the case has one.
    pub fn input_maybe(&self, name: &str) -> Option<Tensor> {
        self.io.get(&format!("in.{name}")).cloned()
    }

    /// The weights that the case carries.
    pub fn weights(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open(self.dir.join("weights.safetensors"))
    }

    /// Names of the recorded outputs, without `out.`, sorted.
    pub fn output_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.io.keys().filter_map(|n| n.strip_prefix("out.").map(str::to_string)).collect();
        names.sort();
        names
    }

    /// Compares every recorded output with ours of the same name. An output that ours lacks
    /// fails, unless it is an inner one (`inter.*`), which serves bisection only.
    pub fn compare(&self, ours: &Outputs) -> candle_core::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for name in self.output_names() {
            let reference = &self.io[&format!("out.{name}")];
            match ours.get(&name) {
                Some(tensor) => rows.push(self.compare_one(&name, tensor, reference)?),
                None if name.starts_with("inter.") => {}
                None => rows.push(Row::failed(&name, "not computed")),
            }
        }
        Ok(rows)
    }

    /// Compares one output with a reference that the case records in its own way.
    ///
    /// # Shapes
    /// `ours` and `reference` the same; another shape is a row that fails.
    pub fn compare_one(
        &self,
        name: &str,
        ours: &Tensor,
        reference: &Tensor,
    ) -> candle_core::Result<Row> {
        if ours.dims() != reference.dims() {
            let note = format!("shape {:?}, not {:?}", ours.dims(), reference.dims());
            return Ok(Row::failed(name, &note));
        }
        let exact = !reference.dtype().is_float();
        let values = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let (a, b) = (values(ours)?, values(reference)?);
        // NaN must fail: `f64::max` would swallow it, so the fold keeps it.
        let keep = |m: f64, v: f64| if v.is_nan() || v > m { v } else { m };
        let max_abs = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, keep);
        let reference_max = b.iter().map(|v| v.abs()).fold(0.0, f64::max);
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (na, nb) = (norm(&a), norm(&b));
        let dot: f64 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
        let rtol = match ops::precision() {
            Precision::F32 => self.meta.rtol,
            Precision::Bf16 if self.meta.component == "pipelines" && ops::multiplies_bf16() => {
                self.meta.rtol.max(2.0 * ROUNDED_RTOL)
            }
            Precision::Bf16 => self.meta.rtol.max(ROUNDED_RTOL),
        };
        let tolerance = if exact { 0.0 } else { self.meta.atol + rtol * reference_max };
        Ok(Row {
            name: name.to_string(),
            max_abs,
            reference_max,
            relative_norm: if nb > 0.0 { (na - nb).abs() / nb } else { na },
            cosine: if na * nb > 0.0 { dot / (na * nb) } else { 1.0 },
            passes: max_abs <= tolerance,
            note: String::new(),
        })
    }
}

impl Row {
    fn failed(name: &str, note: &str) -> Self {
        Self {
            name: name.to_string(),
            max_abs: f64::INFINITY,
            reference_max: f64::NAN,
            relative_norm: f64::INFINITY,
            cosine: f64::NAN,
            passes: false,
            note: note.to_string(),
        }
    }
}
