//! `EditPlan`: what the model understood, read from its answer by token id.

use serde::Serialize;

use crate::error::LlmError;
use crate::instruction::{Embedding, MediaKind};
use crate::tokenizer::{ControlTokens, Tokenizer};

/// What kind of edit is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Put objects in.
    Add,
    /// Take objects out.
    Remove,
    /// Put one object in another's place.
    Replace,
    /// Put one in and take another out.
    AddRemove,
    /// Change what is behind the objects.
    Background,
    /// Take the style of another picture.
    Style,
    /// Change weather, time of day or treatment.
    Look,
    /// Fit the mood of a piece of music.
    Music,
    /// Give an object another colour.
    Recolour,
    /// Make an object larger or smaller.
    Resize,
    /// Put an object elsewhere.
    Move,
    /// Repeat an object.
    Duplicate,
    /// Make a picture from nothing.
    Make,
}

impl Operation {
    /// All of them, with the word that stands for each in an answer.
    pub const WORDS: [(Self, &'static str); 13] = [
        (Self::Add, "add"),
        (Self::Remove, "remove"),
        (Self::Replace, "replace"),
        (Self::AddRemove, "add and remove"),
        (Self::Background, "background"),
        (Self::Style, "style"),
        (Self::Look, "look"),
        (Self::Music, "music"),
        (Self::Recolour, "recolour"),
        (Self::Resize, "resize"),
        (Self::Move, "move"),
        (Self::Duplicate, "duplicate"),
        (Self::Make, "make"),
    ];

    /// The word that stands for it in an answer.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(operation, _)| *operation == self).map_or("", |(_, word)| word)
    }

    /// The operation that `word` stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        let is_it = |(_, known): &&(Self, &str)| known.eq_ignore_ascii_case(word);
        Self::WORDS.iter().find(is_it).map(|(operation, _)| *operation)
    }
}

/// The picture that is edited.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Base {
    /// Which reference, from zero.
    pub reference: usize,
    /// The embedding that the model gave for it.
    #[serde(skip)]
    pub embedding: Embedding,
}

/// An object that an edit is about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subject {
    /// What the model calls it.
    pub name: String,
    /// The embedding that the model gave for it.
    #[serde(skip)]
    pub embedding: Embedding,
    /// The reference that shows or sounds it, from zero, when it is one.
    pub reference: Option<usize>,
}

/// A plan for an edit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EditPlan {
    /// The picture to edit; `None` makes one from nothing.
    pub base: Option<Base>,
    /// The embedding of the result.
    #[serde(skip)]
    pub gen_embedding: Embedding,
    /// The result in words.
    pub caption: String,
    /// What is done; published weights do not say.
    pub operation: Option<Operation>,
    /// Objects that shall be there.
    pub additions: Vec<Subject>,
    /// Objects that shall not.
    pub removals: Vec<Subject>,
    /// Words of place.
    pub place: Option<String>,
    /// Words of look.
    pub look: Option<String>,
    /// The answer, control tokens by name.
    pub text: String,
}

/// Cosine of two vectors; 0 when one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { (dot(a, b) / norms) as f32 } else { 0.0 }
}

/// Index of the vector with the largest cosine to `query`; the first among equals.
pub fn nearest<'a>(query: &[f32], among: impl Iterator<Item = &'a [f32]>) -> Option<usize> {
    let better = |best: (usize, f32), next: (usize, f32)| if next.1 > best.1 { next } else { best };
    among.map(|v| cosine(query, v)).enumerate().reduce(better).map(|(index, _)| index)
}

/// What a slot of the answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotKey {
    Additions,
    Removals,
}

/// An answer taken apart: text and the steps at which slots stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedAnswer {
    /// Step of the source's slot.
    pub base: Option<usize>,
    /// Step of the result's slot.
    pub gen_slot: usize,
    /// What stands in brackets before it.
    pub caption: String,
    /// Name and step of each wanted object.
    pub additions: Vec<(String, usize)>,
    /// Name and step of each unwanted object.
    pub removals: Vec<(String, usize)>,
    /// `operation:`, `place:` and `look:` in order, and whatever else has this form.
    pub words: Vec<(String, String)>,
}

impl ParsedAnswer {
    /// Takes an answer apart by token id. Whatever the ids, it returns.
    pub fn parse(
        ids: &[u32],
        control: &ControlTokens,
        decode: impl Fn(&[u32]) -> String,
    ) -> Result<Self, LlmError> {
        let end = ids.iter().position(|id| *id == control.eos).unwrap_or(ids.len());
        let ids = &ids[..end];
        let refuse = |missing| Err(LlmError::Refusal { missing, answer: decode(ids) });
        let Some(anchor) = ids.iter().rposition(|id| *id == control.im_gen) else {
            return refuse("<im_gen>");
        };
        let after = &ids[anchor + 1..];
        let Some(offset) = after.iter().position(|id| *id == control.video) else {
            return refuse("<video>");
        };
        let gen_slot = anchor + 1 + offset;
        let base = match ids.iter().position(|id| *id == control.base) {
            Some(at) if ids.get(at + 1) == Some(&control.video) => Some(at + 1),
            Some(_) => return refuse("<video>"),
            None if ids.contains(&control.base_null) => None,
            None => return refuse("<base>"),
        };
        let caption = bracketed(&decode(&after[..offset]));
        let mut parsed = Self { base, gen_slot, caption, ..Self::default() };
        parsed.read_sections(ids, control, decode);
        Ok(parsed)
    }

    fn read_sections(
        &mut self,
        ids: &[u32],
        control: &ControlTokens,
        decode: impl Fn(&[u32]) -> String,
    ) {
        let mut start = self.gen_slot + 1;
        let mut key = None;
        for (step, id) in ids.iter().enumerate().skip(start) {
            if *id == control.video {
                self.read_subject(&decode(&ids[start..step]), step, &mut key);
                start = step + 1;
            }
        }
        if let Some(rest) = ids.get(start..) {
            decode(rest).split('.').for_each(|section| self.read_words(section));
        }
    }

    /// `KEY:VALUE` sections, then `KEY:NAME:` (or `NAME:` under the key that came before) whose
    /// slot stands at `step`.
    fn read_subject(&mut self, text: &str, step: usize, key: &mut Option<SlotKey>) {
        let (sections, subject) = text.rsplit_once('.').unwrap_or(("", text));
        sections.split('.').for_each(|section| self.read_words(section));
        let subject = subject.trim().trim_end_matches(':');
        let (word, mut name) = subject.split_once(':').unwrap_or(("", subject));
        match word.trim().to_ascii_lowercase().as_str() {
            "additions" => *key = Some(SlotKey::Additions),
            "removals" => *key = Some(SlotKey::Removals),
            _ => name = subject,
        }
        let name = name.trim_matches(|c: char| c.is_whitespace() || c == ',').to_string();
        match key {
            Some(SlotKey::Removals) => self.removals.push((name, step)),
            Some(SlotKey::Additions) => self.additions.push((name, step)),
            None => tracing::debug!(%name, "a slot without `additions:` or `removals:` is dropped"),
        }
    }

    fn read_words(&mut self, section: &str) {
        if let Some((key, value)) = section.split_once(':') {
            self.words.push((key.trim().to_ascii_lowercase(), value.trim().to_string()));
        }
    }

    /// The last value given for `key`.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.words.iter().rev().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }
}

/// The text between the first `[` and the next `]`, or all of it when there is no such pair.
fn bracketed(text: &str) -> String {
    let inside = text.split_once('[').map_or(text, |(_, rest)| rest);
    inside.split_once(']').map_or(inside, |(caption, _)| caption).trim().to_string()
}

/// The references that a plan may point to.
pub struct References<'a> {
    /// Their embeddings.
    pub embeddings: &'a [Embedding],
    /// What they are.
    pub kinds: &'a [MediaKind],
    /// How often the instruction mentions each: one subject for one mention.
    pub mentions: &'a [usize],
    /// A subject's slot must be at least this close to a reference to stand for it.
    pub min_cosine: f32,
}

impl References<'_> {
    /// The picture nearest to `slot`.
    fn base(&self, slot: &[f32]) -> Option<usize> {
        let images: Vec<usize> =
            (0..self.kinds.len()).filter(|i| self.kinds[*i] == MediaKind::Image).collect();
        let found = nearest(slot, images.iter().map(|i| self.embeddings[*i].as_slice()))?;
        images.get(found).copied()
    }

    /// The references that subjects stand for, which are near enough and not the source itself:
    /// the nearest pair first, and each reference once for each of its mentions.
    fn subjects(&self, slots: &[&Embedding], base: Option<usize>) -> Vec<Option<usize>> {
        let mut pairs = Vec::new();
        for (slot, embedding) in slots.iter().enumerate() {
            for (reference, other) in self.embeddings.iter().enumerate() {
                let likeness = cosine(embedding, other);
                if Some(reference) != base && likeness >= self.min_cosine {
                    pairs.push((likeness, slot, reference));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut found, mut left) = (vec![None; slots.len()], self.mentions.to_vec());
        for (_, slot, reference) in pairs {
            if found[slot].is_none() && left[reference] > 0 {
                found[slot] = Some(reference);
                left[reference] -= 1;
            }
        }
        found
    }
}

impl EditPlan {
    /// The plan of an answer: `ids`, the embedding that each step predicts, and the references.
    pub fn read(
        ids: &[u32],
        slots: impl Fn(usize) -> Result<Embedding, LlmError>,
        tokenizer: &Tokenizer,
        references: &References,
    ) -> Result<Self, LlmError> {
        let parsed = ParsedAnswer::parse(ids, &tokenizer.control(), |ids| tokenizer.decode(ids))?;
        let base = match parsed.base {
            Some(step) => {
                let embedding = slots(step)?;
                let reference = references.base(&embedding).ok_or(LlmError::NoBaseImage)?;
                Some(Base { reference, embedding })
            }
            None => None,
        };
        let source = base.as_ref().map(|b| b.reference);
        let named = parsed.additions.iter().chain(&parsed.removals);
        let mut subjects = named
            .map(|(name, step)| {
                Ok(Subject { name: name.clone(), embedding: slots(*step)?, reference: None })
            })
            .collect::<Result<Vec<Subject>, LlmError>>()?;
        let embeddings: Vec<&Embedding> = subjects.iter().map(|s| &s.embedding).collect();
        let found = references.subjects(&embeddings, source);
        subjects.iter_mut().zip(found).for_each(|(subject, found)| subject.reference = found);
        let removals = subjects.split_off(parsed.additions.len());
        Ok(Self {
            base,
            gen_embedding: slots(parsed.gen_slot)?,
            operation: parsed.word("operation").and_then(Operation::from_word),
            additions: subjects,
            removals,
            place: parsed.word("place").map(String::from),
            look: parsed.word("look").map(String::from),
            caption: parsed.caption,
            text: tokenizer.decode(ids),
        })
    }
}
