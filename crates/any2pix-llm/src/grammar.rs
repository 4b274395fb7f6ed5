//! `PlanGrammar`: the finite automaton that an answer walks, so that every answer is a plan.

use serde::Deserialize;

use crate::generation::Constraint;
use crate::tokenizer::{ControlTokens, Tokenizer, byte_of};

/// One kind of section that may follow the result's slot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SectionRule {
    /// What stands before the colon.
    pub key: String,
    /// The value is an object: `NAME:<video>`, any number of times.
    #[serde(default)]
    pub slot: bool,
    /// The values there are; none means any text without a full stop.
    #[serde(default)]
    pub values: Vec<String>,
}

/// The form of an answer:
/// `PREAMBLE(<base><video>|<base_null>)<im_gen_start><im_gen>[CAPTION]<video>SECTION*</s>`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PlanGrammar {
    /// Sections, in any order; one without a slot comes at most once.
    pub sections: Vec<SectionRule>,
    /// After an object, a further `NAME:<video>.` needs no key of its own.
    #[serde(default)]
    pub names_repeat: bool,
    /// Longest caption, in characters.
    #[serde(default = "default_caption")]
    pub max_caption: usize,
    /// Longest name, in characters.
    #[serde(default = "default_name")]
    pub max_name: usize,
    /// Most objects.
    #[serde(default = "default_subjects")]
    pub max_subjects: usize,
}

fn default_caption() -> usize {
    120
}

fn default_name() -> usize {
    32
}

fn default_subjects() -> usize {
    4
}

impl PlanGrammar {
    /// What the published weights were trained to write.
    pub fn published() -> Self {
        Self {
            sections: vec![SectionRule { key: "additions".into(), slot: true, values: Vec::new() }],
            names_repeat: true,
            max_caption: 300,
            max_name: 80,
            max_subjects: default_subjects(),
        }
    }

    /// The spelling that the grammar has for `value` of section `key`; a free value as it is.
    pub fn canonical(&self, key: &str, value: &str) -> String {
        let rule = self.sections.iter().find(|rule| rule.key == key);
        let known = rule.and_then(|r| r.values.iter().find(|v| v.eq_ignore_ascii_case(value)));
        known.map_or(value, String::as_str).to_string()
    }

    /// No answer has more tokens than this, as no token is empty.
    pub fn longest_answer(&self, preamble: &str) -> usize {
        let key = self.sections.iter().map(|s| s.key.chars().count()).max().unwrap_or(0);
        let words: usize = self
            .sections
            .iter()
            .filter(|s| !s.slot)
            .map(|s| {
                let longest = s.values.iter().map(|v| v.chars().count()).max();
                s.key.chars().count() + longest.unwrap_or(self.max_name) + 4
            })
            .sum();
        let head = preamble.chars().count() + 10 + self.max_caption;
        head + self.max_subjects * (key + self.max_name + 6) + words
    }
}

/// Where in an answer we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Preamble,
    Base,
    BaseSlot,
    GenStart,
    Gen,
    CaptionOpen,
    Caption,
    CaptionClosed,
    Section,
    Name,
    NameSlot,
    NameEnd,
    Value(usize),
    End,
}

/// A place with the text that was written since it was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    place: Place,
    text: String,
    /// Bit per section without a slot that was written.
    used: u64,
    subjects: usize,
    /// Which of the known names were written.
    named: Vec<usize>,
}

impl State {
    fn enter(&self, place: Place) -> Self {
        Self { place, text: String::new(), ..self.clone() }
    }

    fn push(&self, c: char) -> Self {
        let mut next = self.clone();
        next.text.push(c);
        next
    }
}

/// An answer in the making.
pub struct PlanConstraint<'a> {
    grammar: &'a PlanGrammar,
    names: &'a [String],
    preamble: Vec<char>,
    tokenizer: &'a Tokenizer,
    control: ControlTokens,
    state: State,
}

fn starts_with(whole: &str, start: &str) -> bool {
    whole.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

impl<'a> PlanConstraint<'a> {
    /// At the beginning of an answer whose objects have `names`, each at most once; any names, when
    /// there are none.
    pub fn new(
        grammar: &'a PlanGrammar,
        names: &'a [String],
        preamble: &str,
        tokenizer: &'a Tokenizer,
    ) -> Self {
        let place = if preamble.is_empty() { Place::Base } else { Place::Preamble };
        Self {
            grammar,
            names,
            preamble: preamble.chars().collect(),
            tokenizer,
            control: tokenizer.control(),
            state: State { place, text: String::new(), used: 0, subjects: 0, named: Vec::new() },
        }
    }

    /// The answer is whole.
    pub fn is_complete(&self) -> bool {
        self.state.place == Place::End
    }

    fn after(&self, state: &State, token: u32) -> Option<State> {
        let Some(piece) = self.tokenizer.piece(token) else {
            return self.after_control(state, token);
        };
        match byte_of(piece) {
            // A byte of a longer character is some character that means nothing here.
            Some(byte) => {
                let c =
                    if byte.is_ascii() { char::from(byte) } else { char::REPLACEMENT_CHARACTER };
                self.after_char(state, c)
            }
            None if piece.is_empty() => None,
            None => piece.chars().try_fold(state.clone(), |state, c| self.after_char(&state, c)),
        }
    }

    fn after_control(&self, state: &State, token: u32) -> Option<State> {
        let control = &self.control;
        let text_is_blank = state.text.trim().is_empty();
        let next = match state.place {
            Place::Base if token == control.base => Place::BaseSlot,
            Place::Base if token == control.base_null => Place::GenStart,
            Place::BaseSlot if token == control.video => Place::GenStart,
            Place::GenStart if token == control.im_gen_start => Place::Gen,
            Place::Gen if token == control.im_gen => Place::CaptionOpen,
            Place::CaptionClosed if token == control.video => Place::Section,
            Place::NameSlot if token == control.video => Place::NameEnd,
            Place::Section if token == control.eos && text_is_blank => Place::End,
            _ => return None,
        };
        Some(state.enter(next))
    }

    fn after_char(&self, state: &State, c: char) -> Option<State> {
        // One space may stand where the tokenizer begins a stretch of text.
        let may_skip = c == ' ' && state.text.is_empty();
        match state.place {
            Place::Preamble => self.after_preamble(state, c),
            Place::CaptionOpen if c == '[' => Some(state.enter(Place::Caption)),
            Place::CaptionOpen | Place::CaptionClosed if may_skip => Some(state.push(c)),
            Place::Caption => match c {
                ']' if !state.text.trim().is_empty() => Some(state.enter(Place::CaptionClosed)),
                ']' | '[' => None,
                _ if c.is_control() || state.text.chars().count() >= self.grammar.max_caption => {
                    None
                }
                _ => Some(state.push(c)),
            },
            Place::Section | Place::NameEnd if may_skip => Some(state.push(c)),
            Place::Section => self.after_key(state, c),
            Place::Name => self.after_name(state, c),
            Place::NameEnd if c == '.' => Some(state.enter(Place::Section)),
            Place::Value(index) => self.after_value(state, index, c),
            _ => None,
        }
    }

    fn after_preamble(&self, state: &State, c: char) -> Option<State> {
        let written = state.text.chars().count();
        if c == ' ' && written == 0 && self.preamble.first() != Some(&' ') && state.used == 0 {
            return Some(State { used: 1, ..state.clone() });
        }
        if !self.preamble.get(written)?.eq_ignore_ascii_case(&c) {
            return None;
        }
        if written + 1 == self.preamble.len() {
            return Some(State { used: 0, ..state.enter(Place::Base) });
        }
        Some(state.push(c))
    }

    fn after_key(&self, state: &State, c: char) -> Option<State> {
        let written = state.text.trim_start();
        let open = |index: usize| {
            let rule = &self.grammar.sections[index];
            if rule.slot {
                state.subjects < self.grammar.max_subjects && self.has_names(state)
            } else {
                state.used & (1 << index.min(63)) == 0
            }
        };
        let may_repeat = self.grammar.names_repeat
            && self.names.is_empty()
            && state.subjects > 0
            && state.subjects < self.grammar.max_subjects;
        if c == ':' {
            let rules = self.grammar.sections.iter();
            let found =
                rules.enumerate().find(|(i, r)| open(*i) && r.key.eq_ignore_ascii_case(written));
            return match found {
                Some((_, rule)) if rule.slot => Some(state.enter(Place::Name)),
                Some((index, _)) => Some(State {
                    used: state.used | 1 << index.min(63),
                    ..state.enter(Place::Value(index))
                }),
                None if may_repeat && !written.is_empty() => self.close_name(state),
                None => None,
            };
        }
        let next = format!("{written}{c}");
        let is_key = (0..self.grammar.sections.len())
            .any(|i| open(i) && starts_with(&self.grammar.sections[i].key, &next));
        let is_name =
            may_repeat && is_name_char(c) && next.chars().count() <= self.grammar.max_name;
        (is_key || is_name).then(|| state.push(c))
    }

    /// The known names that may still be written.
    fn open_names<'s>(&'s self, state: &'s State) -> impl Iterator<Item = (usize, &'s String)> {
        self.names.iter().enumerate().filter(|(index, _)| !state.named.contains(index))
    }

    fn has_names(&self, state: &State) -> bool {
        self.names.is_empty() || self.open_names(state).next().is_some()
    }

    fn after_name(&self, state: &State, c: char) -> Option<State> {
        let written = state.text.trim_start();
        if c == ' ' && written.is_empty() {
            return state.text.is_empty().then(|| state.push(c));
        }
        if !self.names.is_empty() {
            return self.after_known_name(state, written, c);
        }
        match c {
            ':' if !written.trim().is_empty() => self.close_name(state),
            _ if is_name_char(c) && state.text.chars().count() < self.grammar.max_name => {
                Some(state.push(c))
            }
            _ => None,
        }
    }

    fn after_known_name(&self, state: &State, written: &str, c: char) -> Option<State> {
        if c == ':' {
            let mut names = self.open_names(state);
            let (index, _) = names.find(|(_, name)| name.eq_ignore_ascii_case(written))?;
            let mut next = self.close_name(state)?;
            next.named.push(index);
            return Some(next);
        }
        let longer = format!("{written}{c}");
        let is_start = self.open_names(state).any(|(_, name)| starts_with(name, &longer));
        is_start.then(|| state.push(c))
    }

    fn close_name(&self, state: &State) -> Option<State> {
        let mut next = state.enter(Place::NameSlot);
        next.subjects += 1;
        Some(next)
    }

    fn after_value(&self, state: &State, index: usize, c: char) -> Option<State> {
        let values = &self.grammar.sections.get(index)?.values;
        let written = state.text.trim_start();
        if c == '.' {
            let whole = match values.is_empty() {
                true => !written.is_empty(),
                false => values.iter().any(|v| v.eq_ignore_ascii_case(written)),
            };
            return whole.then(|| state.enter(Place::Section));
        }
        if c == ' ' && written.is_empty() {
            return state.text.is_empty().then(|| state.push(c));
        }
        let next = state.push(c);
        let fits = match values.is_empty() {
            true => is_name_char(c) && next.text.chars().count() <= self.grammar.max_name,
            false => values.iter().any(|v| starts_with(v, next.text.trim_start())),
        };
        fits.then_some(next)
    }
}

fn is_name_char(c: char) -> bool {
    !matches!(c, ':' | '.' | '[' | ']') && !c.is_control()
}

impl Constraint for PlanConstraint<'_> {
    fn allows(&self, token: u32) -> bool {
        self.after(&self.state, token).is_some()
    }

    fn advance(&mut self, token: u32) {
        if let Some(state) = self.after(&self.state, token) {
            self.state = state;
        }
    }
}
