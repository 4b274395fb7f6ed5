//! `*.index.json`: which of several files holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::bytes::Bytes;
use super::error::{CheckpointError, Fault, malformed};
use super::file::{Contents, MAX_TENSORS, read as read_file};
use super::json::{self, short};
use super::safetensors::MAX_HEADER;

/// Most files of one index.
const MAX_SHARDS: usize = 1024;

#[derive(Deserialize)]
struct Index {
    weight_map: json::Object<String>,
}

/// Names of tensors by the file that has them.
type Shards = BTreeMap<String, BTreeSet<String>>;

fn shards(bytes: &[u8]) -> Result<Shards, Fault> {
    if bytes.len() > MAX_HEADER {
        return malformed(format!("an index of {} bytes; {MAX_HEADER} are the most", bytes.len()));
    }
    let index: Index = json::parse(bytes)?;
    if index.weight_map.0.len() > MAX_TENSORS {
        return malformed(format!("more than {MAX_TENSORS} tensors"));
    }
    let mut shards = Shards::new();
    for (name, file) in index.weight_map.0 {
        let plain = !file.is_empty()
            && file != "."
            && file != ".."
            && !file.contains(['/', '\\', ':', '\0']);
        if !plain {
            let reason = format!("`{}` is to be read from `{}`", short(&name), short(&file));
            return malformed(format!("{reason}, which is not a file beside the index"));
        }
        shards.entry(file).or_default().insert(name);
    }
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return malformed(format!("{} files are listed; 1 to {MAX_SHARDS} may be", shards.len()));
    }
    Ok(shards)
}

/// Opens every file that the index at `path` lists, all of which hold what it says.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Contents, CheckpointError> {
    let origin = path.display().to_string();
    let mut all = Contents::default();
    for (file, expected) in shards(bytes).map_err(|fault| fault.at(&origin))? {
        let place = path.with_file_name(&file);
        let shard = read_file(&Bytes::map(&place)?)
            .map_err(|fault| fault.at(&place.display().to_string()))?;
        let disagree = |name: &str, what: &str| {
            let reason = format!("{what} `{}`", short(name));
            Err(Fault::Malformed(reason).at(&place.display().to_string()))
        };
        if let Some(missing) = expected.iter().find(|name| !shard.tensors.contains_key(*name)) {
            return disagree(missing, "the index says that it has");
        }
        for (name, stored) in shard.tensors {
            if !expected.contains(&name) {
                return disagree(&name, "the index does not say that it has");
            }
            all.tensors.insert(name, stored);
        }
        all.metadata.extend(shard.metadata);
    }
    Ok(all)
}
