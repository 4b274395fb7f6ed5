//! `Manifest`: the rows of a batch, all of them checked before anything is done.
//!
//! A row is one line of JSON:
//! `{"id", "instruction", "references"?: {name: path}, "settings"?, "session"?, "turn"?}`. `[name]`
//! in the instruction is the file that `references` says, or else the path itself, relative to the
//! manifest; `[last]` is the result of the turn before. Rows of one session are done in the order
//! of their turns, or, where they have none, of their lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::media::MediaFolder;
use super::row::{Row, Source};
use super::shards::Session;
use crate::bounded_lines::{BoundedLines, Line, MAX_LINE_BYTES};
use crate::error::AgentError;
use crate::inputs;
use crate::outcome::hexadecimal;
use crate::settings::EditSettings;

/// Most bytes of a manifest.
const MAX_BYTES: u64 = 1 << 30;

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// Its line in the manifest, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// How a manifest is read.
#[derive(Clone, Debug, Default)]
pub struct ManifestOptions {
    /// The settings that a row's own go over.
    pub settings: EditSettings,
    /// References may lead out of the manifest's folder.
    pub allow_outside: bool,
}

/// The rows of a batch.
#[derive(Debug)]
pub struct Manifest {
    /// SHA-256 of the file.
    pub sha256: String,
    /// The settings that a row's own go over.
    pub settings: EditSettings,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
    pub(super) rows: Vec<Row>,
    /// Sorted by name.
    pub(super) sessions: Vec<Session>,
    pub(super) media: MediaFolder,
}

impl Manifest {
    /// Reads and checks the manifest at `path`, down to the headers of the files that it names.
    ///
    /// # Errors
    /// [`AgentError::Manifest`] with every row that is wrong.
    pub fn open(path: &Path, options: ManifestOptions) -> Result<Self, AgentError> {
        let ManifestOptions { settings, allow_outside } = options;
        let media = MediaFolder::of(path, allow_outside)?;
        let (lines, sha256) = read(path)?;
        let (mut rows, mut faults) = (Vec::new(), Vec::new());
        for (line, text) in lines {
            match text.and_then(|text| Row::parse(line, &text, &settings)) {
                Ok(row) => rows.push(row),
                Err(reason) => faults.push(Fault { line, reason }),
            }
        }
        if rows.is_empty() && faults.is_empty() {
            faults.push(Fault { line: 1, reason: "the manifest has no rows".to_string() });
        }
        refuse_doubles(&rows, &mut faults);
        let sessions = sessions(&rows, &mut faults);
        refuse_media(&rows, &media, &mut faults);
        if !faults.is_empty() {
            faults.sort();
            return Err(AgentError::Manifest { path: path.to_path_buf(), faults });
        }
        let warnings = rows.iter().flat_map(|row| {
            let about =
                |name| format!("line {}: [{name}] does not stand in the instruction", row.line);
            row.unused.iter().map(about)
        });
        Ok(Self { sha256, settings, warnings: warnings.collect(), rows, sessions, media })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many parts can be done independently.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Never: a manifest without rows is refused.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A file and the hash of what was read of it.
struct Hashed {
    file: File,
    hasher: Sha256,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

type Lines = Vec<(usize, Result<String, String>)>;

/// The lines that are not blank, and the hash of the file.
fn read(path: &Path) -> Result<(Lines, String), AgentError> {
    let unreadable = |source| AgentError::Unreadable { path: path.to_path_buf(), source };
    let unusable = |reason: String| AgentError::Unusable { path: path.to_path_buf(), reason };
    // Asked before opening: opening a FIFO would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unusable("a manifest is a regular file".to_string()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(unusable(format!("is over the limit of {} MB", MAX_BYTES >> 20)));
    }
    let file = Hashed { file: File::open(path).map_err(unreadable)?, hasher: Sha256::new() };
    let mut lines = BoundedLines::new(BufReader::with_capacity(1 << 16, file));
    let (mut found, mut number) = (Vec::new(), 0);
    while let Some(line) = lines.next_line().map_err(unreadable)? {
        number += 1;
        let text = match line {
            Line::Text(text) if text.trim().is_empty() => continue,
            Line::Text(text) => Ok(text),
            Line::TooLong => Err(format!("longer than {} KB", MAX_LINE_BYTES >> 10)),
            Line::Invalid { offset } => Err(format!("byte {offset} of the file is not UTF-8")),
        };
        found.push((number, text));
    }
    Ok((found, hexadecimal(lines.into_inner().into_inner().hasher)))
}

/// Ids must differ, in more than capitals, and so must the names of their pictures.
fn refuse_doubles(rows: &[Row], faults: &mut Vec<Fault>) {
    let (mut ids, mut stems) = (BTreeMap::new(), BTreeMap::new());
    for row in rows {
        let (id, stem) = (row.id.to_lowercase(), row.stem.to_lowercase());
        if let Some(first) = ids.get(&id).or_else(|| stems.get(&stem)) {
            let reason = format!("the id `{}` is also that of line {first}", row.id);
            faults.push(Fault { line: row.line, reason });
            continue;
        }
        ids.insert(id, row.line);
        stems.insert(stem, row.line);
    }
}

/// Rows that follow from each other, in order.
fn sessions(rows: &[Row], faults: &mut Vec<Fault>) -> Vec<Session> {
    // Rows without a session come after those of a session of the same name.
    let mut found: BTreeMap<(&str, bool), Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let name = row.session.as_deref().unwrap_or(&row.id);
        found.entry((name, row.session.is_none())).or_default().push(index);
    }
    for members in found.values_mut() {
        members.sort_by_key(|index| (rows[*index].turn, *index));
        let mut fault = |index: usize, reason: String| {
            faults.push(Fault { line: rows[index].line, reason });
        };
        if rows[members[0]].goes_on() {
            fault(members[0], "[last] in the first turn: there is no turn before".to_string());
        }
        for pair in members.windows(2) {
            let (before, after) = (&rows[pair[0]], &rows[pair[1]]);
            match (before.turn, after.turn) {
                (None, None) => {}
                (Some(a), Some(b)) if a < b => {}
                (Some(turn), Some(_)) => {
                    fault(pair[1], format!("turn {turn} is also that of line {}", before.line));
                }
                _ => fault(pair[0], "some rows of the session have a turn, this has none".into()),
            }
        }
    }
    let session =
        |((name, _), rows): ((&str, bool), Vec<usize>)| Session { name: name.into(), rows };
    found.into_iter().map(session).collect()
}

/// Every file that is named must be there and begin like a picture or a sound; each is looked at
/// once.
fn refuse_media(rows: &[Row], media: &MediaFolder, faults: &mut Vec<Fault>) {
    let named = |row: &Row| -> Vec<(usize, String, Result<PathBuf, String>)> {
        let files = row.sources.iter().filter_map(|source| match source {
            Source::File(text) => {
                Some((row.line, text.clone(), media.find(text).map_err(|error| error.line())))
            }
            Source::Last => None,
        });
        files.collect()
    };
    let named: Vec<_> = rows.par_iter().flat_map_iter(named).collect();
    let files: BTreeSet<PathBuf> =
        named.iter().filter_map(|(_, _, path)| path.clone().ok()).collect();
    let bad: BTreeMap<PathBuf, String> = files
        .into_par_iter()
        .filter_map(|path| Some((path.clone(), inputs::refusal(&path)?)))
        .collect();
    for (line, text, path) in named {
        let reason = match path {
            Ok(path) => bad.get(&path).map(|reason| format!("[{text}]: {reason}")),
            Err(reason) => Some(reason),
        };
        faults.extend(reason.map(|reason| Fault { line, reason }));
    }
}
