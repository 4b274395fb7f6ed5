//! Stage `align`: `describe [x]` → what is to be seen or heard.

use any2pix_llm::{MediaKind, Piece};
use any2pix_nn::Generator;

use super::language::{AnswerPart, Example};
use super::planner_stage::{PlannerStage, Source};
use crate::playroom::instruction::with_article;
use crate::playroom::sample::{Media, Sample};
use crate::playroom::splits::Split;
use crate::stages::StageContext;
use crate::{Recipe, Result};

pub(super) const DESCRIBE: &str = include_str!("../../../../prompts/playroom/describe.txt");

/// The recipe of the stage.
pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
    Ok(Box::new(PlannerStage::open("align", context, examples, None)?))
}

/// What is described: one of the things shown or sounded, or the whole target.
fn subject(sample: &Sample, generator: &mut Generator) -> (Option<usize>, MediaKind, String) {
    let things: Vec<(usize, MediaKind, &String)> = sample
        .media
        .iter()
        .enumerate()
        .filter_map(|(i, medium)| match medium {
            Media::Image { concept: Some(concept), .. } => Some((i, MediaKind::Image, concept)),
            Media::Image { concept: None, .. } => None,
            Media::Audio { concept, .. } => Some((i, MediaKind::Audio, concept)),
        })
        .collect();
    match generator.choose(&things) {
        Some((index, kind, concept)) if generator.chance(0.7) => {
            let thing =
                sample.wanted.iter().chain(&sample.unwanted).any(|o| o.concept == **concept);
            let caption = if thing { with_article(concept) } else { (*concept).clone() };
            (Some(*index), *kind, caption)
        }
        _ => (None, MediaKind::Image, sample.caption.clone()),
    }
}

fn examples(
    source: &Source,
    split: Split,
    count: usize,
    generator: &mut Generator,
) -> Result<Vec<Example>> {
    let samples: Vec<Sample> =
        (0..count).map(|_| source.world.sample(generator, split, None)).collect();
    let embedded = source.embedder.embed(&samples)?;
    let ways: Vec<&str> = DESCRIBE.lines().filter(|line| !line.is_empty()).collect();
    let describe = |(sample, embedded): (&Sample, super::embedder::Embedded)| {
        let (index, kind, caption) = subject(sample, generator);
        let reference = match index {
            Some(index) => embedded.media[index].clone(),
            None => embedded.target,
        };
        let way = generator.choose(&ways).copied().unwrap_or("describe {x}");
        let (before, after) = way.split_once("{x}").unwrap_or((way, ""));
        Example {
            instruction: vec![
                Piece::Text(before.to_string()),
                Piece::Media(0, kind),
                Piece::Text(after.to_string()),
            ],
            references: vec![reference],
            answer: vec![AnswerPart::Text(caption)],
        }
    };
    Ok(samples.iter().zip(embedded).map(describe).collect())
}
