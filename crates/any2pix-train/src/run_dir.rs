//! `RunDir`: everything one run leaves behind: checkpoints, log, figures, samples, curves.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::export::{safetensors_bytes, write_whole};
use crate::{Result, TrainError};

/// How many checkpoints stay: the last, and one more in case the last cannot be read.
const KEPT: usize = 2;

/// What a checkpoint says of itself beside its tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The stage.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// [`crate::TrainSettings::fingerprint`].
    pub settings: String,
}

/// A checkpoint in memory.
pub struct Saved {
    /// Where it was read from.
    pub path: PathBuf,
    /// What it says of itself.
    pub stamp: Stamp,
    tensors: HashMap<String, Tensor>,
}

impl Saved {
    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> candle_core::Result<Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("the checkpoint has no tensor `{name}`"),
        }
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub fn group(&self, prefix: &str) -> HashMap<String, Tensor> {
        let strip = |name: &String| name.strip_prefix(prefix).map(str::to_string);
        self.tensors.iter().filter_map(|(n, t)| Some((strip(n)?, t.clone()))).collect()
    }
}

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// The folder, made if it is not there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        for folder in [root.clone(), root.join("checkpoints"), root.join("samples")] {
            fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
        }
        Ok(Self { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The training log: one JSON object a row.
    pub fn log(&self) -> PathBuf {
        self.root.join("log.jsonl")
    }

    /// The held-out figures: one JSON object a row.
    pub fn figures(&self) -> PathBuf {
        self.root.join("figures.jsonl")
    }

    /// The curves of both.
    pub fn curves(&self) -> PathBuf {
        self.root.join("curves.svg")
    }

    /// The folder for the samples of a step, made if it is not there.
    pub fn samples(&self, step: u64) -> Result<PathBuf> {
        let folder = self.root.join("samples").join(format!("step-{step:08}"));
        fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
        Ok(folder)
    }

    /// Whether the samples of a step were begun.
    pub fn has_samples(&self, step: u64) -> bool {
        self.root.join("samples").join(format!("step-{step:08}")).exists()
    }

    /// The steps that have a checkpoint, in order.
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        let folder = self.root.join("checkpoints");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(TrainError::io(&folder))? {
            let path = entry.map_err(TrainError::io(&folder))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let step = name.strip_prefix("step-").and_then(|n| n.strip_suffix(".safetensors"));
            if let Some(step) = step.and_then(|n| n.parse().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Saves a checkpoint whole or not at all, then drops old ones.
    pub fn save(&self, stamp: &Stamp, tensors: &[(String, Tensor)]) -> Result<PathBuf> {
        let name = format!("step-{:08}.safetensors", stamp.step);
        let path = self.root.join("checkpoints").join(name);
        let text = serde_json::to_string(stamp)
            .map_err(|e| TrainError::Config { path: path.clone(), reason: e.to_string() })?;
        let named = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
        write_whole(&path, &safetensors_bytes(named, Some(("any2pix", text)))?)?;
        let all = self.checkpoints()?;
        for (_, old) in all.iter().rev().skip(KEPT) {
            fs::remove_file(old).map_err(TrainError::io(old))?;
        }
        Ok(path)
    }

    /// The newest checkpoint that can be read; none when there is none.
    pub fn newest(&self) -> Result<Option<Saved>> {
        let mut broken = None;
        for (_, path) in self.checkpoints()?.into_iter().rev() {
            match read_checkpoint(&path) {
                Ok(saved) => return Ok(Some(saved)),
                Err(error) => {
                    tracing::warn!(%error, "skipping a checkpoint");
                    broken.get_or_insert(error);
                }
            }
        }
        broken.map_or(Ok(None), Err)
    }

    /// Adds a row to a log.
    pub fn append(&self, file: &Path, row: &Value) -> Result<()> {
        let mut open = OpenOptions::new();
        let mut log = open.create(true).append(true).open(file).map_err(TrainError::io(file))?;
        writeln!(log, "{row}").map_err(TrainError::io(file))
    }

    /// The rows of a log; a row cut short by a crash is left out.
    pub fn rows(&self, file: &Path) -> Result<Vec<Value>> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(TrainError::io(file)(error)),
        }
    }

    /// Forgets rows after `step`, which a resumed run writes again.
    pub fn rewind(&self, step: u64) -> Result<()> {
        for file in [self.log(), self.figures()] {
            let rows = self.rows(&file)?;
            let kept = rows.iter().filter(|row| row["step"].as_u64().is_some_and(|s| s <= step));
            let text: String = kept.map(|row| format!("{row}\n")).collect();
            write_whole(&file, text.as_bytes())?;
        }
        Ok(())
    }
}

fn read_checkpoint(path: &Path) -> Result<Saved> {
    let bytes = fs::read(path).map_err(TrainError::io(path))?;
    let broken = |reason: String| TrainError::Resume { path: path.to_path_buf(), reason };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(e.to_string()))?;
    let stamp = metadata.metadata().as_ref().and_then(|m| m.get("any2pix"));
    let stamp = stamp.ok_or_else(|| broken("it has no stamp".into()))?;
    let stamp = serde_json::from_str(stamp).map_err(|e| broken(e.to_string()))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| broken(e.to_string()))?;
    Ok(Saved { path: path.to_path_buf(), stamp, tensors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> RunDir {
        let root = std::env::temp_dir().join(format!("any2pix-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        RunDir::open(root).unwrap()
    }

    fn stamp(step: u64) -> Stamp {
        Stamp { stage: "test".into(), step, settings: String::new() }
    }

    #[test]
    fn keeps_two_checkpoints_and_falls_back_when_the_last_is_cut_short() {
        let run = scratch("fallback");
        for step in 1..=3u64 {
            let value = Tensor::new(&[step as f32], &Device::Cpu).unwrap();
            run.save(&stamp(step), &[("value".into(), value)]).unwrap();
        }
        let paths = run.checkpoints().unwrap();
        assert_eq!(paths.iter().map(|p| p.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(run.newest().unwrap().unwrap().stamp, stamp(3));
        let bytes = fs::read(&paths[1].1).unwrap();
        fs::write(&paths[1].1, &bytes[..bytes.len() - 2]).unwrap();
        let saved = run.newest().unwrap().unwrap();
        assert_eq!(saved.stamp.step, 2);
        assert_eq!(saved.tensor("value").unwrap().to_vec1::<f32>().unwrap(), [2.0]);
        fs::write(&paths[0].1, b"nothing").unwrap();
        assert!(matches!(run.newest(), Err(TrainError::Resume { .. })));
        fs::remove_dir_all(run.root()).unwrap();
    }

    #[test]
    fn rewinding_forgets_later_rows_and_cut_ones() {
        let run = scratch("rewind");
        for step in [10, 20, 30] {
            run.append(&run.log(), &serde_json::json!({ "step": step })).unwrap();
        }
        let mut text = fs::read_to_string(run.log()).unwrap();
        text.push_str("{\"step\": 4");
        fs::write(run.log(), text).unwrap();
        run.rewind(20).unwrap();
        let steps: Vec<_> = run.rows(&run.log()).unwrap();
        assert_eq!(steps.iter().filter_map(|r| r["step"].as_u64()).collect::<Vec<_>>(), [10, 20]);
        fs::remove_dir_all(run.root()).unwrap();
    }
}
