//! Writing a trained component: half-precision weights under their upstream names, its config.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::Serialize;

use crate::{Result, TrainError};

/// Writes `bytes` so that `path` holds either all of them or what it held before.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_os_string();
    partial.push(".tmp");
    let partial = PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(TrainError::io(path))
}

/// Named tensors as the bytes of a safetensors file, the same for the same tensors.
pub fn safetensors_bytes<'a>(
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
    metadata: Option<(&str, String)>,
) -> Result<Vec<u8>> {
    let tensors: BTreeMap<String, &Tensor> = tensors.into_iter().collect();
    let metadata = metadata.map(|(key, value)| [(key.to_string(), value)].into());
    safetensors::serialize(tensors, metadata).map_err(|e| candle_core::Error::from(e).into())
}

/// Writes `<dir>/<component>/model.safetensors` in `dtype` and `config.json` beside it.
pub fn component(
    dir: &Path,
    component: &str,
    config: &impl Serialize,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
    dtype: DType,
) -> Result<()> {
    let folder = dir.join(component);
    fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?)))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let named = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
    write_whole(&folder.join("model.safetensors"), &safetensors_bytes(named, None)?)?;
    let mut text = serde_json::to_string_pretty(config).map_err(|e| TrainError::Config {
        path: folder.join("config.json"),
        reason: e.to_string(),
    })?;
    text.push('\n');
    write_whole(&folder.join("config.json"), text.as_bytes())
}
