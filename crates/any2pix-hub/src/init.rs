//! `init`: a full-size checkpoint of random weights in the published layout and formats.

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use candle_core::DType;
use serde_json::json;

use crate::definition::{ComponentDefinition, Format, ModelDefinition, Placement};
use crate::error::{HubError, Result};
use crate::random::RandomWeights;
use crate::storage::{Pending, Progress, require_room, write_whole};
use crate::tokenizer;
use crate::write::{Header, safetensors, torch};

/// Bytes in a file of a sharded component, as transformers cut them when this was published.
const SHARD: u64 = 10_000_000_000;
/// Writes of the small tensors are gathered to this.
const BUFFER: usize = 1 << 20;

/// How a random checkpoint is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The same seed gives the same bytes.
    pub seed: u64,
    /// Type of every number; `None` as published.
    pub dtype: Option<DType>,
    /// Components to write; all when empty. What shares a file is written together.
    pub only: Vec<String>,
    /// Most bytes in a file of a sharded component.
    pub shard_bytes: u64,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { seed: 0, dtype: None, only: Vec::new(), shard_bytes: SHARD }
    }
}

/// A file of weights that is to be written.
struct WeightFile {
    path: PathBuf,
    format: Format,
    nested: bool,
    headers: Vec<Header>,
}

impl WeightFile {
    fn bytes(&self) -> u64 {
        self.headers.iter().map(Header::bytes).sum()
    }
}

/// What [`init`] will write or has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its weights' size.
    pub bytes: u64,
}

/// Writes random weights of `model` below `folder`, one file after the other. A file that is there
/// already is an error, before anything is written.
pub fn init(
    model: &ModelDefinition,
    folder: &Path,
    options: &InitOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<Written>> {
    let chosen = chosen(model, &options.only)?;
    let files = plan(model, &chosen, folder, options);
    if let Some(file) = files.iter().find(|file| file.path.exists()) {
        return Err(HubError::Exists { path: file.path.clone() });
    }
    require_room(folder, files.iter().map(WeightFile::bytes).sum())?;
    let mut weights = RandomWeights::new(options.seed);
    let mut written = Vec::new();
    for file in &files {
        write_file(file, folder, &mut weights, progress)?;
        written.push(Written { path: file.path.clone(), bytes: file.bytes() });
    }
    for component in &chosen {
        write_beside(component, folder, options)?;
    }
    if let Some(index) = model.index {
        write_whole(&folder.join("model_index.json"), index.as_bytes())?;
    }
    Ok(written)
}

/// The components that `only` names, and those in the same files.
fn chosen<'a>(model: &'a ModelDefinition, only: &[String]) -> Result<Vec<&'a ComponentDefinition>> {
    let named = only.iter().map(|name| model.component(name)).collect::<Result<Vec<_>>>()?;
    let wanted = |component: &&ComponentDefinition| {
        only.is_empty() || named.iter().any(|n| n.placement.file == component.placement.file)
    };
    Ok(model.components.iter().filter(wanted).collect())
}

fn headers(component: &ComponentDefinition, dtype: Option<DType>) -> Vec<Header> {
    let dtype = dtype.unwrap_or(component.placement.dtype.dtype());
    let header = |(name, shape): (&str, &[usize])| Header {
        name: name.to_string(),
        shape: shape.to_vec(),
        dtype,
    };
    component.tensors.iter().map(header).collect()
}

fn plan(
    model: &ModelDefinition,
    chosen: &[&ComponentDefinition],
    folder: &Path,
    options: &InitOptions,
) -> Vec<WeightFile> {
    let mut tensors: BTreeMap<&str, (&Placement, Vec<Header>)> = BTreeMap::new();
    for component in chosen {
        let place = &component.placement;
        let (_, all) = tensors.entry(&place.file).or_insert((place, Vec::new()));
        all.extend(headers(component, options.dtype));
    }
    let mut files = Vec::new();
    // In the order of the model's components, not of their files' names.
    for component in &model.components {
        let Some((place, headers)) = tensors.remove(component.placement.file.as_str()) else {
            continue;
        };
        let (format, nested) = (place.format, place.nested);
        let shards = match place.shards {
            true => cut(headers, options.shard_bytes),
            false => vec![headers],
        };
        let count = shards.len();
        for (i, headers) in shards.into_iter().enumerate() {
            let path = folder.join(shard_name(&place.file, i, count));
            files.push(WeightFile { path, format, nested, headers });
        }
    }
    files
}

/// Runs of tensors that fit `most` bytes each; a larger tensor has a run of its own.
fn cut(headers: Vec<Header>, most: u64) -> Vec<Vec<Header>> {
    let mut runs: Vec<Vec<Header>> = Vec::new();
    let mut size = 0;
    for header in headers {
        size += header.bytes();
        match runs.last_mut() {
            Some(run) if size <= most => run.push(header),
            _ => {
                size = header.bytes();
                runs.push(vec![header]);
            }
        }
    }
    runs
}

/// `a/model.bin` as `a/model-00002-of-00003.bin`; unchanged when it is the only one.
fn shard_name(file: &str, index: usize, count: usize) -> String {
    match file.rsplit_once('.') {
        Some((stem, extension)) if count > 1 => {
            format!("{stem}-{:05}-of-{count:05}.{extension}", index + 1)
        }
        _ => file.to_string(),
    }
}

fn write_file(
    file: &WeightFile,
    folder: &Path,
    weights: &mut RandomWeights,
    progress: &mut dyn Progress,
) -> Result<()> {
    let shown = file.path.strip_prefix(folder).unwrap_or(&file.path).display().to_string();
    progress.file(&shown, 0, file.bytes());
    let pending = Pending::create(&file.path)?;
    let mut fill = |header: &Header, out: &mut dyn std::io::Write| {
        if progress.is_cancelled() {
            return Err(HubError::Stopped);
        }
        weights.write(header, out)?;
        progress.advance(header.bytes());
        Ok(())
    };
    let origin = file.path.display().to_string();
    let mut out = BufWriter::with_capacity(BUFFER, pending.file()?);
    match file.format {
        Format::Safetensors => safetensors::write(&origin, &mut out, &file.headers, &mut fill)?,
        Format::Torch => torch::write(&origin, &mut out, &file.headers, file.nested, &mut fill)?,
    }
    out.into_inner().map_err(|e| HubError::io(&file.path)(e.into_error()))?;
    pending.finish()
}

/// What lies beside a component's weights: its config, a noise schedule, an index of shards, a
/// tokenizer.
fn write_beside(
    component: &ComponentDefinition,
    folder: &Path,
    options: &InitOptions,
) -> Result<()> {
    let place = &component.placement;
    let path = folder.join(&place.file);
    let beside = path.parent().unwrap_or(folder);
    // A file that holds several components, or lies at the top, has no config of its own.
    if place.own_folder {
        write_whole(&beside.join("config.json"), component.config.as_bytes())?;
    }
    if let Some((path, text)) = component.scheduler() {
        write_whole(&folder.join(path), text.as_bytes())?;
    }
    if place.shards {
        let shards = cut(headers(component, options.dtype), options.shard_bytes);
        if shards.len() > 1 {
            write_index(&shards, &place.file, folder)?;
        }
    }
    if place.tokenizer {
        let config: serde_json::Value = serde_json::from_str(component.config)
            .map_err(|e| HubError::malformed(format!("{}/config.json", component.name), e))?;
        let size = config["vocab_size"].as_u64().unwrap_or_default() as usize;
        let json = tokenizer::byte_fallback(size)?;
        write_whole(&beside.join("tokenizer/tokenizer.json"), json.to_string().as_bytes())?;
    }
    Ok(())
}

/// `pytorch_model.bin.index.json`: which file holds which tensor.
fn write_index(shards: &[Vec<Header>], file: &str, folder: &Path) -> Result<()> {
    let mut map = serde_json::Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = shard_name(file, i, shards.len());
        let name = name.rsplit('/').next().unwrap_or_default();
        map.extend(shard.iter().map(|header| (header.name.clone(), json!(name))));
    }
    let total: u64 = shards.iter().flatten().map(Header::bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let text = serde_json::to_vec_pretty(&index)
        .map_err(|e| HubError::malformed(format!("{file}.index.json"), e))?;
    write_whole(&folder.join(format!("{file}.index.json")), &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_hold_what_fits() {
        let header = |n: usize| Header { name: n.to_string(), shape: vec![n], dtype: DType::U8 };
        let runs = cut([3, 4, 9, 1, 1].map(header).to_vec(), 7);
        let sizes: Vec<Vec<u64>> =
            runs.iter().map(|run| run.iter().map(Header::bytes).collect()).collect();
        assert_eq!(sizes, [vec![3, 4], vec![9], vec![1, 1]]);
        assert_eq!(shard_name("a/b.bin", 1, 3), "a/b-00002-of-00003.bin");
        assert_eq!(shard_name("a/b.bin", 0, 1), "a/b.bin");
    }
}
