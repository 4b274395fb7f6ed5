//! Text only: the same model, told in words what the references show or sound like.

use any2pix_agent::request::escaped;
use any2pix_agent::{EditRequest, Instruction, Pipeline, Segment, Silent};

use super::{Edited, System};
use crate::suite::Item;
use crate::{EvalError, Result};

/// What people say before a reference and would not before its name, one a line.
const CARRIERS: &str = include_str!("../../../../prompts/evaluation/carriers.txt");
/// After these a name needs no article.
const DETERMINERS: [&str; 8] = ["the", "a", "an", "this", "that", "my", "some", "its"];

/// A pipeline whose references, but for the picture that is edited, are replaced by words.
pub struct TextOnly<'a>(pub &'a dyn Pipeline);

impl System for TextOnly<'_> {
    fn edit(&self, item: &Item, request: &EditRequest) -> Result<Edited> {
        Ok(self.0.edit(&in_words(item, request)?, &mut Silent)?.into())
    }

    fn composes(&self) -> bool {
        true
    }
}

/// The words for a reference: its object's name, as that stands in the instruction, or, for one
/// that is no object, the look that it stands for.
fn words_for(item: &Item, name: &str) -> Option<(String, bool)> {
    let is_it = |subject: &&crate::suite::Subject| subject.reference.as_deref() == Some(name);
    if let Some(subject) = item.wanted.iter().find(is_it) {
        let vowel = subject.concept.starts_with(['a', 'e', 'i', 'o', 'u']);
        let article = if vowel { "an" } else { "a" };
        return Some((format!("{article} {}", subject.concept), true));
    }
    if let Some(subject) = item.unwanted.iter().find(is_it) {
        return Some((format!("the {}", subject.concept), true));
    }
    item.look.clone().map(|look| (look, false))
}

/// `text` without the carrier at its end, if it has one.
fn without_carrier(text: &str) -> &str {
    let lower = text.to_ascii_lowercase();
    let carrier = CARRIERS.lines().filter(|line| !line.is_empty()).find(|carrier| {
        let start = lower.strip_suffix(&format!("{carrier} "));
        start.is_some_and(|start| start.is_empty() || start.ends_with(' '))
    });
    carrier.map_or(text, |carrier| &text[..text.len() - carrier.len() - 1])
}

/// Whether the object of `words`, which begin with an article, was named just now: "the dog [x]".
fn is_said(text: &str, words: &str) -> bool {
    let name = words.split_once(' ').map_or(words, |(_, name)| name);
    let before = text.trim_end().strip_suffix(name);
    before.is_some_and(|before| before.is_empty() || before.ends_with(' '))
}

/// The request with words instead of every reference but the base.
fn in_words(item: &Item, request: &EditRequest) -> Result<EditRequest> {
    let mut text = String::new();
    for segment in &request.instruction.segments {
        match segment {
            Segment::Text(words) => text.push_str(&escaped(words)),
            Segment::Reference(index) => {
                let name = request.instruction.names.get(*index).map_or("", String::as_str);
                if item.base.as_deref() == Some(name) {
                    text.push_str(&format!("[{}]", escaped(name)));
                    continue;
                }
                let (words, is_object) = words_for(item, name).ok_or_else(|| {
                    EvalError::inapplicable(format!("there are no words for [{name}]"))
                })?;
                let kept = without_carrier(&text).len();
                text.truncate(kept);
                if is_object && is_said(&text, &words) {
                    text.truncate(text.trim_end().len());
                    continue;
                }
                let last = text.split_whitespace().next_back().unwrap_or("");
                let has_article = DETERMINERS.iter().any(|word| last.eq_ignore_ascii_case(word));
                let bare = words.split_once(' ').filter(|_| is_object && has_article);
                text.push_str(&escaped(bare.map_or(words.as_str(), |(_, name)| name)));
            }
        }
    }
    let instruction = Instruction::parse(&text)?;
    let bound = |name: &String| request.references.iter().find(|r| r.name == *name).cloned();
    let references = instruction.names.iter().filter_map(bound).collect();
    Ok(EditRequest { instruction, references, settings: request.settings.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use any2pix_agent::{EditSettings, Reference};

    fn item(instruction: &str) -> Item {
        let text = serde_json::json!({
            "id": "1", "kind": "add", "operation": "add", "instruction": instruction,
            "base": "b.png", "target": "t.png", "look": "rain",
            "subjects": [
                {"name": "owl", "role": "add", "modality": "sound", "reference": "o.wav",
                    "bbox": [0, 0, 1, 1]},
                {"name": "dog", "role": "remove", "modality": "image", "reference": "d.png",
                    "bbox": [0, 0, 1, 1]},
            ],
        });
        serde_json::from_value(text).unwrap()
    }

    fn said(text: &str) -> String {
        let instruction = Instruction::parse(text).unwrap();
        let reference =
            |name: &String| Reference { name: name.clone(), path: None, bytes: Vec::new().into() };
        let references = instruction.names.iter().map(reference).collect();
        let request = EditRequest { instruction, references, settings: EditSettings::default() };
        let said = in_words(&item(text), &request).unwrap();
        assert_eq!(said.references.len(), said.instruction.names.len());
        said.instruction.to_string()
    }

    #[test]
    fn references_become_words_and_the_base_stays() {
        for (text, expected) in [
            ("add [o.wav] to [b.png]", "add an owl to [b.png]"),
            ("put the [o.wav] into [b.png]", "put the owl into [b.png]"),
            ("Add what you hear in [o.wav] to [b.png]", "Add an owl to [b.png]"),
            ("What you hear in [o.wav], in [b.png]", "an owl, in [b.png]"),
            ("remove the one from [d.png] in [b.png]", "remove the dog in [b.png]"),
            ("make [b.png] fit the weather of [w.wav]", "make [b.png] fit the weather of rain"),
            ("add the owl [o.wav] to [b.png]", "add the owl to [b.png]"),
            ("add [o.wav] \\[now\\] to [b.png]", "add an owl \\[now\\] to [b.png]"),
        ] {
            assert_eq!(said(text), expected);
        }
    }
}
