//! `Harness`: takes every item of a suite through a system and measures what comes back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use any2pix_agent::{
    AgentError, EditOutcome, EditRequest, EditSettings, Instruction, Pipeline, Reference, Silent,
};
use image::RgbImage;
use rayon::prelude::*;

use crate::item::{self, Figures, Truth};
use crate::perception::Perception;
use crate::published::{Published, Shown};
use crate::report::Sample;
use crate::suite::{Item, Suite};
use crate::{EvalError, Result};

/// Whatever makes edits: a pipeline, or a baseline that bounds the figures.
pub trait System: Sync {
    /// The edit of an item.
    fn edit(&self, item: &Item, request: &EditRequest) -> Result<EditOutcome, AgentError>;
}

impl<P: Pipeline + Sync> System for P {
    fn edit(&self, _item: &Item, request: &EditRequest) -> Result<EditOutcome, AgentError> {
        Pipeline::edit(self, request, &mut Silent)
    }
}

/// What is run and how it is looked at.
pub struct Harness<'a> {
    /// The items.
    pub suite: &'a Suite,
    /// Who looks; without anybody only plans, regions and pixels are measured.
    pub eyes: Option<&'a dyn Perception>,
    /// The models of published metrics; without them those figures are absent.
    pub published: Option<&'a Published>,
    /// The settings of every edit; an item's own seed is added to theirs.
    pub settings: EditSettings,
    /// Whether to run every local edit a second time without composing.
    pub raw: bool,
    /// Where pictures go.
    pub out: PathBuf,
}

/// Is told about every item: how many are done, how many there are, and the item; says whether to
/// go on.
pub type Tell<'a> = dyn FnMut(usize, usize, &Sample) -> bool + Send + 'a;

impl Harness<'_> {
    /// Runs every item; the samples come in the order of the suite.
    ///
    /// # Errors
    /// What a file or a model refuses, and [`EvalError::Stopped`].
    pub fn run(&self, system: &dyn System, tell: &mut Tell<'_>) -> Result<Vec<Sample>> {
        let pictures = self.out.join("outputs");
        fs::create_dir_all(&pictures).map_err(EvalError::io(&pictures))?;
        let gallery = self.gallery()?;
        let total = self.suite.items.len();
        let done = Mutex::new((0usize, tell));
        self.suite
            .items
            .par_iter()
            .map(|item| {
                let sample = self.sample(system, item, &gallery)?;
                let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                done.0 += 1;
                let count = done.0;
                if (done.1)(count, total, &sample) { Ok(sample) } else { Err(EvalError::Stopped) }
            })
            .collect()
    }

    /// What all references that are pictures show.
    fn gallery(&self) -> Result<BTreeMap<String, Vec<f32>>> {
        let Some(eyes) = self.eyes else { return Ok(BTreeMap::new()) };
        let shown = |subject: &crate::suite::Subject| {
            subject.reference.clone().filter(|_| subject.modality == "image")
        };
        let mut names: Vec<String> =
            self.suite.items.iter().flat_map(|item| item.wanted.iter().filter_map(shown)).collect();
        names.sort();
        names.dedup();
        let look = |name: &String| {
            let picture = self.suite.reference(name)?;
            let likeness = eyes.recognise(&[picture])?.into_iter().next().unwrap_or_default();
            Ok((name.clone(), likeness))
        };
        names.par_iter().map(look).collect()
    }

    fn request(&self, item: &Item) -> Result<EditRequest, RequestError> {
        let instruction = Instruction::parse(&item.instruction).map_err(RequestError::Agent)?;
        let mut references = Vec::new();
        for name in &instruction.names {
            let path = self.suite.path(name).map_err(RequestError::Suite)?;
            let bytes =
                fs::read(&path).map_err(|e| RequestError::Suite(EvalError::io(&path)(e)))?;
            references.push(Reference {
                name: name.clone(),
                path: Some(path),
                bytes: bytes.into(),
            });
        }
        let seed = self.settings.seed.wrapping_add(item.seed);
        let settings = EditSettings { seed, ..self.settings.clone() };
        Ok(EditRequest { instruction, references, settings })
    }

    fn truth(&self, item: &Item) -> Result<Truth> {
        let target = self.suite.picture(&item.target)?;
        let source = item.base.as_ref().map(|name| self.suite.picture(name)).transpose()?;
        let mask = item.mask.as_ref().map(|name| self.suite.mask(name)).transpose()?;
        Ok(Truth { source, target, mask })
    }

    fn sample(
        &self,
        system: &dyn System,
        item: &Item,
        gallery: &BTreeMap<String, Vec<f32>>,
    ) -> Result<Sample> {
        let mut sample = Sample {
            id: item.id.clone(),
            kind: item.kind.clone(),
            modality: item.modality(),
            instruction: item.instruction.clone(),
            error: None,
            plan: String::new(),
            figures: Figures::new(),
        };
        let request = match self.request(item) {
            Ok(request) => request,
            Err(RequestError::Suite(error)) => return Err(error),
            Err(RequestError::Agent(error)) => return Ok(failed(sample, &error)),
        };
        let outcome = match system.edit(item, &request) {
            Ok(outcome) => outcome,
            Err(error) => return Ok(failed(sample, &error)),
        };
        sample.plan.clone_from(&outcome.plan.text);
        let truth = self.truth(item)?;
        sample.figures = self.figures(item, &truth, &outcome, gallery)?;
        let is_local = ["add", "remove", "replace", "multi", "adjust"].contains(&&*item.kind);
        if is_local {
            self.kept(system, item, &truth, (&request, &outcome), &mut sample.figures);
        }
        let path = self.out.join("outputs").join(format!("{}.png", item.id));
        outcome.image.save(&path).map_err(|e| EvalError::malformed(&path, e))?;
        Ok(sample)
    }

    fn figures(
        &self,
        item: &Item,
        truth: &Truth,
        outcome: &EditOutcome,
        gallery: &BTreeMap<String, Vec<f32>>,
    ) -> Result<Figures> {
        let mut figures = item::plan_figures(item, &outcome.plan);
        figures.extend(item::region_figures(item, truth, outcome));
        let seconds: f64 = outcome.timings.iter().fold(0.0, |sum, time| sum + time.seconds);
        figures.insert("seconds".into(), seconds);
        let picture = outcome.image.to_rgb8();
        figures.extend(item::target_figures(truth, &picture));
        if let Some(published) = self.published {
            let shown = Shown {
                source: truth.source.as_ref(),
                target: &truth.target,
                result: &picture,
                source_caption: item.source_caption.as_deref(),
                caption: item.caption.as_deref(),
            };
            figures.extend(published.figures(&shown)?);
        }
        if let Some(eyes) = self.eyes {
            let result = at_size_of(&picture, &truth.target);
            figures.extend(item::edit_figures(item, truth, &result, Some(outcome), eyes)?);
            figures.extend(item::edit_figures(item, truth, &truth.target, None, eyes)?);
            for (result, outcome) in [(&result, Some(outcome)), (&truth.target, None)] {
                let found = item::reference_figures(item, truth, result, outcome, gallery, eyes)?;
                figures.extend(found);
            }
            figures.insert("similarity".into(), item::similarity(truth, &result, eyes)?);
        }
        Ok(figures)
    }

    /// What the edit kept, composed and, when asked for, as the decoder alone would have it.
    fn kept(
        &self,
        system: &dyn System,
        item: &Item,
        truth: &Truth,
        (request, outcome): (&EditRequest, &EditOutcome),
        figures: &mut Figures,
    ) {
        let name = if self.settings.compose { "composed" } else { "raw" };
        figures.extend(item::kept_figures(item, truth, outcome, name));
        if !(self.raw && self.settings.compose) {
            return;
        }
        let settings = EditSettings { compose: false, ..request.settings.clone() };
        let raw = system.edit(item, &EditRequest { settings, ..request.clone() });
        if let Ok(raw) = raw {
            figures.extend(item::kept_figures(item, truth, &raw, "raw"));
        }
    }
}

/// Why there is no request: the suite is broken, or the instruction is refused.
enum RequestError {
    Suite(EvalError),
    Agent(AgentError),
}

/// A refusal or failure counts as wrong in everything that would have been right or wrong.
fn failed(mut sample: Sample, error: &AgentError) -> Sample {
    let mut names =
        vec!["plan_right", "base_right", "operation_right", "objects_right", "names_right"];
    if ["add", "remove", "replace", "multi"].contains(&sample.kind.as_str()) {
        names.push("edit_right");
    }
    sample.figures = names.into_iter().map(|name| (name.to_string(), 0.0)).collect();
    sample.error = Some(error.to_string());
    sample
}

/// Boxes are fractions, so that a result of another size is judged all the same; its embedding is
/// compared at the target's size.
fn at_size_of(result: &RgbImage, target: &RgbImage) -> RgbImage {
    if result.dimensions() == target.dimensions() {
        return result.clone();
    }
    let (width, height) = target.dimensions();
    image::imageops::resize(result, width, height, image::imageops::FilterType::Triangle)
}

/// The file of an item's result.
pub fn output_path(out: &Path, id: &str) -> PathBuf {
    out.join("outputs").join(format!("{id}.png"))
}
