//! Things that the Playroom does not know, for the planner to name all the same.

use any2pix_llm::Piece;
use any2pix_nn::Generator;

use super::language::{AnswerPart, Example};
use crate::playroom::instruction::with_article;
use crate::playroom::sample::{AnswerPiece, Modality, ObjectSlot, Sample, SlotTarget};
use crate::playroom::splits::Split;

const THINGS: &str = include_str!("../../../../prompts/playroom/unknown_things.txt");
/// Every so-many-th thing is kept for evaluation.
const HELD_OUT_EVERY: usize = 5;

/// The name of a thing that is in no catalogue; in training sometimes one that is in no
/// dictionary either, so that copying letters is learned and not a longer list of words.
pub(super) fn name(split: Split, generator: &mut Generator) -> String {
    if split == Split::Train && generator.chance(0.4) {
        return invented(generator);
    }
    let held_out = split == Split::HeldOut;
    let things: Vec<&str> = THINGS
        .lines()
        .enumerate()
        .filter(|(i, _)| i.is_multiple_of(HELD_OUT_EVERY) == held_out)
        .map(|(_, name)| name)
        .collect();
    generator.choose(&things).map_or_else(|| invented(generator), ToString::to_string)
}

/// The names that training may see.
pub(super) fn familiar() -> impl Iterator<Item = &'static str> {
    let kept = |i: usize| i.is_multiple_of(HELD_OUT_EVERY);
    THINGS.lines().enumerate().filter(move |(i, _)| !kept(*i)).map(|(_, name)| name)
}

fn invented(generator: &mut Generator) -> String {
    const STARTS: &[&str] = &[
        "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z",
        "br", "ch", "cl", "cr", "dr", "fl", "gr", "pl", "pr", "sh", "sk", "sp", "st", "th", "tr",
    ];
    const MIDDLES: &[&str] = &["a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou"];
    const ENDS: &[&str] = &["", "", "n", "r", "l", "t", "ck", "m", "ng", "x", "p", "sh"];
    let mut word = String::new();
    for _ in 0..1 + generator.below(3) {
        for part in [STARTS, MIDDLES, ENDS] {
            word.push_str(generator.choose(part).copied().unwrap_or_default());
        }
    }
    word
}

/// The object of `sample` that could be any thing: named in words, exactly once.
fn replaceable(sample: &Sample) -> Option<&ObjectSlot> {
    let text = sample.instruction();
    let once = |slot: &&ObjectSlot| {
        slot.modality == Modality::Text && text.matches(slot.name.as_str()).count() == 1
    };
    sample.wanted.iter().chain(&sample.unwanted).find(once)
}

/// `sample` told about `thing` in place of a known object; `None` when no object is named in
/// words. Pictures do not show the thing, so what they would teach about it is left out.
pub(super) fn retell(sample: &Sample, example: &Example, thing: &str) -> Option<Example> {
    let slot = replaceable(sample)?;
    let replace = |text: &str, known: &str| {
        let (known_one, one) = (with_article(known), with_article(thing));
        if text.contains(&known_one) {
            text.replace(&known_one, &one)
        } else {
            text.replace(known, thing)
        }
    };
    let instruction = example.instruction.iter().map(|piece| match piece {
        Piece::Text(text) => Piece::Text(replace(text, &slot.name)),
        other => other.clone(),
    });
    let wanted = sample.wanted.iter().any(|w| w.concept == slot.concept);
    let concerns = |target: SlotTarget| match target {
        SlotTarget::Base => false,
        SlotTarget::Target => wanted,
        SlotTarget::Wanted(i) => sample.wanted[i].concept == slot.concept,
        SlotTarget::Unwanted(i) => sample.unwanted[i].concept == slot.concept,
    };
    let told = sample.assistant_text();
    let answer = example.answer.iter().zip(&told).map(|(part, told)| match (part, told) {
        (AnswerPart::Text(text), _) => {
            let named = |key: &str, name: &str| format!("{key}: {name}:");
            let mut text = text.replace(&with_article(&slot.concept), &with_article(thing));
            for key in ["additions", "removals"] {
                text = text.replace(&named(key, &slot.concept), &named(key, thing));
            }
            AnswerPart::Text(text)
        }
        (AnswerPart::Slot(_), AnswerPiece::Slot(target)) if concerns(*target) => {
            AnswerPart::Slot(None)
        }
        (part, _) => part.clone(),
    });
    Some(Example {
        instruction: instruction.collect(),
        references: example.references.clone(),
        answer: answer.collect(),
    })
}
