//! Lists of things: "add a cat, a dog and a car to …" is a step for each of them. The embedded model
//! knows two things that are brought without words of place, and one of any other kind.

use super::{Clause, TAKES, words};
use crate::request::Segment;

/// Words with which a thing begins that is brought, and one that is taken away.
const BROUGHT: &[&str] = &["a", "an", "another", "some"];
const TAKEN: &[&str] = &["the", "a", "an", "all", "every", "any"];
/// Words that begin what is said of a thing's place, or of the picture.
const PLACES: &[&str] = &[
    "to", "into", "onto", "in", "inside", "on", "at", "from", "of", "off", "near", "next",
    "beside", "behind", "under", "below", "above", "over",
];
/// A word after which "and" joins two places.
const PAIR: &str = "between";

/// Where a word begins: its segment, and the byte there.
type At = (usize, usize);

/// A clause for each of the things that its verb has, or the clause itself.
pub(super) fn of(clause: Clause, base: usize) -> Vec<Clause> {
    let items = items(&clause, base);
    let placed = items.first().is_some_and(|first| place(first).is_some());
    let known = if clause.has_verb_of(TAKES) { 1 } else { 2 };
    if items.len() <= known && !(items.len() == 2 && placed) {
        return vec![clause];
    }
    // "a cat and a dog on the left": the last one's place is everyone's who has none.
    let tail = items.last().and_then(|last| Some(after(last, place(last)?))).unwrap_or_default();
    let (verb, count) = (clause.verb, items.len());
    items
        .into_iter()
        .enumerate()
        .map(|(index, mut segments)| {
            if index + 1 < count && place(&segments).is_none() {
                segments.push(Segment::Text(" ".into()));
                segments.extend(tail.iter().cloned());
            }
            if let (Some(verb), 1..) = (&verb, index) {
                segments.insert(0, Segment::Text(format!("{verb} ")));
            }
            Clause { segments, verb: verb.clone() }
        })
        .collect()
}

/// The parts of a clause that have a thing each; the first has the verb, too.
fn items(clause: &Clause, base: usize) -> Vec<Vec<Segment>> {
    let openers = if clause.has_verb_of(TAKES) { TAKEN } else { BROUGHT };
    let (mut items, mut start) = (Vec::new(), (0, 0));
    // Where a comma or "and" ended the thing before, if nothing has come since.
    let mut end: Option<At> = None;
    let mut seen_verb = false;
    for (index, segment) in clause.segments.iter().enumerate() {
        let Segment::Text(text) = segment else {
            if let (Some(end), false) = (end.take(), *segment == Segment::Reference(base)) {
                items.push(between(&clause.segments, start, end));
                start = (index, 0);
            }
            continue;
        };
        let mut last = 0;
        for (at, word) in words(text) {
            let word = word.to_lowercase();
            if word == PAIR {
                return Vec::new();
            }
            if seen_verb && text[last..at].contains(',') {
                end.get_or_insert((index, last));
            }
            if seen_verb && word == "and" {
                end.get_or_insert((index, last));
            } else if let Some(end) = end.take().filter(|_| openers.contains(&word.as_str())) {
                items.push(between(&clause.segments, start, end));
                start = (index, at);
            }
            seen_verb |= clause.verb.as_ref() == Some(&word);
            last = at + word.len();
        }
        if seen_verb && text[last..].contains(',') {
            end.get_or_insert((index, last));
        }
    }
    items.push(after(&clause.segments, start));
    items
}

/// Where the place of a thing begins.
fn place(item: &[Segment]) -> Option<At> {
    item.iter().enumerate().find_map(|(index, segment)| {
        let Segment::Text(text) = segment else { return None };
        let is_place = |word: &str| PLACES.contains(&word.to_lowercase().as_str());
        words(text).find(|(_, word)| is_place(word)).map(|(at, _)| (index, at))
    })
}

fn after(segments: &[Segment], start: At) -> Vec<Segment> {
    between(segments, start, (segments.len(), 0))
}

/// What lies from `start` to `end`.
fn between(segments: &[Segment], start: At, end: At) -> Vec<Segment> {
    let mut part = Vec::new();
    for (index, segment) in segments.iter().enumerate().take(end.0 + 1).skip(start.0) {
        match segment {
            Segment::Text(text) => {
                let to = if index == end.0 { end.1 } else { text.len() };
                let from = if index == start.0 { start.1 } else { 0 };
                part.push(Segment::Text(text[from..to.max(from)].to_string()));
            }
            reference if (index, 0) != end => part.push(reference.clone()),
            _ => {}
        }
    }
    part
}
