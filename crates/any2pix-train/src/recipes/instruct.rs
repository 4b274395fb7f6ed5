//! Stage `instruct`: instructions → plans, with the embeddings of source, result and objects.

use any2pix_llm::{Embedding, MediaKind, Piece};
use any2pix_nn::Generator;

use super::embedder::Embedded;
use super::language::{AnswerPart, Example};
use super::plan_score;
use super::planner_stage::{Examine, PlannerStage, Source};
use super::unknown;
use crate::playroom::sample::{
    AnswerPiece, Kind, Media, Modality, ObjectSlot, Piece as Said, Sample, SlotTarget,
};
use crate::playroom::splits::Split;
use crate::stages::StageContext;
use crate::{Recipe, Result};

/// The recipe of the stage.
pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
    let examine = Some(plan_score::examine as Examine);
    Ok(Box::new(PlannerStage::open("instruct", context, examples, examine)?))
}

/// The instruction as the planner takes it.
pub(super) fn pieces(sample: &Sample) -> Vec<Piece> {
    let kind = |index: usize| match sample.media.get(index) {
        Some(Media::Audio { .. }) => MediaKind::Audio,
        _ => MediaKind::Image,
    };
    let piece = |said: &Said| match said {
        Said::Text(text) => Piece::Text(text.clone()),
        Said::Media(index) => Piece::Media(*index, kind(*index)),
    };
    sample.pieces.iter().map(piece).collect()
}

/// What an object's slot shall give: the picture that shows it; otherwise, as words and sounds
/// are not to be seen, what such things look like.
fn object(source: &Source, slot: &ObjectSlot, embedded: &Embedded) -> Option<Embedding> {
    let shown = slot.media.filter(|_| slot.modality == Modality::Image);
    match shown {
        Some(index) => embedded.media.get(index).cloned(),
        None => source.embedder.prototype(&slot.concept).cloned(),
    }
}

/// A sample as a conversation.
pub(super) fn told(source: &Source, sample: &Sample, embedded: &Embedded) -> Example {
    let target = |target: SlotTarget| match target {
        SlotTarget::Base => sample.base.and_then(|index| embedded.media.get(index).cloned()),
        SlotTarget::Target => Some(embedded.target.clone()),
        SlotTarget::Wanted(i) => object(source, &sample.wanted[i], embedded),
        SlotTarget::Unwanted(i) => object(source, &sample.unwanted[i], embedded),
    };
    let answer = sample.assistant_text().into_iter().map(|piece| match piece {
        AnswerPiece::Text(text) => AnswerPart::Text(spaced(&text)),
        AnswerPiece::Slot(slot) => AnswerPart::Slot(target(slot)),
    });
    Example {
        instruction: pieces(sample),
        references: embedded.media.clone(),
        answer: answer.collect(),
    }
}

/// A space before free values makes their pieces those that the user's words have, which makes
/// copying a word a matter of copying its pieces.
pub(super) fn spaced(text: &str) -> String {
    ["additions:", "removals:", "look:"]
        .iter()
        .fold(text.to_string(), |text, key| text.replace(key, &format!("{key} ")))
}

pub(super) fn examples(
    source: &Source,
    split: Split,
    count: usize,
    generator: &mut Generator,
) -> Result<Vec<Example>> {
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let make = generator.chance(source.settings.make_share);
        let kind = make.then_some(Kind::Generate);
        samples.push(source.world.sample(generator, split, kind));
    }
    let embedded = source.embedder.embed(&samples)?;
    let mut examples = Vec::with_capacity(count);
    for (sample, embedded) in samples.iter().zip(&embedded) {
        let example = told(source, sample, embedded);
        let retold = if generator.chance(source.settings.unknown_share) {
            unknown::retell(sample, &example, &unknown::name(split, generator))
        } else {
            None
        };
        examples.push(retold.unwrap_or(example));
    }
    Ok(examples)
}
