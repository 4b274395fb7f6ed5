//! What the edited picture shows: which of its things a reference means, and where a thing is.
//!
//! The locator says what stands out and where a thing may be; the encoder looks at each of these
//! places by itself. A bark alone may be a dog or a seal; before a picture with a seal it is a seal.

use any2pix_encoders::locator::Location;
use any2pix_llm::plan::{self, Subject};
use candle_core::Tensor;
use image::{RgbImage, imageops};

use crate::components::Components;
use crate::error::AgentError;
use crate::inputs::Input;
use crate::knowledge::Vocabulary;
use crate::locate;
use crate::progress::Stage;

/// How many places of a picture are looked at by themselves.
const PLACES: usize = 6;
/// What is seen counts so much, beside the reference itself.
const SEEN: f32 = 0.35;
/// What a likeness counts, beside the logarithm of a place's likelihood.
const LIKENESS: f32 = 8.0;
/// No place is less likely, or the encoder could not speak for it.
const LEAST: f32 = 1e-4;

/// Renames each of `subjects` that is a reference of its own: the name is near to the reference and
/// to something that is seen in `base`.
pub fn recognise<'a>(
    subjects: impl Iterator<Item = &'a mut Subject>,
    base: &Input,
    inputs: &[Input],
    components: &Components,
    vocabulary: &Vocabulary,
) -> Result<(), AgentError> {
    let names = vocabulary.trained();
    let mut subjects =
        subjects.filter_map(|subject| Some((inputs.get(subject.reference?)?, subject))).peekable();
    let (Some(picture), Some(_), false) = (base.picture(), subjects.peek(), names.is_empty())
    else {
        return Ok(());
    };
    let spoken = vocabulary.spoken(components)?;
    let things = components.locator()?.things(&picture.rgb, PLACES);
    let things = things.map_err(AgentError::compute(Stage::Plan))?;
    let shown = looks(components, &picture.rgb, &things)?;
    for (input, subject) in subjects {
        let score = |index: &usize| {
            let seen = shown.iter().map(|thing| plan::cosine(thing, &spoken[*index]));
            plan::cosine(&input.embedding, &spoken[*index]) + SEEN * seen.fold(0.0, f32::max)
        };
        let best = (0..names.len()).max_by(|a, b| score(a).total_cmp(&score(b)));
        if let Some(best) = best {
            subject.name.clone_from(&names[best].name);
        }
    }
    Ok(())
}

/// Where in `picture` the thing is that all of `queries` `(q, e)`, at least one, stand for.
pub fn find(
    components: &Components,
    picture: &RgbImage,
    queries: &Tensor,
) -> Result<Location, AgentError> {
    let compute = AgentError::compute(Stage::Locate);
    let places = components.locator()?.candidates(picture, queries, PLACES).map_err(&compute)?;
    let shown = looks(components, picture, &places)?;
    let queries = queries.to_vec2::<f32>().map_err(&compute)?;
    let score = |(place, shown): &(Location, Vec<f32>)| {
        let likeness: f32 = queries.iter().map(|query| plan::cosine(query, shown)).sum();
        libm::logf(place.likelihood.max(LEAST)) + LIKENESS * likeness / queries.len() as f32
    };
    let best = places.into_iter().zip(shown).max_by(|a, b| score(a).total_cmp(&score(b)));
    let nowhere = || compute(candle_core::Error::msg("the picture has no cells"));
    best.map(|(place, _)| place).ok_or_else(nowhere)
}

/// What the encoder makes of each of some places of a picture.
fn looks(
    components: &Components,
    picture: &RgbImage,
    places: &[Location],
) -> Result<Vec<Vec<f32>>, AgentError> {
    let crops: Vec<RgbImage> = places.iter().map(|place| square(picture, place)).collect();
    let rows = components.imagebind()?.encode_images(&crops).and_then(|rows| rows.to_vec2());
    rows.map_err(AgentError::compute(Stage::Locate))
}

/// The square around a place, as far as it is in the picture.
fn square(picture: &RgbImage, place: &Location) -> RgbImage {
    let size = picture.dimensions();
    let rect = locate::rect_of(place.bbox, size).window(1.0, 1, size);
    imageops::crop_imm(picture, rect.x, rect.y, rect.width, rect.height).to_image()
}
