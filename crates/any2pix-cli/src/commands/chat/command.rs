//! What can be typed in a conversation: an instruction, or a command after a slash.

use std::path::Path;

use any2pix_agent::session::phrase::is_media_name;

/// A command's word, what follows it, and what it does.
pub(super) const COMMANDS: &[(&str, &str, &str)] = &[
    ("/open", "FILE", "go on from this picture"),
    ("/new", "", "go on from nothing"),
    ("/undo", "", "take the last step back"),
    ("/redo", "", "do it again"),
    ("/set", "KEY VALUE", "change a setting; `default` is a value, too"),
    ("/seed", "N|random", "change the seed"),
    ("/show", "", "the settings, and the picture that is gone on from"),
    ("/plan", "", "what was understood of the last instruction"),
    ("/variations", "N", "the last edit with N other seeds"),
    ("/use", "N", "go on from variation N; 0 is the edit itself"),
    ("/compare", "", "before and after, and how much is another"),
    ("/save", "FILE.png", "write the last picture"),
    ("/export", "FILE.jsonl", "write the conversation as a manifest"),
    ("/load", "FILE.jsonl", "repeat an exported conversation and go on from it"),
    ("/help", "", "this list"),
    ("/quit", "", "leave; Ctrl-D does, too"),
];

/// Most variations at once.
const MOST_VARIATIONS: usize = 64;

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing was typed.
    Empty,
    /// An edit.
    Instruction(String),
    Open(String),
    New,
    Undo,
    Redo,
    Set(String, String),
    /// `None` is a seed by chance.
    Seed(Option<u64>),
    Show,
    Plan,
    Variations(usize),
    Use(usize),
    Compare,
    Save(String),
    Export(String),
    Load(String),
    Help,
    Quit,
}

/// True when `line` is meant as a command: a slash and a word that is no path.
pub(super) fn is_command(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    word.strip_prefix('/').is_some_and(|rest| !rest.contains(['/', '.']))
}

/// Understands `line`; the error says what is wrong and what would be right.
pub(super) fn parse(line: &str) -> Result<Line, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(Line::Empty);
    }
    if !is_command(line) {
        return Ok(alone(line).map_or_else(|| Line::Instruction(line.to_string()), Line::Open));
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let Some((word, argument, _)) = COMMANDS.iter().find(|(known, ..)| *known == word) else {
        return Err(unknown(word));
    };
    if argument.is_empty() != rest.is_empty() {
        let usage = format!("{word} {argument}");
        return Err(format!("the command is `{}`", usage.trim_end()));
    }
    let number = |most: usize| match rest.parse::<usize>() {
        Ok(number) if number <= most => Ok(number),
        _ => Err(format!("{word} {rest}: a number up to {most} is needed")),
    };
    Ok(match *word {
        "/open" => Line::Open(path(rest)),
        "/new" => Line::New,
        "/undo" => Line::Undo,
        "/redo" => Line::Redo,
        "/set" => match rest.split_once(char::is_whitespace) {
            Some((key, value)) => Line::Set(key.to_string(), value.trim().to_string()),
            None => return Err("the command is `/set KEY VALUE`; /show lists the keys".to_string()),
        },
        "/seed" if rest == "random" => Line::Seed(None),
        "/seed" => match rest.parse() {
            Ok(seed) => Line::Seed(Some(seed)),
            Err(_) => return Err(format!("/seed {rest}: a number or `random` is needed")),
        },
        "/show" => Line::Show,
        "/plan" => Line::Plan,
        "/variations" => Line::Variations(number(MOST_VARIATIONS)?),
        "/use" => Line::Use(number(MOST_VARIATIONS)?),
        "/compare" => Line::Compare,
        "/save" => Line::Save(path(rest)),
        "/export" => Line::Export(path(rest)),
        "/load" => Line::Load(path(rest)),
        "/help" => Line::Help,
        _ => Line::Quit,
    })
}

/// The path after a command: in quotes, in brackets, with escaped spaces, or as it is.
fn path(text: &str) -> String {
    for (open, close) in [('"', '"'), ('\'', '\''), ('[', ']')] {
        let inner = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.is_empty()) {
            return inner.to_string();
        }
    }
    text.replace("\\ ", " ")
}

/// The file of a line that is nothing but a reference or a dropped path.
fn alone(line: &str) -> Option<String> {
    let path = path(line);
    let one = !path.contains(['[', ']', '"', '\'']) && is_media_name(Path::new(&path));
    let whole = path.len() < line.len() || !line.contains(char::is_whitespace);
    (one && whole).then_some(path)
}

/// The refusal of a command that does not exist, with what may have been meant.
fn unknown(word: &str) -> String {
    let near = |known: &&(&str, &str, &str)| {
        known.0.starts_with(word) || word.starts_with(known.0) || known.0.get(..3) == word.get(..3)
    };
    match COMMANDS.iter().find(near) {
        Some((known, ..)) => format!("{word} is no command; {known} is one"),
        None => format!("{word} is no command; /help lists them"),
    }
}

/// The list for `/help`.
pub(super) fn help() -> Vec<String> {
    let line = |(word, argument, what): &(&str, &str, &str)| {
        format!("  {:<22} {what}", format!("{word} {argument}"))
    };
    let mut lines = vec![
        "Say what to do: add [dog.ogg] to [park.jpg]. Pictures and sounds stand in brackets".into(),
        "or are dropped on the terminal. The next sentence goes on from the result, [last].".into(),
    ];
    lines.extend(COMMANDS.iter().map(line));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_instructions_commands_or_pictures() {
        let text = |text: &str| text.to_string();
        for (line, expected) in [
            ("", Line::Empty),
            ("add a dog ", Line::Instruction(text("add a dog"))),
            ("add /tmp/dog.png", Line::Instruction(text("add /tmp/dog.png"))),
            ("/tmp/a.png", Line::Open(text("/tmp/a.png"))),
            ("'/tmp/my dog.png'", Line::Open(text("/tmp/my dog.png"))),
            ("/tmp/my\\ dog.png", Line::Open(text("/tmp/my dog.png"))),
            ("[park.jpg]", Line::Open(text("park.jpg"))),
            ("/tmp/a.png needs a dog.png", Line::Instruction(text("/tmp/a.png needs a dog.png"))),
            ("/open my park.jpg", Line::Open(text("my park.jpg"))),
            ("/set steps 30", Line::Set(text("steps"), text("30"))),
            ("/seed 7", Line::Seed(Some(7))),
            ("/seed random", Line::Seed(None)),
            ("/variations 3", Line::Variations(3)),
            ("/save \"a b.png\"", Line::Save(text("a b.png"))),
            ("  /quit  ", Line::Quit),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_wrong_command_says_what_is_right() {
        for (line, words) in [
            ("/und", "/undo is one"),
            ("/xyz", "/help"),
            ("/set steps", "/set KEY VALUE"),
            ("/open", "/open FILE"),
            ("/undo 3", "`/undo`"),
            ("/seed x", "random"),
            ("/variations 1000", "up to 64"),
        ] {
            assert!(parse(line).unwrap_err().contains(words), "{line}: {:?}", parse(line));
        }
    }
}
