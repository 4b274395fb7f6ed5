//! `inspect`: what a folder holds of a model, what is missing, and how to get it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use any2pix_nn::Checkpoint;
use any2pix_nn::checkpoint::Entry;
use serde::Serialize;

use crate::definition::{ComponentDefinition, MODELS, ModelDefinition};
use crate::error::{HubError, Result};
use crate::table::elements;

/// Most defects that are named.
const NAMED: usize = 3;
/// How deep weights are looked for.
const DEPTH: usize = 6;

/// What a file of weights holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// `safetensors`, `torch` or `gguf`.
    pub format: String,
    /// Numbers of each type.
    pub dtypes: BTreeMap<String, u64>,
    /// Tensors.
    pub tensors: usize,
    /// Numbers.
    pub parameters: u64,
    /// Bytes of the numbers.
    pub bytes: u64,
}

/// A component or a file, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The component's name; the file's where the model is not known.
    pub name: String,
    /// The file, below the folder; `None` when there is none.
    pub file: Option<String>,
    /// What is in it.
    #[serde(flatten)]
    pub contents: Contents,
    /// What is wrong with it.
    pub faults: Vec<String>,
    /// Why it may be missing.
    pub optional: Option<String>,
    /// How to get what is missing.
    pub get: Option<String>,
}

impl Part {
    /// Nothing is wrong: it is whole, or it may be missing and is.
    pub fn is_fine(&self) -> bool {
        self.faults.is_empty() && (self.file.is_some() || self.optional.is_some())
    }
}

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The folder.
    pub folder: PathBuf,
    /// The model, when it is one that this program knows.
    pub model: Option<&'static str>,
    /// Its components, or the files of weights.
    pub parts: Vec<Part>,
}

impl Inspection {
    /// Nothing that is needed is missing or wrong.
    pub fn is_complete(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(Part::is_fine)
    }
}

/// Looks into `folder`; only directories of files are read, no weights.
pub fn inspect(folder: &Path) -> Result<Inspection> {
    std::fs::read_dir(folder).map_err(HubError::io(folder))?;
    for name in MODELS {
        let model = ModelDefinition::named(name)?;
        let has_some = || model.components.iter().any(|c| find(folder, c).is_some());
        if is_named(folder, &model) || (model.index.is_none() && has_some()) {
            let part = |component| inspect_component(folder, &model, component);
            let parts = model.components.iter().map(part).collect();
            let folder = folder.to_path_buf();
            return Ok(Inspection { folder, model: Some(model.name), parts });
        }
    }
    let file = |path: &PathBuf| {
        let shown = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        let mut part = empty(&shown);
        part.file = Some(shown);
        match entries(path) {
            Ok(entries) => part.contents = contents(path, entries.iter()),
            Err(error) => part.faults.push(error.to_string()),
        }
        part
    };
    let parts = weight_files(folder).iter().map(file).collect();
    Ok(Inspection { folder: folder.to_path_buf(), model: None, parts })
}

fn is_named(folder: &Path, model: &ModelDefinition) -> bool {
    let class = |text: &[u8]| {
        let index: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
        index["_class_name"].as_str().map(str::to_string)
    };
    let Ok(found) = std::fs::read(folder.join("model_index.json")) else { return false };
    let Some(found) = class(&found) else { return false };
    match model.index {
        Some(own) => class(own.as_bytes()).as_ref() == Some(&found),
        None => found.strip_suffix("Pipeline").is_some_and(|n| n.eq_ignore_ascii_case(model.name)),
    }
}

fn empty(name: &str) -> Part {
    Part {
        name: name.to_string(),
        file: None,
        contents: Contents::default(),
        faults: Vec::new(),
        optional: None,
        get: None,
    }
}

/// The file of a component, below `folder`: the published one, its index, or one that holds the
/// same.
pub fn find(folder: &Path, component: &ComponentDefinition) -> Option<String> {
    let place = &component.placement;
    let index = place.shards.then(|| format!("{}.index.json", place.file));
    let converted = converted_name(&place.file);
    let names = [Some(place.file.clone()), index, Some(converted)].into_iter().flatten();
    names.chain(place.alternatives.iter().cloned()).find(|name| folder.join(name).is_file())
}

/// The name that a file of weights has as safetensors.
pub(crate) fn converted_name(file: &str) -> String {
    let (folder, name) = file.rsplit_once('/').map_or(("", file), |(folder, name)| (folder, name));
    let name = name.strip_suffix(".index.json").unwrap_or(name);
    let stem = match name.rsplit_once('.') {
        Some(("pytorch_model", "bin")) => "model",
        Some((stem, _)) => stem,
        None => name,
    };
    let slash = if folder.is_empty() { "" } else { "/" };
    format!("{folder}{slash}{stem}.safetensors")
}

fn entries(path: &Path) -> Result<Vec<Entry>> {
    Ok(Checkpoint::open(path)?.entries())
}

fn format_of(path: &Path) -> &'static str {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_suffix(".index.json").unwrap_or(&name).rsplit_once('.') {
        Some((_, "safetensors")) => "safetensors",
        Some((_, "gguf")) => "gguf",
        _ => "torch",
    }
}

fn contents<'a>(path: &Path, entries: impl Iterator<Item = &'a Entry>) -> Contents {
    let mut contents = Contents { format: format_of(path).into(), ..Contents::default() };
    for entry in entries {
        let count = elements(&entry.shape);
        *contents.dtypes.entry(entry.dtype.clone()).or_default() += count;
        contents.tensors += 1;
        contents.parameters += count;
        contents.bytes += entry.bytes as u64;
    }
    contents
}

fn inspect_component(
    folder: &Path,
    model: &ModelDefinition,
    component: &ComponentDefinition,
) -> Part {
    let mut part = empty(component.name);
    part.optional = component.placement.optional.clone();
    part.file = find(folder, component);
    let Some(file) = &part.file else {
        part.faults.extend(
            part.optional.is_none().then(|| format!("{} is missing", component.placement.file)),
        );
        part.get = source_of(model, component);
        return part;
    };
    let path = folder.join(file);
    match entries(&path) {
        Ok(entries) => {
            let own = |entry: &&Entry| {
                let read = component.read_as(&entry.name);
                read.is_some_and(|name| component.tensors.shape(&name).is_some())
                    || component.tensors.shape(&entry.name).is_some()
            };
            part.contents = contents(&path, entries.iter().filter(own));
            part.faults = faults(component, &entries);
        }
        Err(error) => part.faults.push(error.to_string()),
    }
    if !part.faults.is_empty() {
        part.get = source_of(model, component);
    }
    part
}

/// Differences from the table, by name.
fn faults(component: &ComponentDefinition, entries: &[Entry]) -> Vec<String> {
    // By the model's names, under which a table and a file of an older release agree.
    let read = |name: &str| component.names.apply(name);
    let stored: BTreeMap<String, &Entry> =
        entries.iter().map(|entry| (read(&entry.name), entry)).collect();
    let known: BTreeSet<String> = component.tensors.iter().map(|(name, _)| read(name)).collect();
    let mut missing = Vec::new();
    let mut wrong = Vec::new();
    for (name, shape) in component.tensors.iter() {
        match stored.get(&read(name)).map(|entry| entry.shape.as_slice()) {
            Some(found) if found == shape => {}
            Some(found) => wrong.push(format!("`{name}` is {found:?}, not {shape:?}")),
            None if component.read_as(name).is_none() => {}
            None => missing.push(format!("`{name}`")),
        }
    }
    let unknown: Vec<String> = stored
        .iter()
        .filter(|(name, entry)| !known.contains(*name) && component.read_as(&entry.name).is_some())
        .map(|(_, entry)| format!("`{}`", entry.name))
        .collect();
    let kinds = [("missing", missing), ("of another shape", wrong), ("not known", unknown)];
    let told = |(what, names): (&str, Vec<String>)| {
        let first: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
        let more = if names.len() > NAMED { ", …" } else { "" };
        format!("{} tensors are {what}: {}{more}", names.len(), first.join(", "))
    };
    kinds.into_iter().filter(|(_, names)| !names.is_empty()).map(told).collect()
}

/// The command that fetches a component.
fn source_of(model: &ModelDefinition, component: &ComponentDefinition) -> Option<String> {
    let file = &component.placement.file;
    let holds = |folder: &str| !folder.is_empty() && file.starts_with(&format!("{folder}/"));
    let repository = model
        .repositories
        .iter()
        .find(|r| holds(&r.folder))
        .or_else(|| model.repositories.iter().find(|r| r.folder.is_empty()))?;
    Some(format!("any2pix models pull {} --only {}", model.name, repository.id))
}

/// Files of weights below `folder`, sorted; shards count as their index.
pub(crate) fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(folder, DEPTH, &mut files);
    let indices: Vec<String> = files
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok().filter(|_| is_index(path)))
        .collect();
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !indices.iter().any(|index| index.contains(&format!("\"{name}\"")))
    });
    files.sort();
    files
}

fn is_index(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".index.json")
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let known = |e: &std::ffi::OsStr| {
            ["safetensors", "gguf", "bin", "pth", "pt", "ckpt"].iter().any(|known| e == *known)
        };
        if hidden {
            continue;
        }
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files);
        } else if path.extension().is_some_and(known) || is_index(&path) {
            files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converted_files_have_the_names_that_others_give_them() {
        for (from, to) in [
            ("imagebind_huge.pth", "imagebind_huge.safetensors"),
            ("llm/pytorch_model.bin.index.json", "llm/model.safetensors"),
            ("llm/pytorch_model.bin", "llm/model.safetensors"),
            ("prior/model.bin", "prior/model.safetensors"),
            ("a/b.safetensors.index.json", "a/b.safetensors"),
        ] {
            assert_eq!(converted_name(from), to);
        }
    }
}
