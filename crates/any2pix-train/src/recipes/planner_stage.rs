//! The recipe that `align`, `generate` and `instruct` share: they differ in their examples.

use std::path::Path;
use std::sync::Arc;

use any2pix_llm::planner::Planner;
use any2pix_nn::{Generator, Parameters};
use serde::Deserialize;

use super::embedder::Embedder;
use super::language::{Batch, Example, Frame, LanguageLoss, LanguageModel};
use crate::playroom::World;
use crate::playroom::splits::Split;
use crate::recipe::{Recipe, StepLoss};
use crate::stages::StageContext;
use crate::{Prefetch, Result, TrainError};

/// `[recipe]` of the three stages.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StageSettings {
    /// Stand-ins take the place of the encoder's embeddings.
    #[serde(default)]
    stand_ins: bool,
    /// What the regression of embeddings weighs beside the cross entropy.
    #[serde(default = "one")]
    embedding_weight: f64,
    /// Part of the examples that make a picture from nothing, beside those that chance brings.
    #[serde(default)]
    pub(super) make_share: f32,
    /// Part of the examples whose object is told as a thing that nobody knows.
    #[serde(default)]
    pub(super) unknown_share: f32,
    /// Held-out examples that an evaluation looks at.
    #[serde(default = "evaluated")]
    pub(super) evaluate_samples: usize,
    /// Threads that make examples.
    #[serde(default = "threads")]
    threads: usize,
    /// Learn these many examples of the first batch and nothing else: they must be learned
    /// by heart, or there is a defect.
    #[serde(default)]
    overfit: usize,
}

fn one() -> f64 {
    1.0
}

fn evaluated() -> usize {
    200
}

fn threads() -> usize {
    2
}

/// What examples are made of.
pub(super) struct Source {
    pub(super) world: World,
    pub(super) embedder: Embedder,
    pub(super) settings: StageSettings,
}

/// Examples of a split.
pub(super) type MakeExamples = fn(&Source, Split, usize, &mut Generator) -> Result<Vec<Example>>;

/// What a stage reports beside the loss on held-out examples, and what it shows.
pub(super) type Examine = fn(&Source, &Planner, &mut Generator) -> Result<Examined>;

/// Figures, and lines to read.
#[derive(Default)]
pub(super) struct Examined {
    pub(super) figures: Vec<(String, f64)>,
    pub(super) lines: Vec<String>,
}

pub(super) struct PlannerStage {
    name: &'static str,
    language: LanguageModel,
    frame: Arc<Frame>,
    source: Arc<Source>,
    batches: Prefetch<Batch>,
    make: MakeExamples,
    examine: Option<Examine>,
}

impl PlannerStage {
    pub(super) fn open(
        name: &'static str,
        context: &StageContext,
        make: MakeExamples,
        examine: Option<Examine>,
    ) -> Result<Self> {
        let settings: StageSettings = context.settings.recipe()?;
        let seed = context.settings.seed;
        let language = LanguageModel::open(&context.model, seed)?;
        let frame = Arc::new(language.frame()?);
        let world = World::open(&context.data).map_err(|e| TrainError::Data {
            what: e.to_string(),
            hint: any2pix_nn::Hint::hints(&e).join("; "),
        })?;
        let embedder = if settings.stand_ins {
            Embedder::stand_ins(language.embedding_width(), &world)
        } else {
            Embedder::open(&context.model, &world)?
        };
        let source = Arc::new(Source { world, embedder, settings });
        let batches = prefetch(name, context, &frame, &source, make);
        Ok(Self { name, language, frame, source, batches, make, examine })
    }
}

fn prefetch(
    name: &str,
    context: &StageContext,
    frame: &Arc<Frame>,
    source: &Arc<Source>,
    make: MakeExamples,
) -> Prefetch<Batch> {
    let (size, overfit) = (context.settings.batch, source.settings.overfit);
    let seed = Generator::new(context.settings.seed).fork(name).seed();
    let (frame, source) = (frame.clone(), source.clone());
    let threads = source.settings.threads;
    Prefetch::new(seed, threads, 2 * threads, move |_, generator| {
        if overfit > 0 {
            let mut fixed = Generator::new(seed);
            return frame.batch(&make(&source, Split::Train, overfit, &mut fixed)?);
        }
        frame.batch(&make(&source, Split::Train, size, generator)?)
    })
}

/// Held-out examples that are scored at once.
const SCORED_AT_ONCE: usize = 20;

impl Recipe for PlannerStage {
    fn name(&self) -> &str {
        self.name
    }

    fn component(&self) -> &str {
        "llm"
    }

    fn parameters(&self) -> &Parameters {
        &self.language.parameters
    }

    fn loss(&mut self, step: u64, _: &mut Generator) -> Result<StepLoss> {
        let batch = self.batches.batch(step)?;
        let loss = LanguageLoss::of(&self.language.model, &batch)?;
        let total = loss.total(self.source.settings.embedding_weight)?;
        let text = f64::from(loss.text.to_scalar::<f32>()?);
        Ok(StepLoss::new(total, batch.len())
            .log("text", text)
            .log("right", loss.right)
            .log("cosine", loss.cosine))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let rounds = self.source.settings.evaluate_samples.div_ceil(SCORED_AT_ONCE).clamp(1, 5);
        let (mut text, mut right, mut cosine) = (0.0, 0.0, 0.0);
        for _ in 0..rounds {
            let examples = (self.make)(&self.source, Split::HeldOut, SCORED_AT_ONCE, generator)?;
            let loss = LanguageLoss::of(&self.language.model, &self.frame.batch(&examples)?)?;
            text += f64::from(loss.text.to_scalar::<f32>()?) / rounds as f64;
            right += loss.right / rounds as f64;
            cosine += loss.cosine / rounds as f64;
        }
        let mut figures = vec![
            ("held_out_text".to_string(), text),
            ("held_out_right".to_string(), right),
            ("held_out_cosine".to_string(), cosine),
        ];
        if let Some(examine) = self.examine {
            let planner = self.language.planner()?;
            figures.extend(examine(&self.source, &planner, generator)?.figures);
        }
        Ok(figures)
    }

    fn sample(&mut self, dir: &Path, generator: &mut Generator) -> Result<()> {
        let Some(examine) = self.examine else { return Ok(()) };
        let planner = self.language.planner()?;
        let text = examine(&self.source, &planner, generator)?.lines.join("\n") + "\n";
        let path = dir.join("plans.txt");
        std::fs::write(&path, text).map_err(TrainError::io(&path))
    }

    fn export(&self, dir: &Path) -> Result<()> {
        self.language.export(dir)
    }
}
