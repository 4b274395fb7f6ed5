//! `EditRequest`: an instruction with references, parsed; names in it are data, never syntax.
//!
//! # Grammar
//!
//! ```text
//! instruction = { text | reference }
//! reference   = "[" name "]"
//! ```
//!
//! `\[`, `\]` and `\\` stand for the character itself, in text and in names; a backslash before
//! anything else is a backslash. `[image1]`, `[audio2]`, … are bound in order by `--image` and
//! `--audio`; any other name is a path. The same reference may stand twice and is one input.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::AgentError;
use crate::settings::EditSettings;

/// The name, in a conversation and in the session of a batch, of the result before.
pub const LAST: &str = "last";
/// Longest instruction, in characters.
pub const MAX_CHARACTERS: usize = 32_000;
/// Most inputs of one edit.
pub const MAX_REFERENCES: usize = 16;
/// Largest input file, in bytes.
pub const MAX_FILE_BYTES: u64 = 50 * 1024 * 1024;

/// A part of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Words.
    Text(String),
    /// The reference of that index.
    Reference(usize),
}

/// The text of an instruction with its references taken out. Printing it gives text that parses
/// to the same instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Words and references in order; two texts never follow each other.
    pub segments: Vec<Segment>,
    /// The references' names, in order of appearance, each once.
    pub names: Vec<String>,
}

/// One input of an edit.
#[derive(Clone, Debug)]
pub struct Reference {
    /// What stands between the brackets.
    pub name: String,
    /// Where the bytes come from, when they come from a file.
    pub path: Option<PathBuf>,
    /// The file's bytes; what was checked is what is used.
    pub bytes: Arc<[u8]>,
}

/// What `[image1]` and `[audio1]` mean.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// `[image1]`, `[image2]`, …
    pub images: Vec<PathBuf>,
    /// `[audio1]`, `[audio2]`, …
    pub audios: Vec<PathBuf>,
}

/// Everything that decides an edit.
#[derive(Clone, Debug)]
pub struct EditRequest {
    /// What to do.
    pub instruction: Instruction,
    /// The inputs, in the order of `instruction.names`.
    pub references: Vec<Reference>,
    /// How to do it.
    pub settings: EditSettings,
}

/// Takes one character, resolving an escape.
fn unescape(rest: &[char]) -> (char, usize) {
    match rest {
        ['\\', c @ ('[' | ']' | '\\'), ..] => (*c, 2),
        _ => (rest[0], 1),
    }
}

/// `text` as an instruction has to say it, in words or as a name, so that it is no syntax.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl Instruction {
    /// Parses the text of an instruction.
    pub fn parse(text: &str) -> Result<Self, AgentError> {
        let count = text.chars().count();
        if count > MAX_CHARACTERS {
            return Err(AgentError::TooMany {
                what: "characters of the instruction",
                count,
                limit: MAX_CHARACTERS,
            });
        }
        let characters: Vec<char> = text.chars().collect();
        let mut instruction = Self { segments: Vec::new(), names: Vec::new() };
        let mut words = String::new();
        let mut at = 0;
        while at < characters.len() {
            let rest = &characters[at..];
            match rest[0] {
                '[' => {
                    instruction.push_text(&mut words);
                    let (name, length) = Self::parse_name(rest, at)?;
                    instruction.push_reference(name)?;
                    at += length;
                }
                ']' => {
                    let reason = "this `]` closes nothing";
                    return Err(AgentError::Syntax { column: at + 1, reason });
                }
                _ => {
                    let (character, length) = unescape(rest);
                    words.push(character);
                    at += length;
                }
            }
        }
        instruction.push_text(&mut words);
        instruction.refuse_wordless()?;
        Ok(instruction)
    }

    /// Reads `[name]` at the start of `rest`, which begins at character `start`.
    fn parse_name(rest: &[char], start: usize) -> Result<(String, usize), AgentError> {
        let syntax =
            |offset: usize, reason| AgentError::Syntax { column: start + offset + 1, reason };
        let mut name = String::new();
        let mut at = 1;
        loop {
            match rest.get(at) {
                None => return Err(syntax(0, "this `[` is never closed")),
                Some('[') => return Err(syntax(at, "a `[` inside a reference")),
                Some(']') => break,
                Some('\0') => return Err(syntax(at, "a NUL character inside a reference")),
                Some(_) => {
                    let (character, length) = unescape(&rest[at..]);
                    name.push(character);
                    at += length;
                }
            }
        }
        if name.trim().is_empty() {
            return Err(syntax(0, "a reference without a name"));
        }
        Ok((name, at + 1))
    }

    fn push_text(&mut self, words: &mut String) {
        if !words.is_empty() {
            self.segments.push(Segment::Text(std::mem::take(words)));
        }
    }

    fn push_reference(&mut self, name: String) -> Result<(), AgentError> {
        let index = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        self.segments.push(Segment::Reference(index));
        if self.names.len() > MAX_REFERENCES {
            return Err(AgentError::TooMany {
                what: "references",
                count: self.names.len(),
                limit: MAX_REFERENCES,
            });
        }
        Ok(())
    }

    fn refuse_wordless(&self) -> Result<(), AgentError> {
        let has_words = self.segments.iter().any(|segment| match segment {
            Segment::Text(text) => text.chars().any(char::is_alphanumeric),
            Segment::Reference(_) => false,
        });
        if has_words { Ok(()) } else { Err(AgentError::EmptyInstruction) }
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => out.push_str(&escaped(text)),
                Segment::Reference(index) => {
                    out.push('[');
                    out.push_str(&escaped(self.names.get(*index).map_or("", String::as_str)));
                    out.push(']');
                }
            }
        }
        f.write_str(&out)
    }
}

impl Bindings {
    /// The file behind `name`: bound when it looks like `image1` or `audio1`, else a path.
    fn resolve(&self, name: &str) -> Result<PathBuf, AgentError> {
        for (prefix, files) in [("image", &self.images), ("audio", &self.audios)] {
            let number = name.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok());
            if let Some(number) = number {
                let file = number.checked_sub(1).and_then(|index| files.get(index));
                return file.cloned().ok_or_else(|| AgentError::Unbound { name: name.to_string() });
            }
        }
        Ok(PathBuf::from(name))
    }

    /// Names that are bound but do not stand in the instruction.
    pub fn unused(&self, instruction: &Instruction) -> Vec<String> {
        let numbered = |prefix: &'static str, files: &[PathBuf]| {
            (1..=files.len()).map(move |n| format!("{prefix}{n}")).collect::<Vec<_>>()
        };
        let mut names = numbered("image", &self.images);
        names.extend(numbered("audio", &self.audios));
        names.retain(|name| !instruction.names.contains(name));
        names
    }
}

impl Reference {
    /// Reads the file at `path`, once and whole.
    pub fn open(name: &str, path: &Path) -> Result<Self, AgentError> {
        let bytes = read_file(path, MAX_FILE_BYTES)?;
        Ok(Self { name: name.to_string(), path: Some(path.to_path_buf()), bytes: bytes.into() })
    }
}

/// Reads the regular file at `path`, once and whole, if it has 1 to `most` bytes.
pub(crate) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, AgentError> {
    let unreadable = |source| AgentError::Unreadable { path: path.to_path_buf(), source };
    let unusable = |reason: String| AgentError::Unusable { path: path.to_path_buf(), reason };
    // Asked before opening: opening a FIFO would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(unusable(format!("is {kind}")));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(unusable(format!("is over the limit of {} MB", most >> 20)));
    }
    if bytes.is_empty() {
        return Err(unusable("is empty".to_string()));
    }
    Ok(bytes)
}

impl EditRequest {
    /// Parses `text`, resolves its references and reads their files.
    pub fn parse(
        text: &str,
        bindings: &Bindings,
        settings: EditSettings,
    ) -> Result<Self, AgentError> {
        settings.validate()?;
        let instruction = Instruction::parse(text)?;
        let references = instruction
            .names
            .iter()
            .map(|name| Reference::open(name, &bindings.resolve(name)?))
            .collect::<Result<_, _>>()?;
        Ok(Self { instruction, references, settings })
    }
}
