//! What the page's script draws: figures by column, items with the places of their media.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use any2pix_agent::Instruction;
use any2pix_agent::request::Segment;
use serde::Serialize;

use super::media::{Media, Place};
use crate::journal::output_path;
use crate::report::{self, Sample};
use crate::suite::{Item, Suite};

/// What tells good edits from bad, the best judge first; the page sorts by the first that is
/// there, and ties go to the next.
const TELLING: [&str; 8] = [
    "edit_right",
    "vie_overall",
    "plan_right",
    "dino",
    "clip_sim_direction",
    "similarity",
    "ssim_inside",
    "ssim",
];
/// Numbers are kept to so many parts of one.
const EXACT: f64 = 1e5;

/// What the script reads.
#[derive(Serialize)]
pub(super) struct Data {
    metrics: Vec<Metric>,
    ties: Vec<&'static str>,
    items: Vec<Entry>,
    media: Vec<String>,
}

/// A column.
#[derive(Serialize)]
struct Metric {
    name: String,
    title: String,
    decimals: usize,
    lower_is_better: bool,
    yes_no: bool,
}

/// A card.
#[derive(Serialize)]
struct Entry {
    id: String,
    kind: String,
    modality: String,
    instruction: Vec<Part>,
    plan: String,
    caption: String,
    error: Option<String>,
    /// In the order of the columns.
    figures: Vec<Option<f64>>,
    /// Width over height.
    ratio: f64,
    source: Option<usize>,
    output: Option<usize>,
    target: Option<usize>,
    references: Vec<Reference>,
}

/// Words, or the index of a reference; the source is -1.
#[derive(Serialize)]
#[serde(untagged)]
enum Part {
    Words(String),
    Reference(i32),
}

#[derive(Serialize)]
struct Reference {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spectrogram: Option<usize>,
}

/// Whether less of a figure is better.
pub(super) fn lower_is_better(name: &str) -> bool {
    let name = name.strip_prefix("judge_").unwrap_or(name);
    ["failed", "l1", "l2", "lpips", "reference_rank"].iter().any(|start| {
        name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

/// The columns of the table first, then every other figure.
fn metrics(samples: &[Sample]) -> Vec<Metric> {
    let names: BTreeSet<&str> =
        samples.iter().flat_map(|sample| sample.figures.keys().map(String::as_str)).collect();
    let listed = report::COLUMNS.iter().map(|(name, ..)| *name).filter(|name| names.contains(name));
    let others = names.iter().copied().filter(|name| report::COLUMNS.iter().all(|c| c.0 != *name));
    let metric = |name: &str| {
        let column = report::COLUMNS.iter().find(|(known, ..)| *known == name);
        let values = || samples.iter().filter_map(|sample| sample.figures.get(name));
        Metric {
            name: name.to_string(),
            title: column.map_or_else(|| name.replace('_', " "), |column| column.1.to_string()),
            decimals: column.map_or(3, |column| column.2),
            lower_is_better: lower_is_better(name),
            yes_no: values().all(|value| *value == 0.0 || *value == 1.0),
        }
    };
    listed.chain(others).map(metric).collect()
}

/// The files of an item.
struct Files {
    source: Option<PathBuf>,
    output: PathBuf,
    target: Option<PathBuf>,
    references: Vec<(PathBuf, Option<String>)>,
}

fn instruction(text: &str) -> Instruction {
    // What cannot be parsed was refused as an edit, and is shown as it stands.
    Instruction::parse(text).unwrap_or_else(|_| Instruction {
        segments: vec![Segment::Text(text.to_string())],
        names: Vec::new(),
    })
}

fn label(item: &Item, name: &str) -> Option<String> {
    let subjects = item.wanted.iter().chain(&item.unwanted);
    let named = |subject: &&crate::suite::Subject| subject.reference.as_deref() == Some(name);
    subjects.filter(named).map(|subject| subject.concept.clone()).next()
}

fn files(suite: &Suite, dir: &Path, item: Option<&Item>, sample: &Sample) -> Files {
    let path = |name: &str| suite.path(name).ok();
    let names = instruction(&sample.instruction).names;
    let base = item.and_then(|item| item.base.clone());
    let references = names
        .iter()
        .filter(|name| base.as_ref() != Some(name))
        .map(|name| {
            let label = item.and_then(|item| label(item, name));
            (path(name).unwrap_or_default(), label)
        })
        .collect();
    Files {
        source: base.and_then(|name| path(&name)),
        output: output_path(dir, &sample.id),
        target: item.and_then(|item| path(item.target.as_ref()?)),
        references,
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = PathBuf> {
        let own = [self.source.as_ref(), Some(&self.output), self.target.as_ref()];
        let references = self.references.iter().map(|(path, _)| path);
        own.into_iter().flatten().chain(references).cloned()
    }
}

fn parts(text: &str, base: Option<&str>) -> Vec<Part> {
    let instruction = instruction(text);
    let base = base.and_then(|base| instruction.names.iter().position(|name| name == base));
    let part = |segment: Segment| match segment {
        Segment::Text(words) => Part::Words(words),
        Segment::Reference(index) if base == Some(index) => Part::Reference(-1),
        Segment::Reference(index) => {
            // The source is not counted.
            let before = usize::from(base.is_some_and(|base| base < index));
            Part::Reference((index - before) as i32)
        }
    };
    instruction.segments.into_iter().map(part).collect()
}

fn reference(media: &Media, path: &Path, label: Option<String>) -> Reference {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let nothing = Reference { name, label, picture: None, sound: None, spectrogram: None };
    match media.place(path) {
        Some(Place::Picture { at, .. }) => Reference { picture: Some(at), ..nothing },
        Some(Place::Sound { at, spectrogram }) => {
            Reference { sound: Some(at), spectrogram, ..nothing }
        }
        None => nothing,
    }
}

/// The data of a page over `samples`, whose media take `budget` bytes at most if that can be.
pub(super) fn collect(suite: &Suite, dir: &Path, samples: &[Sample], budget: usize) -> Data {
    let items: BTreeMap<&str, &Item> = suite.items.iter().map(|i| (i.id.as_str(), i)).collect();
    let item = |sample: &Sample| items.get(sample.id.as_str()).copied();
    let files: Vec<Files> =
        samples.iter().map(|sample| files(suite, dir, item(sample), sample)).collect();
    let metrics = metrics(samples);
    let mut entries: Vec<Entry> = samples
        .iter()
        .map(|sample| {
            let item = item(sample);
            let exact = |value: &f64| (value * EXACT).round() / EXACT;
            let value = |metric: &Metric| sample.figures.get(&metric.name).map(exact);
            Entry {
                id: sample.id.clone(),
                kind: sample.kind.clone(),
                modality: sample.modality.clone(),
                instruction: parts(&sample.instruction, item.and_then(|item| item.base.as_deref())),
                plan: sample.plan.clone(),
                caption: item.and_then(|item| item.caption.clone()).unwrap_or_default(),
                error: sample.error.clone(),
                figures: metrics.iter().map(value).collect(),
                ratio: 1.0,
                source: None,
                output: None,
                target: None,
                references: Vec::new(),
            }
        })
        .collect();
    let ties = TELLING.into_iter().filter(|name| metrics.iter().any(|m| m.name == *name)).collect();
    let words = serde_json::to_vec(&(&metrics, &entries)).map_or(0, |text| text.len());
    let paths = files.iter().flat_map(Files::all).collect();
    let media = Media::read(paths, budget.saturating_sub(words));
    for (entry, files) in entries.iter_mut().zip(files) {
        let mut picture = |path: &Path| match media.place(path)? {
            Place::Picture { at, ratio } => {
                entry.ratio = (ratio * EXACT).round() / EXACT;
                Some(at)
            }
            Place::Sound { .. } => None,
        };
        // The last one that is there says how high all are shown.
        let paths = [Some(&files.output), files.target.as_ref(), files.source.as_ref()];
        let places = paths.map(|path| picture(path?));
        [entry.output, entry.target, entry.source] = places;
        let references = files.references.into_iter();
        entry.references =
            references.map(|(path, label)| reference(&media, &path, label)).collect();
    }
    Data { metrics, ties, items: entries, media: media.uris }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_better_only_of_distances_failures_and_ranks() {
        for name in ["failed", "l1", "l2_inside", "lpips", "judge_reference_rank"] {
            assert!(lower_is_better(name), "{name}");
        }
        for name in ["psnr_composed", "ssim", "edit_right", "locator_iou", "reference_found"] {
            assert!(!lower_is_better(name), "{name}");
        }
    }

    #[test]
    fn references_are_counted_without_the_source() {
        let parts = parts("put [a.png] and [b.wav] into [s.png], as [a.png] is", Some("s.png"));
        let text = serde_json::to_string(&parts).unwrap();
        assert_eq!(text, r#"["put ",0," and ",1," into ",-1,", as ",0," is"]"#);
        let hostile = serde_json::to_string(&super::parts("] <b>[", None)).unwrap();
        assert_eq!(hostile, r#"["] <b>["]"#);
    }
}
