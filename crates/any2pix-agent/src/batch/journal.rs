//! `Journal`: one line a finished row, appended and synced; a row is done when its line is there.
//!
//! A line is `{"check": c, "result": {…}, "index": n, "run": {…}}`, where `c` begins SHA-256 of
//! what follows it. A process that is killed can leave the last line torn, which is dropped; any
//! other line that does not fit its check is damage, and nothing is done.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::AgentError;
use crate::outcome::sha256;
use crate::storage::write_atomically;

/// Hexadecimal digits of a check.
const DIGITS: usize = 16;
/// Longest line that is read, in bytes: an instruction, its plan and its inputs fit.
const MAX_LINE: usize = 4 << 20;

/// The first line: whose journal it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Hash of the batch's identity.
    pub batch: String,
    /// Which shard, from 0.
    pub shard: usize,
    /// Of how many.
    pub shards: usize,
    /// How many rows the shard has.
    pub rows: usize,
}

/// A finished row.
#[derive(Debug)]
pub struct Entry<T> {
    /// Its place in the manifest.
    pub index: usize,
    /// What came of it.
    pub result: T,
    /// The result as it was written.
    pub(super) text: String,
}

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) header: Header,
    /// Bytes up to the end of the last whole line.
    whole: u64,
    /// Whether bytes follow it.
    is_torn: bool,
}

#[derive(Deserialize)]
struct Rest {
    index: usize,
}

fn with_check(body: &str) -> String {
    format!("{{\"check\":\"{}\",{body}\n", &sha256(body.as_bytes())[..DIGITS])
}

/// What follows a line's check, if it fits.
fn checked(line: &str) -> Option<&str> {
    let (check, rest) = line.strip_prefix("{\"check\":\"")?.split_at_checked(DIGITS)?;
    let body = rest.strip_prefix("\",")?;
    (sha256(body.as_bytes())[..DIGITS] == *check).then_some(body)
}

fn header_line(header: &Header) -> String {
    let text = json!(header).to_string();
    with_check(text.strip_prefix('{').unwrap_or(&text))
}

fn entry_line(index: usize, result: &str, run: &impl Serialize) -> String {
    with_check(&format!("\"result\":{result},\"index\":{index},\"run\":{}}}", json!(run)))
}

fn parse_header(line: &str) -> Option<Header> {
    serde_json::from_str(&format!("{{{}", checked(line)?)).ok()
}

fn parse_entry<T: DeserializeOwned>(line: &str) -> Option<Entry<T>> {
    let result = checked(line)?.strip_prefix("\"result\":")?;
    // The text of the result, to the letter: merged results repeat it.
    let mut values = serde_json::Deserializer::from_str(result).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let (text, rest) = result.split_at_checked(values.byte_offset())?;
    let Rest { index } = serde_json::from_str(&format!("{{{}", rest.strip_prefix(',')?)).ok()?;
    Some(Entry { index, result: serde_json::from_str(text).ok()?, text: text.to_string() })
}

/// Shows every entry of the journal at `path` to `visit`; `None` where there is no journal.
pub(super) fn scan<T: DeserializeOwned>(
    path: &Path,
    mut visit: impl FnMut(Entry<T>) -> Result<(), AgentError>,
) -> Result<Option<Scan>, AgentError> {
    let unreadable = |source| AgentError::Unreadable { path: path.to_path_buf(), source };
    let damaged = |line| AgentError::DamagedJournal { path: path.to_path_buf(), line };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(unreadable)?,
    };
    let mut reader = BufReader::new(file);
    let mut next = || -> Result<Vec<u8>, AgentError> {
        let mut line = Vec::new();
        let mut bounded = std::io::Read::take(&mut reader, MAX_LINE as u64);
        bounded.read_until(b'\n', &mut line).map_err(unreadable)?;
        Ok(line)
    };
    let whole_line = |line: &[u8]| {
        let line = line.strip_suffix(b"\n")?;
        std::str::from_utf8(line).ok().map(str::to_string)
    };
    let first = next()?;
    let header = whole_line(&first).and_then(|line| parse_header(&line)).ok_or(damaged(1))?;
    let mut scan = Scan { header, whole: first.len() as u64, is_torn: false };
    for number in 2.. {
        let line = next()?;
        if line.is_empty() {
            break;
        }
        let entry = whole_line(&line).and_then(|line| parse_entry(&line));
        match entry {
            Some(_) if scan.is_torn => return Err(damaged(number - 1)),
            Some(entry) => {
                scan.whole += line.len() as u64;
                visit(entry)?;
            }
            None if scan.is_torn => return Err(damaged(number - 1)),
            None => scan.is_torn = true,
        }
    }
    Ok(Some(scan))
}

/// A journal that is written to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes that are known to be whole.
    length: u64,
}

impl Journal {
    /// Opens the journal at `path`, or begins it with `header`; shows what is there to `visit` and
    /// drops a torn end. Says whether there was one.
    pub fn open<T: DeserializeOwned>(
        path: &Path,
        header: &Header,
        visit: impl FnMut(Entry<T>) -> Result<(), AgentError>,
    ) -> Result<(Self, bool), AgentError> {
        let unwritable = |source| AgentError::Unwritable { path: path.to_path_buf(), source };
        let found = scan(path, visit)?;
        let (length, is_torn) = match found {
            Some(scan) if scan.header == *header => (scan.whole, scan.is_torn),
            Some(_) => {
                let what = "another manifest or configuration";
                return Err(AgentError::OtherBatch { path: path.to_path_buf(), what });
            }
            None => {
                let line = header_line(header);
                write_atomically(path, line.as_bytes())?;
                (line.len() as u64, false)
            }
        };
        let file = OpenOptions::new().append(true).open(path).map_err(unwritable)?;
        if is_torn {
            file.set_len(length).and_then(|()| file.sync_all()).map_err(unwritable)?;
        }
        Ok((Self { path: path.to_path_buf(), file, length }, is_torn))
    }

    /// Appends a row and syncs it: when this returns, the row is done. What differs from run to
    /// run is in `run`, an object, and not in the result.
    pub fn append(
        &mut self,
        index: usize,
        result: &impl Serialize,
        run: &impl Serialize,
    ) -> Result<(), AgentError> {
        let text = serde_json::to_string(result).map_err(|e| self.unwritable(e.into()))?;
        let line = entry_line(index, &text, run);
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // The row is not done. If the rest of its line cannot be taken back now, the next run
            // drops it.
            let _ = self.file.set_len(self.length);
            return Err(self.unwritable(source));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    fn unwritable(&self, source: std::io::Error) -> AgentError {
        AgentError::Unwritable { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::result::{RowFailure, RowResult, RowStatus, RunFigures};
    use super::*;

    const HEADER: fn() -> Header = || Header { batch: "b".into(), shard: 0, shards: 1, rows: 9 };

    fn result(id: &str) -> RowResult {
        let failure = RowFailure { reason: "r".into(), error: "e \"x\"\n".into(), hint: None };
        RowResult {
            id: id.into(),
            status: RowStatus::Failed,
            session: None,
            turn: Some(3),
            instruction: "add a \\[dog\\] to [a\u{2028}b.png]".into(),
            seed: 1 << 52,
            picture: None,
            failure: Some(failure),
        }
    }

    /// The journal, whether its end was torn, and its rows.
    type Opened = (Journal, bool, Vec<(usize, RowResult)>);

    fn open(path: &Path) -> Result<Opened, AgentError> {
        let mut found = Vec::new();
        let (journal, is_torn) = Journal::open(path, &HEADER(), |entry: Entry<RowResult>| {
            found.push((entry.index, entry.result));
            Ok(())
        })?;
        Ok((journal, is_torn, found))
    }

    #[test]
    fn a_journal_cut_anywhere_gives_its_whole_lines_and_takes_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.jsonl");
        let (mut journal, ..) = open(&path).unwrap();
        for index in [4, 2] {
            journal.append(index, &result(&index.to_string()), &RunFigures::default()).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> =
            (0..whole.len()).filter(|at| whole[*at] == b'\n').map(|at| at + 1).collect();
        assert_eq!(ends.len(), 3);
        for length in ends[0]..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, is_torn, found) = open(&path).unwrap();
            let lines = ends.iter().filter(|end| **end <= length).count();
            assert_eq!((found.len(), is_torn), (lines - 1, !ends.contains(&length)), "{length}");
            assert!(found.iter().all(|(index, row)| *row == result(&index.to_string())));
            journal.append(7, &result("7"), &RunFigures::default()).unwrap();
            let (_, is_torn, found) = open(&path).unwrap();
            assert_eq!((found.len(), is_torn), (lines, false), "{length}");
        }
    }

    #[test]
    fn a_changed_byte_is_damage_unless_it_is_in_the_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.jsonl");
        let (mut journal, ..) = open(&path).unwrap();
        for index in 0..3 {
            journal.append(index, &result("x"), &RunFigures::default()).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for at in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x04;
            std::fs::write(&path, &bytes).unwrap();
            match open(&path) {
                Ok((_, is_torn, found)) => assert!(is_torn && found.len() == 2 && at >= last),
                Err(AgentError::DamagedJournal { .. }) => assert!(at < last, "{at}"),
                Err(other) => panic!("{at}: {other}"),
            }
        }
        std::fs::write(&path, &whole).unwrap();
        let other = Header { rows: 8, ..HEADER() };
        assert!(Journal::open(&path, &other, |_: Entry<RowResult>| Ok(())).is_err());
    }
}
