//! The steps of an instruction: "replace … and remove …" is two edits, the second of what the first
//! made. The embedded model plans one operation at a time.

mod list;

use std::sync::Arc;

use image::DynamicImage;

use crate::error::AgentError;
use crate::output;
use crate::request::{EditRequest, Instruction, Reference, Segment};
use crate::session::phrase;

/// Most steps of an instruction.
const MAX_STEPS: usize = 16;
/// Verbs that bring something, and that take something away. The model knows an instruction with
/// one of each.
const BRINGS: &[&str] = &["add", "put", "place", "insert", "include", "paste", "stick"];
const TAKES: &[&str] = &["remove", "delete", "erase"];
/// Other verbs.
const CHANGES: &[&str] = &[
    "replace",
    "swap",
    "exchange",
    "substitute",
    "change",
    "turn",
    "make",
    "transform",
    "recolour",
    "recolor",
    "paint",
    "draw",
    "move",
    "shift",
    "duplicate",
    "copy",
    "resize",
    "enlarge",
    "shrink",
];
/// Words between the end of a step and the verb of the next.
const LINKS: &[&str] = &["and", "then", "also", "please", "finally", "afterwards"];
/// Words that may mean something of the step before.
const POINTERS: &[&str] = &["it", "its", "them", "their", "there", "one", "instead", "both"];
/// Verbs after which "it" is the picture.
const OF_PICTURES: &[&str] = &["make", "turn"];

/// An edit that is a part of another one.
pub(crate) struct Step {
    pub(crate) request: EditRequest,
    /// The picture that it edits, among its references, if there are several steps.
    base: Option<usize>,
}

impl Step {
    /// Lets it edit what the step before made.
    pub(crate) fn goes_on_from(&mut self, picture: &DynamicImage) -> Result<(), AgentError> {
        let base = self.base.and_then(|index| self.request.references.get_mut(index));
        if let Some(base) = base {
            base.bytes = Arc::from(output::pixels(picture)?);
        }
        Ok(())
    }
}

/// What `request` asks for: its first step, and those after it. The first is itself, unless it
/// names a picture and says several things to do with it.
pub(crate) fn of(request: &EditRequest) -> Result<(Step, impl Iterator<Item = Step>), AgentError> {
    let base = phrase::edited(&request.instruction, &request.references);
    let clauses = base.map(|base| steps_of(&request.instruction, base)).unwrap_or_default();
    let steps = match base.filter(|_| clauses.len() > 1) {
        None => vec![Step { request: request.clone(), base: None }],
        Some(_) if clauses.len() > MAX_STEPS => {
            let (what, count) = ("steps of the instruction", clauses.len());
            return Err(AgentError::TooMany { what, count, limit: MAX_STEPS });
        }
        Some(base) => {
            let steps = clauses.into_iter().map(|clause| step(request, clause, base));
            steps.collect::<Result<_, _>>()?
        }
    };
    let mut steps = steps.into_iter();
    let first = steps.next().ok_or(AgentError::EmptyInstruction)?;
    Ok((first, steps))
}

fn step(request: &EditRequest, clause: Clause, base: usize) -> Result<Step, AgentError> {
    let names = &request.instruction.names;
    let names_base = clause.segments.contains(&Segment::Reference(base));
    let segments = clause.segments;
    let mut text = Instruction { segments, names: names.clone() }.to_string().trim().to_string();
    if !names_base {
        text = phrase::with_base(&text, &names[base]);
    }
    let instruction = Instruction::parse(&text)?;
    let of_name = |name: &String| request.references.iter().find(|r| r.name == *name).cloned();
    let references: Vec<Reference> = instruction.names.iter().filter_map(of_name).collect();
    let base = references.iter().position(|reference| reference.name == names[base]);
    let settings = request.settings.clone();
    Ok(Step { request: EditRequest { instruction, references, settings }, base })
}

/// A part of an instruction, from its verb to what links it to the next.
#[derive(Default)]
struct Clause {
    segments: Vec<Segment>,
    verb: Option<String>,
}

impl Clause {
    fn push(&mut self, text: &str) {
        if !text.is_empty() {
            self.segments.push(Segment::Text(text.to_string()));
        }
    }

    fn has_verb_of(&self, verbs: &[&str]) -> bool {
        self.verb.as_ref().is_some_and(|verb| verbs.contains(&verb.as_str()))
    }

    /// Whether it may speak of something that an earlier one named.
    fn points_back(&self) -> bool {
        self.segments.iter().any(|segment| {
            let Segment::Text(text) = segment else { return false };
            let text = text.to_lowercase();
            let words: Vec<&str> = words(&text).map(|(_, word)| word).collect();
            let is_picture = |i: usize| i > 0 && OF_PICTURES.contains(&words[i - 1]);
            (0..words.len()).any(|i| POINTERS.contains(&words[i]) && !is_picture(i))
        })
    }
}

/// Words, and where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_other = |c: char| !c.is_alphanumeric();
    let pieces = text.split_inclusive(is_other).scan(0, |end, piece| {
        let start = *end;
        *end += piece.len();
        Some((start, piece))
    });
    pieces
        .map(move |(start, piece)| (start, piece.trim_end_matches(is_other)))
        .filter(|(_, word)| !word.is_empty())
}

/// `head` without what links it to a verb that follows, if something does.
fn unlinked(head: &str) -> Option<&str> {
    let mut rest = head;
    loop {
        let bare = rest.trim_end().trim_end_matches([',', ';', '.', '!']).trim_end();
        let last = words(bare).last().filter(|(at, word)| {
            at + word.len() == bare.len() && LINKS.contains(&word.to_lowercase().as_str())
        });
        match last {
            Some((at, _)) => rest = &bare[..at],
            None => return (bare.len() < head.trim_end().len()).then_some(bare),
        }
    }
}

/// The parts of an instruction that have a verb each.
fn clauses(instruction: &Instruction) -> Vec<Clause> {
    let mut all = Vec::new();
    let mut clause = Clause::default();
    for segment in &instruction.segments {
        let Segment::Text(text) = segment else {
            clause.segments.push(segment.clone());
            continue;
        };
        let mut start = 0;
        for (at, word) in words(text) {
            let verb = word.to_lowercase();
            if ![BRINGS, TAKES, CHANGES].iter().any(|verbs| verbs.contains(&verb.as_str())) {
                continue;
            }
            if clause.verb.is_some() {
                let Some(head) = unlinked(&text[start..at]) else { continue };
                clause.push(head);
                all.push(std::mem::take(&mut clause));
                start = at;
            }
            clause.verb = Some(verb);
        }
        clause.push(&text[start..]);
    }
    all.push(clause);
    all
}

/// The clauses of an instruction that are done one after another; none if it stays whole. What the
/// model knows as one operation does, and so does what has parts that speak of each other.
fn steps_of(instruction: &Instruction, base: usize) -> Vec<Clause> {
    let is_one_operation = |a: &Clause, b: &Clause| a.has_verb_of(BRINGS) && b.has_verb_of(TAKES);
    let clauses = clauses(instruction);
    let verbs = clauses.len();
    let is_known = matches!(&*clauses, [a, b] if is_one_operation(a, b) || is_one_operation(b, a));
    let has_list = |clause: &Clause| clause.has_verb_of(BRINGS) || clause.has_verb_of(TAKES);
    let parts: Vec<Clause> = clauses
        .into_iter()
        .flat_map(|clause| if has_list(&clause) { list::of(clause, base) } else { vec![clause] })
        .collect();
    let is_list = parts.len() > verbs;
    let points_back = parts.iter().skip(1).any(Clause::points_back);
    if (is_known && !is_list) || points_back { Vec::new() } else { parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::EditSettings;

    fn texts(text: &str) -> Vec<String> {
        let instruction = Instruction::parse(text).unwrap();
        let reference = |name: &String| Reference {
            name: name.clone(),
            path: None,
            bytes: Arc::from(if name.ends_with("ogg") { &b"OggS"[..] } else { b"\x89PNG" }),
        };
        let references = instruction.names.iter().map(reference).collect();
        let settings = EditSettings::default();
        let request = EditRequest { instruction, references, settings };
        let (first, later) = of(&request).unwrap();
        let steps = std::iter::once(first).chain(later);
        steps.map(|step| step.request.instruction.to_string()).collect()
    }

    #[test]
    fn each_thing_to_do_is_a_step_on_the_same_picture() {
        let two = [
            "here is [street.png]. replace the car with [bike.jpg]",
            "remove the sign from [street.png]",
        ];
        assert_eq!(
            texts("replace the car with [bike.jpg] and remove the sign from [street.png]"),
            two
        );
        assert_eq!(
            texts(
                "In [a.png], move the dog left, then turn it into winter; add [x.ogg] and a cat."
            ),
            [
                "In [a.png], move the dog left",
                "here is [a.png]. turn it into winter",
                "here is [a.png]. add [x.ogg] and a cat."
            ]
        );
        assert_eq!(
            texts("add a dog on the left and put [b.png] on the right of [a.png]"),
            ["here is [a.png]. add a dog on the left", "put [b.png] on the right of [a.png]"]
        );
    }

    #[test]
    fn each_thing_of_a_list_is_a_step() {
        assert_eq!(
            texts("Add a cat, [x.ogg] and a red car to [a.png]"),
            ["Add a cat to [a.png]", "add [x.ogg] to [a.png]", "add a red car to [a.png]"]
        );
        assert_eq!(
            texts("put [x.ogg] on the left and [y.ogg] on the right of [a.png]"),
            ["here is [a.png]. put [x.ogg] on the left", "put [y.ogg] on the right of [a.png]"]
        );
        assert_eq!(
            texts("remove the dog and the black and white cat from [a.png]"),
            ["remove the dog from [a.png]", "remove the black and white cat from [a.png]"]
        );
        assert_eq!(
            texts("add a cat, a dog, and a car to [a.png] and remove the sign"),
            [
                "add a cat to [a.png]",
                "add a dog to [a.png]",
                "add a car to [a.png]",
                "here is [a.png]. remove the sign"
            ]
        );
    }

    #[test]
    fn one_operation_and_what_hangs_together_stay_whole() {
        for whole in [
            "add [x.ogg] and a cat to [a.png]",
            "remove the dog and add [x.ogg] to [a.png]",
            "add a cat to [a.png] and remove the dog",
            "duplicate the dog and move it to the left in [a.png]",
            "add a dog to [a.png] and paint its tail",
            "make a picture of a dog and add a cat",
            "put the change in place of the turn in [a.png]",
            "add a cat between the tree and a house to [a.png]",
            "add a black and white cat to [a.png]",
            "remove the dog from [a.png]",
        ] {
            assert_eq!(texts(whole), [whole]);
        }
    }

    #[test]
    fn there_is_an_end_to_steps() {
        let many = format!("{} to [a.png]", vec!["replace a dog with a cat"; 17].join(" and "));
        let instruction = Instruction::parse(&many).unwrap();
        let references =
            vec![Reference { name: "a.png".into(), path: None, bytes: Arc::from(&b"\x89PNG"[..]) }];
        let request = EditRequest { instruction, references, settings: EditSettings::default() };
        assert!(matches!(of(&request), Err(AgentError::TooMany { count: 17, .. })));
    }
}
