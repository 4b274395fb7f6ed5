//! What a model knows by name: an object that it does not know is refused, not guessed.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use any2pix_llm::EditPlan;
use any2pix_llm::plan::{self, Subject};
use serde::Deserialize;

use crate::components::Components;
use crate::error::AgentError;
use crate::gallery::Gallery;
use crate::inputs::Input;
use crate::request::{EditRequest, Segment};
use crate::run::Run;

/// Words of instructions that name no object.
const COMMON_WORDS: &str = include_str!("../../../prompts/common_words.txt");
/// How many known names a refusal mentions.
const NEAREST: usize = 3;

/// One thing that the model was trained on.
#[derive(Clone, Debug, Deserialize)]
pub struct Concept {
    /// Its name.
    pub name: String,
    /// Its plural.
    #[serde(default)]
    pub plural: String,
    /// What else people call it.
    #[serde(default)]
    pub synonyms: Vec<String>,
}

impl Concept {
    fn words(&self) -> impl Iterator<Item = &str> {
        [self.name.as_str(), self.plural.as_str()]
            .into_iter()
            .chain(self.synonyms.iter().map(String::as_str))
            .filter(|word| !word.is_empty())
    }

    /// `name` in lower case.
    fn is_called(&self, name: &str) -> bool {
        self.words().any(|word| word.to_lowercase() == name)
    }
}

/// What the model was trained on, and what galleries add; nothing for a model that does not say
/// what it knows.
pub struct Vocabulary {
    concepts: Vec<Concept>,
    /// How many of them, from the first, the model was trained on.
    trained: usize,
    /// The embeddings of these, once somebody asks.
    spoken: OnceCell<Arc<Vec<Vec<f32>>>>,
}

impl Vocabulary {
    /// Reads what the model says of itself, and adds the names of the galleries.
    pub fn open(components: &Components, galleries: &[Gallery]) -> Result<Self, AgentError> {
        let mut concepts = components.concepts()?.to_vec();
        let trained = concepts.len();
        if trained > 0 {
            let own = galleries.iter().flat_map(|gallery| &gallery.index.items);
            concepts.extend(own.map(|item| Concept {
                name: item.name.clone(),
                plural: format!("{}s", item.name),
                synonyms: Vec::new(),
            }));
        }
        Ok(Self { concepts, trained, spoken: OnceCell::new() })
    }

    /// What the model was trained on.
    pub(crate) fn trained(&self) -> &[Concept] {
        &self.concepts[..self.trained]
    }

    /// The embeddings of the names of what the model was trained on, in their order.
    pub(crate) fn spoken(&self, components: &Components) -> Result<&[Vec<f32>], AgentError> {
        if let Some(spoken) = self.spoken.get() {
            return Ok(spoken);
        }
        let spoken = components.concept_embeddings()?;
        Ok(self.spoken.get_or_init(|| spoken))
    }
}

/// The names that a plan for `request` may use, each once: those that its words say, and those that
/// its sounds and pictures are nearest to. None, which lets the planner use any, for an instruction
/// with a word that may be an object which nobody knows, so that it can be refused by that name.
pub fn names(
    request: &EditRequest,
    inputs: &[Input],
    components: &Components,
    vocabulary: &Vocabulary,
) -> Result<Vec<String>, AgentError> {
    let (said, has_others) = mentioned(&words_of(request), &vocabulary.concepts);
    if has_others {
        return Ok(Vec::new());
    }
    let likely = likely(inputs, components, vocabulary)?;
    let mut names: Vec<String> =
        said.into_iter().chain(likely).map(|concept| concept.name.to_lowercase()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// What is nearest to what is heard and shown, for each something else. One picture alone is what
/// is edited.
fn likely<'a>(
    inputs: &[Input],
    components: &Components,
    vocabulary: &'a Vocabulary,
) -> Result<Vec<&'a Concept>, AgentError> {
    let pictures = inputs.iter().filter(|input| input.picture().is_some()).count();
    let is_asked = |input: &&Input| input.picture().is_none() || pictures > 1;
    let asked: Vec<&Input> = inputs.iter().filter(is_asked).collect();
    if asked.is_empty() || vocabulary.trained().is_empty() {
        return Ok(Vec::new());
    }
    let spoken = vocabulary.spoken(components)?.iter();
    let mut free: Vec<(&Vec<f32>, &Concept)> = spoken.zip(vocabulary.trained()).collect();
    let mut likely = Vec::new();
    for input in asked {
        let alike = |index: &usize| plan::cosine(free[*index].0, &input.embedding);
        let nearest = (0..free.len()).max_by(|a, b| alike(a).total_cmp(&alike(b)));
        likely.extend(nearest.map(|index| free.remove(index).1));
    }
    Ok(likely)
}

/// Where `words` say `spoken`, word by word.
fn places(words: &[String], spoken: &str, is_same: fn(&str, &str) -> bool) -> Vec<Range<usize>> {
    let spoken = spoken.to_lowercase();
    let spoken: Vec<&str> = spoken.split(' ').collect();
    let windows = words.windows(spoken.len()).enumerate();
    windows
        .filter(|(_, said)| said.iter().zip(&spoken).all(|(said, known)| is_same(said, known)))
        .map(|(start, said)| start..start + said.len())
        .collect()
}

/// The concepts that `words` name, as they are written or, failing that, give or take a slip; and
/// whether there are other words that may be objects.
fn mentioned<'a>(words: &[String], concepts: &'a [Concept]) -> (Vec<&'a Concept>, bool) {
    let common: Vec<&str> = COMMON_WORDS.split_whitespace().collect();
    let mut is_open: Vec<bool> = words.iter().map(|word| word.chars().count() > 2).collect();
    let mut said = Vec::new();
    let mut take = |is_same: fn(&str, &str) -> bool, is_open: &mut [bool]| {
        for concept in concepts {
            for place in concept.words().flat_map(|spoken| places(words, spoken, is_same)) {
                if is_open[place.clone()].contains(&true) {
                    is_open[place].fill(false);
                    said.push(concept);
                }
            }
        }
    };
    take(|said, known| said == known, &mut is_open);
    for (word, open) in words.iter().zip(&mut is_open) {
        *open &= !common.contains(&word.as_str());
    }
    take(is_slip, &mut is_open);
    let is_slip_of_common =
        |word: &str| common.iter().any(|common| common.len() > 3 && is_slip(word, common));
    let is_left = |(word, open): (&String, &bool)| *open && !is_slip_of_common(word);
    let has_others = words.iter().zip(&is_open).any(is_left);
    (said, has_others)
}

/// Gives references that the plan leaves over to objects that have no other meaning, then refuses
/// a plan with an object in words that the model does not know, unless the settings force it.
/// Objects given as pictures or sounds need no name.
pub fn settle(
    plan: &mut EditPlan,
    request: &EditRequest,
    inputs: &[Input],
    vocabulary: &Vocabulary,
    galleries: &[Gallery],
    run: &mut Run,
) -> Result<(), AgentError> {
    let concepts = &vocabulary.concepts;
    if concepts.is_empty() {
        return Ok(());
    }
    let words = words_of(request);
    let mut left = unclaimed(plan, inputs.len());
    for subject in plan.additions.iter_mut().chain(&mut plan.removals) {
        if subject.reference.is_some() || is_named(subject, &words, concepts) {
            continue;
        }
        if let Some(reference) = take_nearest(&mut left, &subject.embedding, inputs) {
            subject.reference = Some(reference);
            continue;
        }
        let asked = asked_for(subject, &words, concepts);
        let nearest = nearest(subject, &asked, concepts, galleries);
        if !request.settings.force {
            return Err(AgentError::UnknownObject { name: asked, nearest });
        }
        run.warn(format!("`{asked}` is not known; going on with `{}`", subject.name));
    }
    Ok(())
}

/// References that neither the base nor an object stands for.
fn unclaimed(plan: &EditPlan, count: usize) -> Vec<usize> {
    let base = plan.base.as_ref().map(|base| base.reference);
    let subjects = || plan.additions.iter().chain(&plan.removals);
    let is_claimed = |index: usize| subjects().any(|subject| subject.reference == Some(index));
    (0..count).filter(|index| Some(*index) != base && !is_claimed(*index)).collect()
}

/// Takes the reference nearest to `embedding` out of `left`.
fn take_nearest(left: &mut Vec<usize>, embedding: &[f32], inputs: &[Input]) -> Option<usize> {
    let near = |index: usize| {
        inputs.get(index).map_or(-1.0, |input| plan::cosine(embedding, &input.embedding))
    };
    let best = (0..left.len())
        .reduce(|best, next| if near(left[next]) > near(left[best]) { next } else { best })?;
    Some(left.remove(best))
}

/// The words of an instruction, lower case, without what stands in brackets.
fn words_of(request: &EditRequest) -> Vec<String> {
    let text = request.instruction.segments.iter().map(|segment| match segment {
        Segment::Text(text) => text.to_lowercase(),
        Segment::Reference(_) => " ".to_string(),
    });
    let text: String = text.collect();
    let is_letter = |c: char| c.is_alphanumeric() || c == '\'' || c == '-';
    text.split(|c| !is_letter(c)).filter(|w| !w.is_empty()).map(str::to_string).collect()
}

/// True when the instruction says the subject's name, its plural or a synonym, give or take a
/// slip of the pen.
fn is_named(subject: &Subject, words: &[String], concepts: &[Concept]) -> bool {
    let name = subject.name.trim().to_lowercase();
    let of_name = concepts.iter().filter(|concept| concept.is_called(&name));
    of_name.flat_map(Concept::words).any(|spoken| !places(words, spoken, is_slip).is_empty())
}

/// Equal, or one edit apart for words of four letters, two for words of eight.
fn is_slip(said: &str, known: &str) -> bool {
    let allowed = known.chars().count() / 4;
    said == known || distance(said, known) <= allowed.min(2)
}

/// Levenshtein distance, where a swap of neighbours is one edit.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitution.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// What the user asked for: the planner's own word where the user said it and the model does not
/// know it, else the word that the planner passed over.
fn asked_for(subject: &Subject, words: &[String], concepts: &[Concept]) -> String {
    let name = subject.name.trim().to_lowercase();
    let is_known = concepts.iter().any(|concept| concept.is_called(&name));
    let is_said = name.split(' ').all(|part| words.iter().any(|word| word == part));
    let passed_over = unknown_word(words).filter(|_| is_known || !is_said);
    passed_over.unwrap_or(name)
}

/// The instruction's longest word that is none of the program's verbs, places and fillers.
fn unknown_word(words: &[String]) -> Option<String> {
    let common: Vec<&str> = COMMON_WORDS.split_whitespace().collect();
    words
        .iter()
        .filter(|word| word.chars().count() > 2 && !common.contains(&word.as_str()))
        .max_by_key(|word| word.chars().count())
        .cloned()
}

/// Known names near to what was asked for: by the planner's own choice, by spelling, by
/// embedding.
fn nearest(
    subject: &Subject,
    asked: &str,
    concepts: &[Concept],
    galleries: &[Gallery],
) -> Vec<String> {
    let planned = subject.name.trim().to_lowercase();
    let mut names: Vec<String> =
        concepts.iter().map(|c| c.name.clone()).filter(|name| *name == planned).take(1).collect();
    let mut spelled: Vec<(usize, &str)> =
        concepts.iter().map(|c| (distance(asked, &c.name), c.name.as_str())).collect();
    spelled.sort_unstable();
    let alike = spelled.iter().filter(|(d, name)| *d * 2 <= name.chars().count());
    names.extend(alike.map(|(_, name)| (*name).to_string()));
    for gallery in galleries {
        names.extend(gallery.nearest_names(&subject.embedding, NEAREST));
    }
    names.extend(spelled.iter().map(|(_, name)| (*name).to_string()));
    let mut kept: Vec<String> = Vec::new();
    for name in names {
        if kept.len() < NEAREST && !kept.contains(&name) {
            kept.push(name);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_forgiven_and_other_words_are_not() {
        for (said, known) in [("dog", "dog"), ("trumpte", "trumpet"), ("elefant", "elephant")] {
            assert!(is_slip(said, known), "{said} {known}");
        }
        for (said, known) in [("dot", "dog"), ("cart", "cat"), ("unicorn", "acorn")] {
            assert!(!is_slip(said, known), "{said} {known}");
        }
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ab", "ba"), 1);
    }

    #[test]
    fn what_is_mentioned_is_told_from_what_is_unknown() {
        let concept = |name: &str, synonyms: &[&str]| Concept {
            name: name.into(),
            plural: format!("{name}s"),
            synonyms: synonyms.iter().map(ToString::to_string).collect(),
        };
        let concepts = [concept("horse", &[]), concept("rooster", &["cock"]), concept("hand", &[])];
        let look = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_string).collect();
            let (said, has_others) = mentioned(&words, &concepts);
            (said.iter().map(|c| c.name.clone()).collect::<Vec<_>>(), has_others)
        };
        assert_eq!(look("add a cock to the picture"), (vec!["rooster".to_string()], false));
        assert_eq!(look("stick a hrse into thhis image"), (vec!["horse".to_string()], false));
        assert_eq!(look("add a unicorn beside the horse"), (vec!["horse".to_string()], true));
        assert_eq!(look("make it night"), (vec![], false));
    }

    #[test]
    fn a_refusal_uses_the_word_that_the_user_said() {
        let words = ["remove", "the", "cup", "from"].map(str::to_string);
        let subject =
            |name: &str| Subject { name: name.into(), embedding: vec![], reference: None };
        for planned in ["cup", "cupp", "horse", ""] {
            assert_eq!(asked_for(&subject(planned), &words, &[]), "cup", "{planned}");
        }
    }

    #[test]
    fn an_object_is_named_by_any_of_its_words() {
        let concepts = [Concept {
            name: "fire truck".into(),
            plural: "fire trucks".into(),
            synonyms: vec!["fire engine".into()],
        }];
        let subject =
            |name: &str| Subject { name: name.into(), embedding: vec![], reference: None };
        let words = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<String>>();
        let named = |name, text| is_named(&subject(name), &words(text), &concepts);
        assert!(named("fire truck", "add a fire engine to it"));
        assert!(named("FIRE TRUCK", "add two fire trucks"));
        assert!(!named("fire truck", "add a unicorn to it"));
        assert!(!named("unicorn", "add a unicorn to it"));
    }
}
