//! Instructions: templates with slots, ways to name things, slips of the pen.

use std::collections::BTreeMap;

use any2pix_nn::Generator;

use super::sample::Piece;
use super::splits::{Split, held_out_templates};

macro_rules! families {
    ($($name:literal),+) => {
        &[$(($name, include_str!(concat!("../../../../prompts/playroom/", $name, ".txt")))),+]
    };
}

const FAMILIES: &[(&str, &str)] = families![
    "add",
    "remove",
    "replace",
    "add_remove",
    "add_two",
    "background",
    "style",
    "look",
    "look_sound",
    "music",
    "recolour",
    "resize",
    "move",
    "duplicate",
    "generate"
];

/// A run of an instruction.
pub type Phrase = Vec<Piece>;

/// What a slot becomes: as a whole, and bare (without its article).
#[derive(Clone, Debug, Default)]
pub struct Filling {
    /// As a whole: "the dog".
    pub whole: Phrase,
    /// Without its article: "dog".
    pub bare: Phrase,
}

impl Filling {
    /// Words that are the same in both forms.
    pub fn words(text: impl Into<String>) -> Self {
        let whole = vec![Piece::Text(text.into())];
        Self { bare: whole.clone(), whole }
    }
}

#[derive(Clone, Debug)]
enum Part {
    Words(String),
    Slot { name: String, bare: bool },
}

/// One way to say an instruction.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    held_out: bool,
}

/// Begins templates that came after the split was made: they follow all others of their family and
/// are never held out, so that what was held out stays held out.
const TRAINING_ONLY: &str = "+ ";

/// All templates by family.
#[derive(Clone, Debug)]
pub struct Templates {
    families: BTreeMap<&'static str, Vec<Template>>,
}

impl Templates {
    /// The templates compiled into this crate.
    pub fn load() -> Self {
        let families = FAMILIES
            .iter()
            .map(|&(name, text)| {
                let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
                let candidates = lines.iter().filter(|line| !line.starts_with(TRAINING_ONLY));
                let held_out = held_out_templates(name, candidates.count());
                let templates = lines
                    .iter()
                    .enumerate()
                    .map(|(i, line)| Template {
                        parts: parse(line.strip_prefix(TRAINING_ONLY).unwrap_or(line)),
                        held_out: held_out.contains(&i),
                    })
                    .collect();
                (name, templates)
            })
            .collect();
        Self { families }
    }

    /// An instruction of `family` from this part of the templates; `fillings` by slot name.
    pub fn say(
        &self,
        family: &str,
        split: Split,
        fillings: &BTreeMap<&'static str, Filling>,
        generator: &mut Generator,
    ) -> Phrase {
        let wanted = |template: &&Template| template.held_out == (split == Split::HeldOut);
        let family = self.families.get(family).map_or(&[][..], Vec::as_slice);
        let usable: Vec<&Template> = family.iter().filter(wanted).collect();
        let mut said = Phrase::new();
        let Some(template) = generator.choose(&usable) else { return said };
        for part in &template.parts {
            match part {
                Part::Words(words) => said.push(Piece::Text(words.clone())),
                Part::Slot { name, bare } => {
                    if let Some(filling) = fillings.get(name.as_str()) {
                        let phrase = if *bare { &filling.bare } else { &filling.whole };
                        said.extend(phrase.iter().cloned());
                    }
                }
            }
        }
        polish(merged(said), generator)
    }
}

fn parse(line: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = line;
    while let Some((words, slot_and_rest)) = rest.split_once('{') {
        if !words.is_empty() {
            parts.push(Part::Words(words.to_owned()));
        }
        let (slot, after) = slot_and_rest.split_once('}').unwrap_or((slot_and_rest, ""));
        let (name, bare) = match slot.split_once(':') {
            Some((name, _)) => (name, true),
            None => (slot, false),
        };
        parts.push(Part::Slot { name: name.to_owned(), bare });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Words(rest.to_owned()));
    }
    parts
}

/// Joins neighbouring words.
fn merged(phrase: Phrase) -> Phrase {
    let mut result = Phrase::new();
    for piece in phrase {
        match (result.last_mut(), piece) {
            (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
            (_, piece) => result.push(piece),
        }
    }
    result
}

/// What people say before and after an instruction, one a line.
const OPENINGS: &str = include_str!("../../../../prompts/playroom/openings.txt");
const CLOSINGS: &str = include_str!("../../../../prompts/playroom/closings.txt");

fn lines(text: &'static str) -> Vec<&'static str> {
    text.lines().collect()
}

/// Courtesies, capital letters, full stops and slips of the pen, as people make them.
fn polish(mut phrase: Phrase, generator: &mut Generator) -> Phrase {
    if generator.chance(0.12)
        && let (Some(Piece::Text(text)), Some(opening)) =
            (phrase.first_mut(), generator.choose(&lines(OPENINGS)))
    {
        text.insert_str(0, opening);
    }
    if generator.chance(0.1)
        && let Some(closing) = generator.choose(&lines(CLOSINGS))
    {
        phrase.push(Piece::Text((*closing).to_owned()));
        phrase = merged(phrase);
    }
    if generator.chance(0.12) {
        let texts: Vec<usize> =
            (0..phrase.len()).filter(|&i| matches!(phrase[i], Piece::Text(_))).collect();
        if let Some(&i) = generator.choose(&texts)
            && let Piece::Text(text) = &mut phrase[i]
        {
            *text = misspell(text, generator);
        }
    }
    if generator.chance(0.4)
        && let Some(Piece::Text(text)) = phrase.first_mut()
        && let Some(first) = text.chars().next()
    {
        let capital: String = first.to_uppercase().collect();
        text.replace_range(..first.len_utf8(), &capital);
    }
    if generator.chance(0.3) {
        let stop = if generator.chance(0.8) { "." } else { "!" };
        match phrase.last_mut() {
            Some(Piece::Text(text)) => text.push_str(stop),
            _ => phrase.push(Piece::Text(stop.to_owned())),
        }
    }
    phrase
}

/// One letter of one longer word is doubled, dropped or swapped with its neighbour.
fn misspell(text: &str, generator: &mut Generator) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let long: Vec<usize> = (0..words.len())
        .filter(|&i| words[i].len() >= 4 && words[i].bytes().all(|b| b.is_ascii_alphabetic()))
        .collect();
    if let Some(&i) = generator.choose(&long) {
        let mut letters: Vec<char> = words[i].chars().collect();
        let at = 1 + generator.below(letters.len() - 2);
        match generator.below(3) {
            0 => letters.insert(at, letters[at]),
            1 => drop(letters.remove(at)),
            _ => letters.swap(at, at + 1),
        }
        words[i] = letters.into_iter().collect();
    }
    words.join(" ")
}

/// `name` with the indefinite article that its sound asks for.
pub fn with_article(name: &str) -> String {
    let plural = matches!(name, "scissors" | "maracas" | "broccoli" | "shakers");
    let vowel = name.starts_with(['a', 'e', 'i', 'o']) || name.starts_with("um");
    match (plural, vowel) {
        (true, _) => format!("some {name}"),
        (false, true) => format!("an {name}"),
        (false, false) => format!("a {name}"),
    }
}

/// Whether an object is to come or is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is to come.
    Wanted,
    /// It is there.
    Existing,
}

/// An object in words.
pub fn named(name: &str, role: Role, generator: &mut Generator) -> Filling {
    let whole = match (role, generator.below(10)) {
        (Role::Wanted, 0..7) => with_article(name),
        (Role::Wanted, 7) => format!("the {name}"),
        (Role::Existing, 0..8) => format!("the {name}"),
        (Role::Existing, 8) => format!("that {name}"),
        _ => name.to_owned(),
    };
    Filling { whole: vec![Piece::Text(whole)], bare: vec![Piece::Text(name.to_owned())] }
}

/// An object shown in a picture.
pub fn shown(media: usize, name: &str, generator: &mut Generator) -> Filling {
    const WAYS: &[&str] =
        &["", "", "", "the object in ", "the thing in ", "what is in ", "this ", "the one from "];
    let before = if generator.chance(0.15) {
        format!("the {name} ")
    } else {
        (*generator.choose(WAYS).unwrap_or(&"")).to_owned()
    };
    referring(before, media)
}

/// An object heard in a sound.
pub fn heard(media: usize, generator: &mut Generator) -> Filling {
    const WAYS: &[&str] = &[
        "",
        "",
        "",
        "what you hear in ",
        "what makes the sound ",
        "the thing that sounds like ",
        "the source of ",
        "whatever sounds like ",
    ];
    referring((*generator.choose(WAYS).unwrap_or(&"")).to_owned(), media)
}

/// The picture that is edited.
pub fn base(media: usize, generator: &mut Generator) -> Filling {
    const WAYS: &[&str] = &[
        "",
        "",
        "",
        "the picture ",
        "the image ",
        "this photo ",
        "this picture ",
        "my photo ",
        "image ",
    ];
    referring((*generator.choose(WAYS).unwrap_or(&"")).to_owned(), media)
}

/// A reference after some words.
pub fn referring(before: String, media: usize) -> Filling {
    let mut whole = Phrase::new();
    if !before.is_empty() {
        whole.push(Piece::Text(before));
    }
    whole.push(Piece::Media(media));
    Filling { whole, bare: vec![Piece::Media(media)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_thirty_ways_and_known_slots() {
        let known = [
            "wanted", "unwanted", "second", "object", "base", "place", "look", "scene", "style",
            "sound", "music",
        ];
        for (family, templates) in &Templates::load().families {
            assert!(templates.len() >= 30, "{family}: {}", templates.len());
            let held_out = templates.iter().filter(|template| template.held_out).count();
            assert!(held_out >= 6 && held_out <= templates.len() / 5, "{family}");
            for template in templates {
                let slots: Vec<&str> = template
                    .parts
                    .iter()
                    .filter_map(|part| match part {
                        Part::Slot { name, .. } => Some(name.as_str()),
                        Part::Words(_) => None,
                    })
                    .collect();
                assert!(slots.iter().all(|slot| known.contains(slot)), "{family}: {slots:?}");
                assert_eq!(slots.contains(&"base"), *family != "generate", "{family}: {slots:?}");
            }
        }
    }
}
