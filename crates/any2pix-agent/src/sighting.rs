//! What the edited picture shows: which of two things goes, what a reference means, and where it is.
//!
//! The locator says what stands out and where a thing may be; the encoder looks at each of these
//! places by itself. A bark alone may be a dog or a seal; before a picture with a seal it is a seal.

use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_encoders::locator::{Location, Locator, Seen};
use any2pix_llm::plan::{self, EditPlan, Operation, Subject};
use candle_core::{Result as TensorResult, Tensor};
use image::RgbImage;

use crate::components::Components;
use crate::error::AgentError;
use crate::inputs::Input;
use crate::knowledge::{Concept, Vocabulary};
use crate::locate;
use crate::nearer;
use crate::progress::Stage;
use crate::run::Run;

/// How many places of a picture are looked at by themselves.
const PLACES: usize = 6;
/// What is seen counts so much, beside the reference itself.
const SEEN: f32 = 0.35;
/// What a likeness counts, beside the logarithm of a place's likelihood.
const LIKENESS: f32 = 8.0;
/// No place is less likely, or the encoder could not speak for it.
const LEAST: f32 = 1e-4;
/// Likenesses times this are the logarithms of how probable names are.
const SHARPNESS: f32 = 10.0;
/// The picture contradicts the words when it shows the one thing so much rather than the other: a
/// difference of logarithms of probabilities.
const RATHER: f32 = 2.0;

/// Puts a plan right by what its base shows: what shall be changed or taken away is there.
///
/// Of one thing in the place of another, the one to go is the one that the picture shows; what is
/// taken away is named by its reference and the picture together.
pub fn settle(
    plan: &mut EditPlan,
    inputs: &[Input],
    components: &Components,
    vocabulary: &Vocabulary,
    run: &mut Run,
) -> Result<(), AgentError> {
    let refers = |subject: &Subject| subject.reference.is_some();
    let is_asked = plan.removals.iter().any(refers)
        || one_for_another(plan).is_some_and(|(addition, _)| refers(addition));
    let base = plan.base.as_ref().and_then(|base| inputs.get(base.reference)?.picture());
    let names = vocabulary.trained();
    let (Some(base), true, false) = (base, is_asked, names.is_empty()) else {
        return Ok(());
    };
    let things = components.locator()?.things(&base.rgb, PLACES);
    let things = things.map_err(AgentError::compute(Stage::Plan))?;
    let shown = looks(&*components.imagebind()?, &base.rgb, &things);
    let shown = shown.map_err(AgentError::compute(Stage::Plan))?;
    let sight = Sight { names, spoken: vocabulary.spoken(components)?, shown };
    let contradicts = sight.contradicts(plan, inputs);
    if contradicts {
        std::mem::swap(&mut plan.additions, &mut plan.removals);
    }
    for removal in &mut plan.removals {
        if let Some(reference) = reference_of(removal, inputs) {
            removal.name.clone_from(&names[sight.recognise(reference)].name);
        }
    }
    if let (true, Some(removal)) = (contradicts, plan.removals.first()) {
        run.warn(format!("the picture shows `{}`, so that is what goes", removal.name));
    }
    Ok(())
}

/// What comes and what goes, where a plan puts one thing in the place of another.
fn one_for_another(plan: &EditPlan) -> Option<(&Subject, &Subject)> {
    match (plan.operation, &plan.additions[..], &plan.removals[..]) {
        (Some(Operation::Replace), [addition], [removal]) => Some((addition, removal)),
        _ => None,
    }
}

/// The embedding of what shows or sounds a subject, if anything does.
fn reference_of<'a>(subject: &Subject, inputs: &'a [Input]) -> Option<&'a [f32]> {
    Some(inputs.get(subject.reference?)?.embedding.as_slice())
}

/// What a picture shows, beside the names that the model was trained on.
struct Sight<'a> {
    names: &'a [Concept],
    /// The names' embeddings.
    spoken: &'a [Vec<f32>],
    /// What the encoder makes of each thing that stands out.
    shown: Vec<Vec<f32>>,
}

impl Sight<'_> {
    /// Whether the picture shows what a plan would bring, rather than what it would take away.
    fn contradicts(&self, plan: &EditPlan, inputs: &[Input]) -> bool {
        let Some((addition, removal)) = one_for_another(plan) else { return false };
        let presence =
            |subject: &Subject| self.presence(&subject.name, reference_of(subject, inputs));
        presence(addition) > presence(removal) + RATHER
    }

    /// The name that is near to a reference and to something that is seen.
    fn recognise(&self, reference: &[f32]) -> usize {
        let score = |name: &Vec<f32>| {
            let seen = self.shown.iter().map(|thing| plan::cosine(thing, name));
            plan::cosine(reference, name) + SEEN * seen.fold(0.0, f32::max)
        };
        let scores: Vec<f32> = self.spoken.iter().map(score).collect();
        (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0)
    }

    /// How probable each name is for an embedding.
    fn probabilities(&self, embedding: &[f32]) -> Vec<f32> {
        let weight = |name: &Vec<f32>| libm::expf(SHARPNESS * plan::cosine(embedding, name));
        let weights: Vec<f32> = self.spoken.iter().map(weight).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    /// Logarithm of the probability that something in the picture has a name; what is referred to
    /// may have any name, each as probable as the encoder finds it.
    fn presence(&self, name: &str, reference: Option<&[f32]>) -> f32 {
        let named = match reference {
            Some(reference) => self.probabilities(reference),
            None => {
                self.names.iter().map(|known| f32::from(u8::from(known.name == name))).collect()
            }
        };
        let both = |thing: &Vec<f32>| -> f32 {
            self.probabilities(thing).iter().zip(&named).map(|(seen, named)| seen * named).sum()
        };
        libm::logf(self.shown.iter().map(both).fold(1e-6, f32::max))
    }
}

/// Where in `picture` the thing is that all of `queries` `(q, e)`, at least one, stand for.
pub fn find(
    components: &Components,
    picture: &RgbImage,
    queries: &Tensor,
) -> Result<Location, AgentError> {
    let (locator, encoder) = (components.locator()?, components.imagebind()?);
    let seen = locator.look(picture);
    let place = seen.and_then(|seen| likeliest((&locator, &encoder), (picture, &seen), queries));
    let sharpened = place.and_then(|place| nearer::sharpened(&locator, picture, queries, place));
    sharpened.map_err(AgentError::compute(Stage::Locate))
}

/// The place of a picture, `seen` by the locator, where that thinks it likely that all of
/// `queries` `(q, e)`, at least one, are, and where the encoder sees something like them.
pub fn likeliest(
    (locator, encoder): (&Locator, &ImageBindModel),
    (picture, seen): (&RgbImage, &Seen),
    queries: &Tensor,
) -> TensorResult<Location> {
    let places = locator.candidates_in(seen, queries, PLACES)?;
    let shown = looks(encoder, picture, &places)?;
    let rows = queries.to_vec2::<f32>()?;
    let score = |(place, shown): &(Location, Vec<f32>)| {
        let likeness: f32 = rows.iter().map(|query| plan::cosine(query, shown)).sum();
        libm::logf(place.likelihood.max(LEAST)) + LIKENESS * likeness / rows.len() as f32
    };
    let best = places.into_iter().zip(shown).max_by(|a, b| score(a).total_cmp(&score(b)));
    best.map(|(place, _)| place).ok_or_else(|| candle_core::Error::msg("the picture has no cells"))
}

/// What the encoder makes of each of some places of a picture.
fn looks(
    encoder: &ImageBindModel,
    picture: &RgbImage,
    places: &[Location],
) -> TensorResult<Vec<Vec<f32>>> {
    let crops: Vec<RgbImage> = places.iter().map(|place| square(picture, place)).collect();
    encoder.encode_images(&crops)?.to_vec2()
}

/// The square around a place, as far as it is in the picture.
fn square(picture: &RgbImage, place: &Location) -> RgbImage {
    let size = picture.dimensions();
    let rect = locate::rect_of(place.bbox, size).window(1.0, 1, size);
    locate::part(picture, rect)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOG: [f32; 3] = [1.0, 0.0, 0.0];
    const CAR: [f32; 3] = [0.0, 1.0, 0.0];
    const BELL: [f32; 3] = [0.0, 0.0, 1.0];

    fn concept(name: &str) -> Concept {
        Concept { name: name.to_string(), plural: String::new(), synonyms: Vec::new() }
    }

    fn subject(name: &str) -> Subject {
        Subject { name: name.to_string(), embedding: Vec::new(), reference: None }
    }

    fn plan(additions: &[&str], removals: &[&str]) -> EditPlan {
        let subjects = |names: &[&str]| names.iter().map(|name| subject(name)).collect();
        EditPlan {
            base: None,
            gen_embedding: Vec::new(),
            caption: String::new(),
            operation: Some(Operation::Replace),
            additions: subjects(additions),
            removals: subjects(removals),
            place: None,
            look: None,
            text: String::new(),
        }
    }

    #[test]
    fn what_the_picture_shows_decides_what_goes_and_what_a_reference_is_called() {
        let names = ["dog", "car", "bell"].map(concept);
        let spoken = [DOG, CAR, BELL].map(Vec::from);
        let shown = vec![vec![0.9, 0.1, 0.2], vec![0.8, 0.3, 0.0]];
        let sight = Sight { names: &names, spoken: &spoken, shown };
        assert!(sight.contradicts(&plan(&["dog"], &["car"]), &[]));
        assert!(!sight.contradicts(&plan(&["car"], &["dog"]), &[]));
        // Neither is shown, or it is not said which of several goes: the words stand.
        assert!(!sight.contradicts(&plan(&["car"], &["bell"]), &[]));
        assert!(!sight.contradicts(&plan(&["dog", "bell"], &["car"]), &[]));
        let both = EditPlan { operation: Some(Operation::AddRemove), ..plan(&["dog"], &["car"]) };
        assert!(!sight.contradicts(&both, &[]));
        assert!(sight.presence("bell", Some(&DOG)) > sight.presence("bell", Some(&CAR)));
        // A sound between a car and a dog, before a picture with a dog.
        assert_eq!(sight.recognise(&[0.7, 0.75, 0.0]), 0);
        assert_eq!(sight.recognise(&BELL), 2);
    }
}
