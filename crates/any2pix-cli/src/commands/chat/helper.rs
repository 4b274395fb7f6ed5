//! What the line editor knows: completion, hints, colours, and when a line is not at its end.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use any2pix_agent::request::escaped;
use any2pix_agent::session::LAST;
use any2pix_agent::session::phrase::{expand, is_media_name, is_open};
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hinter, HistoryHinter};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use super::command::{COMMANDS, is_command};

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";
const GREY: &str = "\x1b[90m";
const PLAIN: &str = "\x1b[0m";

/// What the line editor knows.
pub(super) struct Helping {
    home: Option<PathBuf>,
    keys: Vec<String>,
    history: HistoryHinter,
}

impl Helping {
    /// For settings of these names.
    pub(super) fn new(home: Option<PathBuf>, keys: Vec<String>) -> Self {
        Self { home, keys, history: HistoryHinter::new() }
    }

    fn exists(&self, name: &str) -> bool {
        name == LAST || expand(name, self.home.as_deref()).is_file()
    }

    /// Files and folders that begin like `partial`; of files those that `wanted` wants.
    fn files(&self, partial: &str, wanted: &dyn Fn(&Path) -> bool) -> Vec<String> {
        let (folder, prefix) = match partial.rfind('/') {
            Some(slash) => partial.split_at(slash + 1),
            None => ("", partial),
        };
        let place = if folder.is_empty() { "./" } else { folder };
        let entries = std::fs::read_dir(expand(place, self.home.as_deref()));
        let mut found = Vec::new();
        for entry in entries.into_iter().flatten().flatten() {
            // What cannot be typed, or would steer the terminal, is not offered.
            let Some(name) = entry.file_name().to_str().map(str::to_string) else { continue };
            let hidden = name.starts_with('.') && !prefix.starts_with('.');
            if hidden || !name.starts_with(prefix) || name.contains(char::is_control) {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                found.push(format!("{folder}{name}/"));
            } else if wanted(&path) {
                found.push(format!("{folder}{name}"));
            }
        }
        found.sort();
        found
    }

    /// Where the word to complete begins, and what it may become.
    fn candidates(&self, line: &str, pos: usize) -> (usize, Vec<Pair>) {
        let before = &line[..pos];
        if is_command(before) {
            return self.command_candidates(before);
        }
        let Some(start) = open_bracket(before) else { return (pos, Vec::new()) };
        let partial = unescaped(&before[start..]);
        let mut names = self.files(&partial, &is_media_name);
        if LAST.starts_with(&partial) {
            names.insert(0, LAST.to_string());
        }
        let closed = line[pos..].starts_with(']');
        let pair = |name: String| {
            let end = if name.ends_with('/') || closed { "" } else { "]" };
            Pair { replacement: format!("{}{end}", escaped(&name)), display: name }
        };
        (start, names.into_iter().map(pair).collect())
    }

    fn command_candidates(&self, before: &str) -> (usize, Vec<Pair>) {
        let same = |text: String| Pair { display: text.clone(), replacement: text };
        let Some((word, rest)) = before.split_once(' ') else {
            let words = COMMANDS.iter().filter(|(word, ..)| word.starts_with(before));
            let pair = |(word, argument, _): &(&str, &str, &str)| Pair {
                display: (*word).to_string(),
                replacement: format!("{word}{}", if argument.is_empty() { "" } else { " " }),
            };
            return (0, words.map(pair).collect());
        };
        let start = word.len() + 1;
        let names = match word {
            "/set" if !rest.contains(' ') => {
                let keys = self.keys.iter().filter(|key| key.starts_with(rest));
                keys.map(|key| format!("{key} ")).collect()
            }
            "/open" => self.files(rest, &is_media_name),
            "/save" => self.files(rest, &|path| path.extension().is_some_and(|e| e == "png")),
            "/load" | "/export" => {
                self.files(rest, &|path| path.extension().is_some_and(|e| e == "jsonl"))
            }
            _ => Vec::new(),
        };
        (start, names.into_iter().map(same).collect())
    }
}

/// Where the name of the reference begins that is open at the end of `text`.
fn open_bracket(text: &str) -> Option<usize> {
    let mut starts = text.rmatch_indices('[').map(|(at, _)| at + 1);
    if is_open(text) { starts.find(|start| is_open(&text[..*start])) } else { None }
}

fn unescaped(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        match rest.peek() {
            Some('[' | ']' | '\\') if c == '\\' => out.extend(rest.next()),
            _ => out.push(c),
        }
    }
    out
}

impl Helper for Helping {}

impl Completer for Helping {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(self.candidates(line, pos))
    }
}

impl Hinter for Helping {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, context: &Context<'_>) -> Option<String> {
        self.history.hint(line, pos, context)
    }
}

impl Highlighter for Helping {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if is_command(line) {
            let end = line.find(' ').unwrap_or(line.len());
            return Cow::Owned(format!("{CYAN}{}{PLAIN}{}", &line[..end], &line[end..]));
        }
        let mut out = String::new();
        let mut done = 0;
        for (close, _) in line.match_indices(']') {
            let Some(start) = open_bracket(&line[..close]) else { continue };
            if is_open(&line[..=close]) {
                continue;
            }
            let name = &line[start..close];
            let colour = if self.exists(&unescaped(name)) { GREEN } else { RED };
            out.push_str(&format!("{}{colour}{name}{PLAIN}", &line[done..start]));
            done = close;
        }
        out.push_str(&line[done..]);
        Cow::Owned(out)
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("{GREY}{hint}{PLAIN}"))
    }

    fn highlight_char(&self, line: &str, _: usize, kind: CmdKind) -> bool {
        kind != CmdKind::MoveCursor && (line.starts_with('/') || line.contains('['))
    }
}

impl Validator for Helping {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let line = context.input();
        let unfinished = !is_command(line) && is_open(line);
        Ok(if unfinished { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helping(folder: &Path) -> Helping {
        let keys = ["seed", "steps", "strength"].map(str::to_string).to_vec();
        Helping::new(Some(folder.to_path_buf()), keys)
    }

    fn complete(helping: &Helping, line: &str) -> Vec<String> {
        let (start, pairs) = helping.candidates(line, line.len());
        pairs.iter().map(|pair| format!("{}{}", &line[..start], pair.replacement)).collect()
    }

    #[test]
    fn brackets_complete_pictures_sounds_and_folders_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["my dog.ogg", "a]b.png", "note.txt", ".hid.png", "c\u{1b}[31m.png", "p.jsonl"]
        {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let helping = helping(folder.path());
        assert_eq!(
            complete(&helping, "add [~/"),
            ["add [~/a\\]b.png]", "add [~/my dog.ogg]", "add [~/sub/"]
        );
        assert_eq!(complete(&helping, "add [~/a\\]"), ["add [~/a\\]b.png]"]);
        assert_eq!(complete(&helping, "add [~/my d"), ["add [~/my dog.ogg]"]);
        assert_eq!(complete(&helping, "add [~/.h"), ["add [~/.hid.png]"]);
        assert_eq!(complete(&helping, "add [la"), ["add [last]"]);
        assert!(complete(&helping, "add ~/").is_empty());
        assert_eq!(complete(&helping, "/open ~/my"), ["/open ~/my dog.ogg"]);
        assert_eq!(complete(&helping, "/load ~/"), ["/load ~/p.jsonl", "/load ~/sub/"]);
    }

    #[test]
    fn commands_and_keys_are_completed() {
        let helping = helping(Path::new("nowhere"));
        assert_eq!(complete(&helping, "/un"), ["/undo"]);
        assert_eq!(complete(&helping, "/ex"), ["/export "]);
        assert_eq!(complete(&helping, "/set st"), ["/set steps ", "/set strength "]);
    }

    #[test]
    fn references_show_whether_they_exist() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a]b.png"), "x").unwrap();
        let helping = helping(folder.path());
        let line = "add [~/a\\]b.png] to [nowhere.png] \\[and\\] [la";
        let expected =
            format!("add [{GREEN}~/a\\]b.png{PLAIN}] to [{RED}nowhere.png{PLAIN}] \\[and\\] [la");
        assert_eq!(helping.highlight(line, 0), expected);
    }
}
