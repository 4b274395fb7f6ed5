//! `Harness`: takes every item of a suite through a system and measures what comes back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::sync::Mutex;
use std::time::Instant;

use any2pix_agent::outcome::{peak_memory, sha256};
use any2pix_agent::storage::write_atomically;
use any2pix_agent::{AgentError, EditRequest, EditSettings, Instruction, Reference};
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;

use crate::item::{self, Figures, Truth, View};
use crate::journal::{Cost, Entry, Journal, output_path};
use crate::meaning;
use crate::perception::Perception;
use crate::published::{Published, Shown};
use crate::report::Sample;
use crate::suite::{Item, Suite};
use crate::systems::{Edited, System};
use crate::{EvalError, Result};

/// Kinds of edits that keep most of the picture.
const LOCAL: [&str; 5] = ["add", "remove", "replace", "multi", "adjust"];
/// Kinds of edits that the judge can tell right from wrong.
const JUDGED: [&str; 4] = ["add", "remove", "replace", "multi"];

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
}

/// Is told about every item: how many are done, how many there are, and the item; says whether to
/// go on.
pub type Tell<'a> = dyn FnMut(usize, usize, &Sample) -> bool + Send + 'a;

/// What the references of a suite show, by their names.
type Gallery = BTreeMap<String, Vec<f32>>;

impl Harness<'_> {
    /// Runs every item that the journal does not hold; the rows come in the order of the suite.
    ///
    /// # Errors
    /// What a file or a model refuses, and [`EvalError::Stopped`]; what was measured until then is
    /// in the journal.
    pub fn run(
        &self,
        system: &dyn System,
        journal: &Journal,
        tell: &mut Tell<'_>,
    ) -> Result<Vec<Entry>> {
        let pictures = journal.folder().join("outputs");
        fs::create_dir_all(&pictures).map_err(EvalError::io(&pictures))?;
        let items = &self.suite.items;
        let kept: Vec<Option<Entry>> =
            items.par_iter().map(|item| journal.done(&item.id).cloned()).collect();
        let before = kept.iter().flatten().count();
        let gallery = if before < items.len() { self.gallery()? } else { Gallery::new() };
        let done = Mutex::new((before, tell));
        items
            .par_iter()
            .zip(kept)
            .map(|(item, kept)| {
                if let Some(entry) = kept {
                    return Ok(entry);
                }
                let entry = self.entry(system, item, &gallery, journal)?;
                journal.append(&entry)?;
                let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                done.0 += 1;
                let count = done.0;
                let goes_on = (done.1)(count, items.len(), &entry.sample);
                if goes_on { Ok(entry) } else { Err(EvalError::Stopped) }
            })
            .collect()
    }

    /// What all references that are pictures show.
    fn gallery(&self) -> Result<Gallery> {
        let Some(eyes) = self.eyes else { return Ok(Gallery::new()) };
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

    fn request(&self, item: &Item) -> Result<EditRequest> {
        let instruction = Instruction::parse(&item.instruction)?;
        let mut references = Vec::new();
        for name in &instruction.names {
            let path = self.suite.path(name)?;
            let bytes = fs::read(&path).map_err(EvalError::io(&path))?.into();
            references.push(Reference { name: name.clone(), path: Some(path), bytes });
        }
        let seed = self.settings.seed.wrapping_add(item.seed);
        let settings = EditSettings { seed, ..self.settings.clone() };
        Ok(EditRequest { instruction, references, settings })
    }

    fn truth(&self, item: &Item) -> Result<Truth> {
        let target = item.target.as_ref().map(|name| self.suite.picture(name)).transpose()?;
        let source = item.base.as_ref().map(|name| self.suite.picture(name)).transpose()?;
        let mask = item.mask.as_ref().map(|name| self.suite.mask(name)).transpose()?;
        Ok(Truth { source, target, mask })
    }

    fn entry(
        &self,
        system: &dyn System,
        item: &Item,
        gallery: &Gallery,
        journal: &Journal,
    ) -> Result<Entry> {
        let mut sample = Sample::of_item(item);
        let start = Instant::now();
        let made = self.request(item).and_then(|request| {
            let edited = system.edit(item, &request)?;
            Ok((request, edited))
        });
        let mut cost = Cost { seconds: start.elapsed().as_secs_f64(), ..Cost::default() };
        let (request, edited) = match made {
            Ok(made) => made,
            Err(error) if error.is_of_one_item() => {
                let sample = failed(item, sample, &error);
                return Ok(Entry { sample, picture: None, cost });
            }
            Err(error) => return Err(error),
        };
        for time in &edited.timings {
            *cost.stages.entry(time.stage.to_string()).or_default() += time.seconds;
        }
        cost.peak_memory = peak_memory();
        sample.plan = edited.plan.as_ref().map(|plan| plan.text.clone()).unwrap_or_default();
        let truth = self.truth(item)?;
        sample.figures = self.figures(item, &truth, &edited, gallery)?;
        if LOCAL.contains(&&*item.kind) {
            let kept = self.kept(system, item, &truth, (&request, &edited))?;
            sample.figures.extend(kept);
        }
        sample.figures.values_mut().for_each(|value| *value = rounded(*value));
        let bytes = png(&edited)?;
        write_atomically(&output_path(journal.folder(), &item.id), &bytes)?;
        Ok(Entry { sample, picture: Some(sha256(&bytes)), cost })
    }

    fn figures(
        &self,
        item: &Item,
        truth: &Truth,
        edited: &Edited,
        gallery: &Gallery,
    ) -> Result<Figures> {
        let picture = edited.image.to_rgb8();
        let mut view = view_of(&picture, edited);
        let mut figures = Figures::from([("failed".to_string(), 0.0)]);
        // A suite that names no operation does not say what a plan should be.
        if let Some(plan) = edited.plan.as_ref().filter(|_| !item.operation.is_empty()) {
            figures.extend(item::plan_figures(item, plan));
        }
        figures.extend(item::region_figures(item, truth, &view));
        figures.extend(item::target_figures(truth, &picture));
        if let Some(published) = self.published {
            let subjects = &self.subjects(item, truth, &view)?;
            let shown = Shown {
                source: truth.source.as_ref(),
                target: truth.target.as_ref(),
                mask: truth.mask.as_ref(),
                result: &picture,
                subjects,
                source_caption: item.source_caption.as_deref(),
                caption: item.caption.as_deref(),
            };
            figures.extend(published.figures(&shown)?);
        }
        if let Some(eyes) = self.eyes {
            let size = truth.target.as_ref().map_or(picture.dimensions(), RgbImage::dimensions);
            let result = at_size(&picture, size);
            view.picture = &result;
            for view in std::iter::once(view).chain(View::of_truth(truth)) {
                figures.extend(item::edit_figures(item, truth, &view, eyes)?);
                figures.extend(item::reference_figures(item, truth, &view, gallery, eyes)?);
            }
            figures.extend(meaning::figures(item, truth, &view, self.suite, eyes)?);
        }
        Ok(figures)
    }

    /// What objects that were given as pictures look like in the result, beside those pictures.
    fn subjects(
        &self,
        item: &Item,
        truth: &Truth,
        view: &View<'_>,
    ) -> Result<Vec<(RgbImage, RgbImage)>> {
        let frames = item::wanted_frames(item, truth, view);
        let shown = item.wanted.iter().zip(frames).filter(|(s, _)| s.modality == "image");
        shown
            .filter_map(|(subject, frame)| Some((subject.reference.as_ref()?, frame)))
            .map(|(name, frame)| {
                Ok((item::crop(view.picture, &frame), self.suite.reference(name)?))
            })
            .collect()
    }

    /// What the edit kept, composed and, when asked for, as the decoder alone would have it.
    fn kept(
        &self,
        system: &dyn System,
        item: &Item,
        truth: &Truth,
        (request, edited): (&EditRequest, &Edited),
    ) -> Result<Figures> {
        let name = if self.settings.compose { "composed" } else { "raw" };
        let picture = edited.image.to_rgb8();
        let mut figures = item::kept_figures(item, truth, &view_of(&picture, edited), name);
        if self.raw && self.settings.compose && system.composes() {
            let settings = EditSettings { compose: false, ..request.settings.clone() };
            match system.edit(item, &EditRequest { settings, ..request.clone() }) {
                Ok(raw) => {
                    let picture = raw.image.to_rgb8();
                    let view = view_of(&picture, &raw);
                    figures.extend(item::kept_figures(item, truth, &view, "raw"));
                }
                Err(error) if error.is_of_one_item() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(figures)
    }
}

fn view_of<'a>(picture: &'a RgbImage, edited: &'a Edited) -> View<'a> {
    let (plan, aim) = (edited.plan.as_ref(), edited.aim.as_deref());
    View { picture, plan, aim, size: picture.dimensions(), is_truth: false }
}

fn png(edited: &Edited) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let written = edited.image.write_to(&mut bytes, ImageFormat::Png);
    let unwritable =
        |e| AgentError::Unwritable { path: "PNG".into(), source: std::io::Error::other(e) };
    written.map_err(unwritable)?;
    Ok(bytes.into_inner())
}

/// To nine decimals: with so few digits a number that was written and read again is the same, so
/// that a run that goes on gives the same bytes.
fn rounded(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// A refusal or failure counts as wrong in everything that would have been right or wrong.
fn failed(item: &Item, mut sample: Sample, error: &EvalError) -> Sample {
    let mut names = Vec::new();
    if !item.operation.is_empty() {
        names.extend(["plan_right", "base_right", "operation_right"]);
        names.extend(["objects_right", "names_right"]);
    }
    if JUDGED.contains(&sample.kind.as_str()) {
        names.push("edit_right");
    }
    sample.figures = names.into_iter().map(|name| (name.to_string(), 0.0)).collect();
    sample.figures.insert("failed".into(), 1.0);
    sample.error = Some(error.to_string());
    sample
}

/// Boxes are fractions, so that a result of another size is judged all the same; its embedding is
/// compared at the target's size.
fn at_size(result: &RgbImage, (width, height): (u32, u32)) -> RgbImage {
    if result.dimensions() == (width, height) {
        return result.clone();
    }
    image::imageops::resize(result, width, height, image::imageops::FilterType::Triangle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_numbers_survive_being_written_and_read() {
        let mut generator = any2pix_nn::Generator::new(11);
        for scale in [1e-6, 1e-3, 1.0, 100.0, 1e5] {
            for _ in 0..2000 {
                let value =
                    rounded(f64::from(generator.normal()) * f64::from(generator.normal()) * scale);
                let text = serde_json::to_string(&value).unwrap();
                assert_eq!(serde_json::from_str::<f64>(&text).unwrap(), value, "{text}");
            }
        }
    }
}
