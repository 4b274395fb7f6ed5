//! Stage `generate`: `generate [x]` → the embedding of a picture of it.

use any2pix_llm::Piece;
use any2pix_nn::Generator;

use super::instruct::told;
use super::language::{AnswerPart, Example};
use super::planner_stage::{PlannerStage, Source};
use crate::playroom::sample::{Kind, Sample};
use crate::playroom::splits::Split;
use crate::stages::StageContext;
use crate::{Recipe, Result};

pub(super) const GENERATE: &str = include_str!("../../../../prompts/playroom/generate_caption.txt");

/// The recipe of the stage.
pub fn open(context: &StageContext) -> Result<Box<dyn Recipe>> {
    Ok(Box::new(PlannerStage::open("generate", context, examples, None)?))
}

/// Half of them from an object, in words, shown or sounded; half from a whole caption.
fn examples(
    source: &Source,
    split: Split,
    count: usize,
    generator: &mut Generator,
) -> Result<Vec<Example>> {
    let mut samples: Vec<Sample> = Vec::with_capacity(count);
    for number in 0..count {
        let kind = (number % 2 == 0).then_some(Kind::Generate);
        samples.push(source.world.sample(generator, split, kind));
    }
    let embedded = source.embedder.embed(&samples)?;
    let ways: Vec<&str> = GENERATE.lines().filter(|line| !line.is_empty()).collect();
    let mut examples = Vec::with_capacity(count);
    for (number, (sample, embedded)) in samples.iter().zip(embedded).enumerate() {
        if number % 2 == 0 {
            examples.push(told(source, sample, &embedded));
            continue;
        }
        let way = generator.choose(&ways).copied().unwrap_or("generate {x}");
        let text = format!("Absolutely, its,<base_null><im_gen_start><im_gen>[{}]", sample.caption);
        examples.push(Example {
            instruction: vec![Piece::Text(way.replace("{x}", &sample.caption))],
            references: Vec::new(),
            answer: vec![
                AnswerPart::Text(text),
                AnswerPart::Slot(Some(embedded.target)),
                AnswerPart::Text("operation:make.".to_string()),
            ],
        });
    }
    Ok(examples)
}
