//! The report: `samples.jsonl`, `results.json`, a Markdown table by slices; apart from them, as it
//! differs from run to run, `timings.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use any2pix_agent::storage::write_atomically;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::journal::{Entry, pretty};
use crate::metrics::statistics::{Bootstrap, Estimate};
use crate::suite::Item;
use crate::{EvalError, Result};

/// A row for each item, in the order of the suite.
pub const SAMPLES: &str = "samples.jsonl";
/// What was run, and the estimates of every slice.
pub const RESULTS: &str = "results.json";
pub(crate) const TABLE: &str = "table.md";
const TIMINGS: &str = "timings.json";

/// The columns of the table: what a row of `samples.jsonl` calls it, its heading, its decimals.
pub(crate) const COLUMNS: &[(&str, &str, usize)] = &[
    ("failed", "failed", 2),
    ("plan_right", "plan", 2),
    ("names_right", "names", 2),
    ("edit_right", "edit", 2),
    ("wanted_there", "wanted there", 2),
    ("unwanted_gone", "unwanted gone", 2),
    ("rest_there", "rest there", 2),
    ("psnr_composed", "PSNR composed", 1),
    ("psnr_raw", "PSNR raw", 1),
    ("ssim_composed", "SSIM composed", 3),
    ("l1", "L1", 3),
    ("l2", "L2", 3),
    ("psnr", "PSNR", 1),
    ("ssim", "SSIM", 3),
    ("l1_inside", "L1 inside", 3),
    ("psnr_inside", "PSNR inside", 1),
    ("ssim_inside", "SSIM inside", 3),
    ("l1_outside", "L1 outside", 3),
    ("lpips", "LPIPS", 3),
    ("lpips_inside", "LPIPS inside", 3),
    ("lpips_outside", "LPIPS outside", 3),
    ("clip_i", "CLIP-I", 3),
    ("clip_t", "CLIP-T", 3),
    ("dino", "DINO", 3),
    ("dino_sub", "DINO_sub", 3),
    ("dino_ref", "DINO_ref", 3),
    ("clip_sim_direction", "CLIP_dir", 3),
    ("clip_sim_image", "CLIP_im", 3),
    ("clip_sim_1", "CLIP_out", 3),
    ("PlayroomCLIP_dir", "PlayroomCLIP_dir", 3),
    ("PlayroomCLIP_im", "PlayroomCLIP_im", 3),
    ("PlayroomCLIP_out", "PlayroomCLIP_out", 3),
    ("PlayroomCLIP_aim", "PlayroomCLIP_aim", 3),
    ("PlayroomCLIP_caption", "PlayroomCLIP_caption", 3),
    ("PlayroomCLIP_sound", "PlayroomCLIP_sound", 3),
    ("aesthetic", "aesthetic", 2),
    ("pickscore", "PickScore", 2),
    ("vie_sc", "VIE SC", 2),
    ("vie_pq", "VIE PQ", 2),
    ("vie_overall", "VIE overall", 2),
    ("locator_hit", "IoU ≥ 0.5", 2),
    ("place_obeyed", "place", 2),
    ("reference_found", "reference", 2),
    ("similarity", "similarity", 3),
];

/// One item's numbers; yes and no are 1 and 0, and what does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The item.
    pub id: String,
    /// add, remove, replace, …
    pub kind: String,
    /// What its objects are given as.
    pub modality: String,
    /// `no object`, `one object` or `several objects`.
    #[serde(default)]
    pub objects: String,
    /// The instruction as it was run.
    pub instruction: String,
    /// Why there is no picture, when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the planner said.
    #[serde(default)]
    pub plan: String,
    /// The numbers.
    pub figures: BTreeMap<String, f64>,
}

impl Sample {
    /// An item of which nothing is measured yet.
    pub fn of_item(item: &Item) -> Self {
        Self {
            id: item.id.clone(),
            kind: item.kind.clone(),
            modality: item.modality(),
            objects: item.objects().to_string(),
            instruction: item.instruction.clone(),
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(crate) fn of_figures<const N: usize>(id: &str, figures: [(&str, f64); N]) -> Self {
        let figures = figures.map(|(name, value)| (name.to_string(), value)).into();
        Self { id: id.into(), figures, ..Self::default() }
    }
}

/// The estimates of one slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// `all`, a kind, a modality, a count of objects, or several of these with ` × ` between.
    pub name: String,
    /// Items in it.
    pub count: usize,
    /// A mean with its interval for every figure.
    pub figures: BTreeMap<String, Estimate>,
}

/// Which slices there are.
type Key = fn(&Sample) -> String;

const KEYS: [Key; 6] = [
    |_| "all".into(),
    |sample| sample.kind.clone(),
    |sample| sample.modality.clone(),
    |sample| sample.objects.clone(),
    |sample| format!("{} × {}", sample.kind, sample.modality),
    |sample| format!("{} × {} × {}", sample.kind, sample.modality, sample.objects),
];

/// Whether a slice is by more than one thing.
pub(crate) fn parts(name: &str) -> usize {
    name.split(" × ").count()
}

/// What is said of samples in groups: all, by kind, by modality, by count of objects, by kind and
/// modality, by all three.
pub(crate) fn grouped<T>(rows: &[(&Sample, T)]) -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    for key in KEYS {
        let mut groups = BTreeMap::<String, Vec<usize>>::new();
        for (index, (sample, _)) in rows.iter().enumerate() {
            let name = key(sample);
            if !name.is_empty() {
                groups.entry(name).or_default().push(index);
            }
        }
        all.extend(groups);
    }
    all
}

/// A mean with its interval for every figure of every slice.
pub(crate) fn estimated(rows: &[(&Sample, &BTreeMap<String, f64>)]) -> Vec<Slice> {
    let slice = |(name, members): (String, Vec<usize>)| {
        let mut values = BTreeMap::<&String, Vec<f64>>::new();
        for (figure, value) in members.iter().flat_map(|index| rows[*index].1) {
            values.entry(figure).or_default().push(*value);
        }
        let mut bootstrap = Bootstrap::default();
        let mut estimate = |(name, values): (&String, Vec<f64>)| {
            Some((name.clone(), bootstrap.estimate(&values)?))
        };
        let figures = values.into_iter().filter_map(&mut estimate).collect();
        Slice { name, count: members.len(), figures }
    };
    grouped(rows).into_par_iter().map(slice).collect()
}

/// The slices of a run: all items, then by kind, by modality, by count of objects, and by several.
pub fn slices(samples: &[Sample]) -> Vec<Slice> {
    let rows: Vec<_> = samples.iter().map(|sample| (sample, &sample.figures)).collect();
    estimated(&rows)
}

/// The slices as a Markdown table; columns that nobody has are left out.
pub fn table(slices: &[Slice]) -> String {
    table_of(slices, |decimals, estimate| format!("{:.*}", decimals, estimate.mean))
}

/// [`table`] with cells of one's own.
pub(crate) fn table_of(slices: &[Slice], cell: impl Fn(usize, &Estimate) -> String) -> String {
    let used: Vec<_> = COLUMNS
        .iter()
        .filter(|(name, ..)| slices.iter().any(|slice| slice.figures.contains_key(*name)))
        .collect();
    let mut text = String::from("| slice | n |");
    used.iter().for_each(|(_, heading, _)| text.push_str(&format!(" {heading} |")));
    text.push_str("\n|---|--:|");
    text.push_str(&"--:|".repeat(used.len()));
    text.push('\n');
    for slice in slices {
        text.push_str(&format!("| {} | {} |", slice.name, slice.count));
        for (name, _, decimals) in &used {
            match slice.figures.get(*name) {
                Some(estimate) => text.push_str(&format!(" {} |", cell(*decimals, estimate))),
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
    text
}

/// Figures that no sample has, each with why.
pub type Absent = BTreeMap<&'static str, String>;

/// What a report says beside its numbers.
pub struct About {
    /// All that decides the figures.
    pub run: Value,
    /// The models that each published figure is made with.
    pub made_with: Value,
    /// What could not be measured, and why.
    pub absent: Absent,
}

/// Writes `samples.jsonl`, `results.json` and `table.md` into `dir`; gives the table.
pub fn write(dir: &Path, samples: &[Sample], about: &About) -> Result<String> {
    fs::create_dir_all(dir).map_err(EvalError::io(dir))?;
    let slices = slices(samples);
    let narrow: Vec<Slice> = slices.iter().filter(|s| parts(&s.name) < 3).cloned().collect();
    let mut table = table(&narrow);
    let About { run, made_with, absent } = about;
    if !absent.is_empty() {
        table.push_str("\nNot measured:\n\n");
        absent.iter().for_each(|(name, why)| table.push_str(&format!("- `{name}`: {why}\n")));
    }
    let rows: String = samples.iter().map(|sample| format!("{}\n", json!(sample))).collect();
    let results = json!({ "run": run, "made_with": made_with, "absent": absent, "slices": slices });
    write_atomically(&dir.join(SAMPLES), rows.as_bytes())?;
    write_atomically(&dir.join(RESULTS), &pretty(&results))?;
    write_atomically(&dir.join(TABLE), table.as_bytes())?;
    Ok(table)
}

/// The samples that [`write()`] left in `dir`.
pub fn read(dir: &Path) -> Result<Vec<Sample>> {
    let path = dir.join(SAMPLES);
    let text = fs::read_to_string(&path).map_err(EvalError::io(&path))?;
    let row = |line: &str| serde_json::from_str(line).map_err(|e| EvalError::malformed(&path, e));
    text.lines().map(row).collect()
}

/// What `results.json` in `dir` says was run.
pub fn read_run(dir: &Path) -> Result<Value> {
    let path = dir.join(RESULTS);
    let text = fs::read_to_string(&path).map_err(EvalError::io(&path))?;
    let mut results: Value =
        serde_json::from_str(&text).map_err(|e| EvalError::malformed(&path, e))?;
    Ok(results["run"].take())
}

/// Seconds and memory of the edits: all of them, and the mean of each stage.
pub fn costs(entries: &[Entry]) -> Value {
    let mut seconds: Vec<f64> = entries.iter().map(|entry| entry.cost.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let count = seconds.len();
    let at = |part: f64| seconds.get(((count as f64 - 1.0) * part).round().max(0.0) as usize);
    let mut stages = BTreeMap::<&str, f64>::new();
    for (stage, seconds) in entries.iter().flat_map(|entry| &entry.cost.stages) {
        *stages.entry(stage).or_default() += seconds / count as f64;
    }
    json!({
        "items": count,
        "seconds": {
            "mean": seconds.iter().sum::<f64>() / count.max(1) as f64,
            "median": at(0.5), "p95": at(0.95), "max": at(1.0),
        },
        "stages": stages,
        "peak_memory_bytes": entries.iter().filter_map(|entry| entry.cost.peak_memory).max(),
    })
}

/// Writes `timings.json` into `dir`.
pub fn write_costs(dir: &Path, costs: &Value) -> Result<()> {
    Ok(write_atomically(&dir.join(TIMINGS), &pretty(costs))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: &str, modality: &str, figures: &[(&str, f64)]) -> Sample {
        Sample {
            kind: kind.into(),
            modality: modality.into(),
            objects: "one object".into(),
            figures: figures.iter().map(|(n, v)| (n.to_string(), *v)).collect(),
            ..Sample::default()
        }
    }

    #[test]
    fn means_are_over_the_items_that_have_the_figure() {
        let samples = [
            sample("add", "text", &[("plan_right", 1.0)]),
            sample("add", "sound", &[("plan_right", 0.0), ("psnr_composed", 40.0)]),
            sample("remove", "text", &[]),
        ];
        let slices = slices(&samples);
        let find = |name: &str| slices.iter().find(|s| s.name == name).unwrap();
        assert_eq!(find("all").count, 3);
        assert_eq!(find("all").figures["plan_right"].mean, 0.5);
        assert_eq!(find("add").figures["psnr_composed"].count, 1);
        assert_eq!(find("add × sound").figures["plan_right"].mean, 0.0);
        assert_eq!(find("add × sound × one object").count, 1);
        assert_eq!(find("one object").count, 3);
        let table = table(&slices);
        assert!(table.starts_with("| slice | n | plan | PSNR composed |\n"), "{table}");
        assert!(table.contains("| add | 2 | 0.50 | 40.0 |"), "{table}");
        assert!(table.contains("| remove | 1 | – | – |"), "{table}");
    }

    #[test]
    fn costs_are_apart_from_the_figures() {
        let entry = |seconds: f64| Entry {
            sample: Sample::default(),
            picture: None,
            cost: crate::journal::Cost {
                seconds,
                stages: [("plan".to_string(), seconds / 2.0)].into(),
                peak_memory: Some((seconds * 100.0) as u64),
            },
        };
        let costs = costs(&[entry(1.0), entry(3.0), entry(2.0)]);
        assert_eq!(costs["seconds"]["mean"], json!(2.0));
        assert_eq!(costs["seconds"]["max"], json!(3.0));
        assert_eq!(
            (&costs["stages"]["plan"], &costs["peak_memory_bytes"]),
            (&json!(1.0), &json!(300))
        );
    }
}
