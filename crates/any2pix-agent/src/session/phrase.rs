//! What people type in a conversation, brought into the grammar of an instruction: paths that were
//! dropped on the terminal become references, and a sentence that names no picture gets one.

use std::path::{Path, PathBuf};

use crate::inputs;
use crate::request::{Instruction, Reference, Segment};

/// Endings of the names of picture files.
pub const PICTURES: &[&str] = &["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];
/// Endings of the names of sound files.
pub const SOUNDS: &[&str] = &["wav", "mp3", "flac", "ogg", "oga"];

/// The sentence around an instruction that names no picture to edit.
const IMPLIED_BASE: &str = include_str!("../../../../prompts/session/implied_base.txt");

/// Words before a picture that is put in, or followed, and not edited.
const GIVES: &[&str] = &[
    "add", "adding", "put", "place", "insert", "paste", "draw", "paint", "include", "bring",
    "drop", "stick", "want", "need", "needs", "with", "by", "like",
];
/// Words between those and the picture.
const DETERMINERS: &[&str] =
    &["a", "an", "the", "this", "that", "these", "one", "some", "another", "my", "please"];
/// What a picture has that another one can take.
const QUALITIES: &[&str] = &["style", "look", "mood", "colours", "colors", "weather", "light"];

/// True when the name of the file ends like a picture's or a sound's.
pub fn is_media_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    PICTURES.iter().chain(SOUNDS).any(|known| extension.eq_ignore_ascii_case(known))
}

/// The path that `name` stands for; `~/` is the home folder.
pub fn expand(name: &str, home: Option<&Path>) -> PathBuf {
    match (name.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(name),
    }
}

/// A word of a line, as a shell would read it.
struct Word {
    /// Without quotes and escapes.
    plain: String,
    /// Characters that it takes in the line.
    length: usize,
}

/// Reads the word at the start of `rest`: in quotes, or up to a space that no backslash escapes.
fn word(rest: &[char]) -> Word {
    if let quote @ ('"' | '\'') = rest[0]
        && let Some(end) = rest[1..].iter().position(|c| *c == quote)
    {
        return Word { plain: rest[1..=end].iter().collect(), length: end + 2 };
    }
    let mut plain = String::new();
    let mut at = 0;
    while let Some(&c) = rest.get(at) {
        match c {
            '\\' if rest.get(at + 1).is_some_and(|next| !next.is_alphanumeric()) => {
                plain.push(rest[at + 1]);
                at += 2;
            }
            c if c.is_whitespace() || c == '[' || c == ']' => break,
            c => {
                plain.push(c);
                at += 1;
            }
        }
    }
    Word { plain, length: at.max(1) }
}

/// The path of a `file://` address with its percent signs resolved, or the text itself.
fn without_scheme(text: &str) -> String {
    let Some(address) = text.strip_prefix("file://") else { return text.to_string() };
    let mut bytes = Vec::new();
    let mut rest = address.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The media file that a word stands for, and the punctuation after it.
fn dropped<'w>(plain: &'w str, is_file: &dyn Fn(&str) -> bool) -> Option<(String, &'w str)> {
    let bare = plain.trim_end_matches([',', '.', ';', ':', '!', '?']);
    [plain, bare].into_iter().find_map(|name| {
        let path = without_scheme(name);
        let found = is_media_name(Path::new(&path)) && is_file(&path);
        found.then(|| (path, &plain[name.len()..]))
    })
}

/// `name` as a reference in the text of an instruction.
pub fn bracketed(name: &str) -> String {
    let names = vec![name.to_string()];
    Instruction { segments: vec![Segment::Reference(0)], names }.to_string()
}

/// Puts brackets around the paths of `line` that `is_file` knows as files and whose names end
/// like a picture's or a sound's. What stands in brackets stays as it is.
pub fn bracket_dropped(line: &str, is_file: &dyn Fn(&str) -> bool) -> String {
    let characters: Vec<char> = line.chars().collect();
    let mut out = String::new();
    let (mut at, mut inside, mut at_start) = (0, false, true);
    while let Some(&c) = characters.get(at) {
        if c == '\\' && (inside || characters.get(at + 1).is_some_and(|c| "[]\\".contains(*c))) {
            out.extend(characters[at..].iter().take(2));
            at += 2;
            continue;
        }
        if !inside && at_start && !c.is_whitespace() && c != '[' {
            let word = word(&characters[at..]);
            match dropped(&word.plain, is_file) {
                Some((path, punctuation)) => {
                    out.push_str(&bracketed(&path));
                    out.push_str(punctuation);
                    at += word.length;
                    continue;
                }
                None => out.push(c),
            }
        } else {
            out.push(c);
        }
        inside = if inside { c != ']' } else { c == '[' };
        at_start = !inside && (c.is_whitespace() || c == ']');
        at += 1;
    }
    out
}

/// True when `line` ends inside a reference.
pub fn is_open(line: &str) -> bool {
    let (mut open, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => open = true,
            ']' => open = false,
            _ => {}
        }
    }
    open
}

/// A line that was typed in several: breaks inside a reference vanish, others are spaces.
pub fn join_lines(text: &str) -> String {
    let mut joined = String::new();
    for line in text.trim().lines() {
        if !joined.is_empty() && !is_open(&joined) {
            joined.push(' ');
        }
        joined.push_str(line.trim());
    }
    joined
}

/// The first of the references that `is_picture` says are pictures that the instruction edits, by
/// the words before it: `add [x]` and `like [x]` give, `to [x]` and `make [x]` edit.
fn base_of(instruction: &Instruction, is_picture: &dyn Fn(usize) -> bool) -> Option<usize> {
    let mut gives = false;
    let mut before = "";
    for segment in &instruction.segments {
        match segment {
            Segment::Text(text) => before = text,
            Segment::Reference(index) => {
                gives = is_given(before, gives);
                if !gives && is_picture(*index) {
                    return Some(*index);
                }
                before = "";
            }
        }
    }
    None
}

/// The picture among an instruction's references that it edits, if it names one.
pub(crate) fn edited(instruction: &Instruction, references: &[Reference]) -> Option<usize> {
    let is_picture =
        |index: usize| references.get(index).is_some_and(|r| !inputs::is_sound(&r.bytes));
    base_of(instruction, &is_picture)
}

/// Whether a reference after these words is given; `and` goes on as the one before.
fn is_given(before: &str, previous: bool) -> bool {
    let lower = before.to_lowercase();
    let mut words = lower
        .rsplit(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty() && !DETERMINERS.contains(word));
    match words.next() {
        Some("and" | "or") => previous,
        Some("in") => words.next().is_some_and(|word| GIVES.contains(&word)),
        Some("of") => words.next().is_some_and(|word| QUALITIES.contains(&word)),
        Some(word) => GIVES.contains(&word),
        None => previous,
    }
}

/// `instruction` with `base` named in front as what is edited.
pub fn with_base(instruction: &str, base: &str) -> String {
    let template = IMPLIED_BASE.trim_end();
    let (head, rest) = template.split_once("{base}").unwrap_or(("", template));
    let (middle, tail) = rest.split_once("{instruction}").unwrap_or((rest, ""));
    format!("{head}{}{middle}{instruction}{tail}", bracketed(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brackets(line: &str) -> String {
        let files = ["park.jpg", "/d/my dog.ogg", "a]b.png", "note.txt", "~/x.png"];
        bracket_dropped(line, &|path| files.contains(&path))
    }

    #[test]
    fn dropped_paths_become_references_and_nothing_else_does() {
        for (line, expected) in [
            ("add a dog to park.jpg", "add a dog to [park.jpg]"),
            ("park.jpg, add a dog", "[park.jpg], add a dog"),
            ("brighten park.jpg.", "brighten [park.jpg]."),
            ("add '/d/my dog.ogg' to park.jpg", "add [/d/my dog.ogg] to [park.jpg]"),
            ("add \"/d/my dog.ogg\" ", "add [/d/my dog.ogg] "),
            ("add /d/my\\ dog.ogg", "add [/d/my dog.ogg]"),
            ("add file:///d/my%20dog.ogg", "add [/d/my dog.ogg]"),
            ("add a]b.png", "add a]b.png"),
            ("add 'a]b.png'", "add [a\\]b.png]"),
            ("add ~/x.png", "add [~/x.png]"),
            ("read note.txt", "read note.txt"),
            ("add other.png", "add other.png"),
            ("add [park.jpg] here", "add [park.jpg] here"),
            ("add [my park.jpg] here", "add [my park.jpg] here"),
            ("it's 'quoted' text", "it's 'quoted' text"),
            ("a \\[park.jpg\\] in text", "a \\[park.jpg\\] in text"),
            ("", ""),
        ] {
            assert_eq!(brackets(line), expected);
        }
    }

    #[test]
    fn an_open_reference_is_seen_and_closed_on_the_next_line() {
        assert!(is_open("add [dog"));
        assert!(is_open("add [do\\]g"));
        assert!(!is_open("add [dog] and \\[that"));
        assert_eq!(join_lines("add [dog.\nogg] to\n the park\n"), "add [dog.ogg] to the park");
    }

    #[test]
    fn the_words_before_a_picture_tell_whether_it_is_edited() {
        let base = |text: &str| {
            let instruction = Instruction::parse(text).unwrap();
            let names = instruction.names.clone();
            base_of(&instruction, &|index| !names[index].ends_with("ogg")).is_some()
        };
        for text in [
            "add a dog to [park]",
            "add [dog] to the [park]",
            "put the [dog] and [cat] into [park]",
            "make [park] snowy",
            "put the [dog] in [park]",
            "i want a dog in the [park]",
            "here is [park]. add a dog",
            "[park]: add a dog",
            "duplicate the cat of [park]",
            "remove the dog from [park]",
        ] {
            assert!(base(text), "{text}");
        }
        for text in [
            "add a dog",
            "add [dog]",
            "add the [dog] and a [cat] on the left",
            "replace the dog with [cat]",
            "make it look like [village]",
            "give it the style of [village]",
            "put in the [dog]",
            "add [dog.ogg]",
            "make it snowy like in [park]",
            "make it sound like [rain.ogg]",
        ] {
            assert!(!base(text), "{text}");
        }
    }

    #[test]
    fn the_base_of_a_sentence_is_data_whatever_its_name() {
        let text = with_base("add a {base} dog", "a]{instruction}.png");
        let instruction = Instruction::parse(&text).unwrap();
        assert_eq!(instruction.names, ["a]{instruction}.png"]);
        assert!(text.ends_with("add a {base} dog"), "{text}");
    }
}
