//! A conversation as a manifest: one JSON object a line, one line a turn, media beside the file.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Serialize;

use super::{LAST, Turn};
use crate::error::AgentError;
use crate::outcome::sha256;
use crate::request::Reference;
use crate::settings::{EditSettings, SettingsPatch};
use crate::storage::write_atomically;

/// One turn, as a manifest tells it (`batch::manifest` reads it).
#[derive(Serialize)]
struct Row {
    id: String,
    instruction: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    references: BTreeMap<String, String>,
    settings: SettingsPatch,
    session: String,
    turn: u64,
}

/// Writes `turns` as the manifest `path`. Media that lie outside the manifest's folder, or that
/// changed since their turn, are written to a folder beside the manifest that has its name and
/// the ending `media`.
pub(super) fn write(path: &Path, session: &str, turns: &[&Turn]) -> Result<(), AgentError> {
    let wrong = |error: serde_json::Error| {
        let source = std::io::Error::other(error);
        AgentError::Unwritable { path: path.to_path_buf(), source }
    };
    let mut text = String::new();
    for (index, turn) in turns.iter().enumerate() {
        let mut references = BTreeMap::new();
        for reference in turn.request.references.iter().filter(|r| r.name != LAST) {
            references.insert(reference.name.clone(), place(path, reference)?);
        }
        let row = Row {
            id: format!("{session}-{}", index + 1),
            instruction: turn.request.instruction.to_string(),
            references,
            settings: whole(&turn.request.settings).map_err(&wrong)?,
            session: session.to_string(),
            turn: index as u64 + 1,
        };
        text.push_str(&line(&row).map_err(&wrong)?);
        text.push('\n');
    }
    write_atomically(path, text.as_bytes())
}

/// The row on one line, without the settings that are not given.
fn line(row: &Row) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(row)?;
    if let Some(settings) = value.get_mut("settings").and_then(|s| s.as_object_mut()) {
        settings.retain(|_, value| !value.is_null());
    }
    serde_json::to_string(&value)
}

/// Every setting, so that the row means the same under any defaults.
fn whole(settings: &EditSettings) -> serde_json::Result<SettingsPatch> {
    serde_json::from_value(serde_json::to_value(settings)?)
}

/// The path of a reference as the manifest tells it; its file is written when it must be.
fn place(manifest: &Path, reference: &Reference) -> Result<String, AgentError> {
    let folder = match manifest.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Some(path) = &reference.path
        && let (Ok(real), Ok(root)) = (path.canonicalize(), folder.canonicalize())
        && let Ok(inside) = real.strip_prefix(root)
        && std::fs::read(&real).is_ok_and(|bytes| bytes == *reference.bytes)
        && let Some(text) = portable(inside)
    {
        return Ok(text);
    }
    let media = manifest.with_extension("media");
    std::fs::create_dir_all(&media)
        .map_err(|source| AgentError::Unwritable { path: media.clone(), source })?;
    let name = reference.path.as_deref().unwrap_or(Path::new(&reference.name));
    let name = name.file_name().map_or("media".into(), |name| name.to_string_lossy());
    let hash = sha256(&reference.bytes);
    let file = format!("{}-{name}", &hash[..8]);
    let path = media.join(&file);
    // An earlier turn or export may have written it.
    if !std::fs::read(&path).is_ok_and(|bytes| bytes == *reference.bytes) {
        write_atomically(&path, &reference.bytes)?;
    }
    let folder = media.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Ok(format!("{folder}/{file}"))
}

/// A relative path with `/` between its parts, when it is one and can be written as text.
fn portable(path: &Path) -> Option<String> {
    let part = |component: Component| match component {
        Component::Normal(name) => name.to_str().map(str::to_string),
        _ => None,
    };
    path.components().map(part).collect::<Option<Vec<_>>>().map(|parts| parts.join("/"))
}
