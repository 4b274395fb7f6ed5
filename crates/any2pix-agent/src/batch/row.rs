//! `Row`: one line of a manifest.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::names::output_stem;
use crate::request::{Instruction, LAST};
use crate::settings::{EditSettings, SettingsPatch};
use crate::strict_json;

/// Longest id of a row or name of a session, in characters.
const MAX_NAME: usize = 200;

/// Where a reference's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A file, as the manifest names it.
    File(String),
    /// The result of the turn before.
    Last,
}

/// One edit of a batch.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its line in the manifest, from 1.
    pub(super) line: usize,
    pub(super) id: String,
    /// What its picture is called, without extension.
    pub(super) stem: String,
    pub(super) instruction: Instruction,
    /// In the order of the instruction's names.
    pub(super) sources: Vec<Source>,
    pub(super) settings: SettingsPatch,
    pub(super) session: Option<String>,
    pub(super) turn: Option<u64>,
    /// References that the instruction does not use.
    pub(super) unused: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    id: String,
    instruction: String,
    #[serde(default)]
    references: BTreeMap<String, String>,
    #[serde(default)]
    settings: SettingsPatch,
    session: Option<String>,
    turn: Option<u64>,
}

impl Row {
    /// Reads a line; `defaults` are the settings that the row's own go over.
    pub(super) fn parse(line: usize, text: &str, defaults: &EditSettings) -> Result<Self, String> {
        let value = strict_json::parse_object(text, &["references", "settings"])?;
        let raw: RawRow = serde_json::from_value(value).map_err(|error| error.to_string())?;
        check_name("the id", &raw.id)?;
        if let Some(session) = &raw.session {
            check_name("the session's name", session)?;
        } else if raw.turn.is_some() {
            return Err("a turn without a session".to_string());
        }
        let instruction = Instruction::parse(&raw.instruction).map_err(|e| e.to_string())?;
        let source = |name: &String| match raw.references.get(name) {
            Some(path) => Source::File(path.clone()),
            None if name == LAST => Source::Last,
            None => Source::File(name.clone()),
        };
        let sources: Vec<Source> = instruction.names.iter().map(source).collect();
        if sources.contains(&Source::Last) && raw.session.is_none() {
            return Err("[last] is the turn before, and the row belongs to no session".to_string());
        }
        let mut settings = defaults.clone();
        raw.settings.apply(&mut settings);
        settings.validate().map_err(|error| error.to_string().replacen("--", "settings: ", 1))?;
        let is_unused = |name: &String| !instruction.names.contains(name);
        Ok(Self {
            line,
            stem: output_stem(&raw.id),
            id: raw.id,
            sources,
            settings: raw.settings,
            session: raw.session,
            turn: raw.turn,
            unused: raw.references.into_keys().filter(is_unused).collect(),
            instruction,
        })
    }

    /// True when it goes on from the turn before.
    pub(super) fn goes_on(&self) -> bool {
        self.sources.contains(&Source::Last)
    }
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let count = name.chars().count();
    if name.trim().is_empty() {
        return Err(format!("{what} is empty"));
    }
    if count > MAX_NAME {
        return Err(format!("{what} has {count} characters, {MAX_NAME} is the most"));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("{what} has a control character"));
    }
    Ok(())
}
