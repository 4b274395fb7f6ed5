//! The report: `samples.jsonl`, `results.json`, a Markdown table by kind and modality.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::metrics::statistics::Estimate;
use crate::{EvalError, Result};

/// The columns of the table: what a row of `samples.jsonl` calls it, its heading, its decimals.
const COLUMNS: &[(&str, &str, usize)] = &[
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
    ("ssim", "SSIM", 3),
    ("clip_i", "CLIP-I", 3),
    ("clip_t", "CLIP-T", 3),
    ("dino", "DINO", 3),
    ("clip_sim_direction", "CLIP direction", 3),
    ("aesthetic", "aesthetic", 2),
    ("pickscore", "PickScore", 2),
    ("locator_hit", "IoU ≥ 0.5", 2),
    ("place_obeyed", "place", 2),
    ("reference_found", "reference", 2),
    ("similarity", "similarity", 3),
    ("seconds", "seconds", 2),
];

/// One item's numbers; yes and no are 1 and 0, and what does not apply is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The item.
    pub id: String,
    /// add, remove, replace, …
    pub kind: String,
    /// What its objects are given as.
    pub modality: String,
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

/// The estimates of one slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// `all`, a kind, a modality, or `kind × modality`.
    pub name: String,
    /// Items in it.
    pub count: usize,
    /// A mean with its interval for every figure.
    pub figures: BTreeMap<String, Estimate>,
}

fn slice<'a>(name: String, samples: impl Iterator<Item = &'a Sample>) -> Slice {
    let mut values = BTreeMap::<String, Vec<f64>>::new();
    let mut count = 0;
    for sample in samples {
        count += 1;
        for (figure, value) in &sample.figures {
            values.entry(figure.clone()).or_default().push(*value);
        }
    }
    let estimate = |(name, values): (String, Vec<f64>)| Some((name, Estimate::of(&values)?));
    Slice { name, count, figures: values.into_iter().filter_map(estimate).collect() }
}

/// All items, then by kind, by modality, and by both.
pub fn slices(samples: &[Sample]) -> Vec<Slice> {
    let mut all = vec![slice("all".into(), samples.iter())];
    let keys: [fn(&Sample) -> String; 3] = [
        |sample| sample.kind.clone(),
        |sample| sample.modality.clone(),
        |sample| format!("{} × {}", sample.kind, sample.modality),
    ];
    for key in keys {
        let mut groups = BTreeMap::<String, Vec<&Sample>>::new();
        for sample in samples {
            groups.entry(key(sample)).or_default().push(sample);
        }
        all.extend(groups.into_iter().map(|(name, group)| slice(name, group.into_iter())));
    }
    all
}

/// The slices as a Markdown table; columns that nobody has are left out.
pub fn table(slices: &[Slice]) -> String {
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
                Some(estimate) => text.push_str(&format!(" {:.*} |", decimals, estimate.mean)),
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
    text
}

/// Figures that no sample has, each with why.
pub type Absent = BTreeMap<&'static str, String>;

/// Writes `samples.jsonl`, `results.json` and `table.md` into `dir`; `about` says what was run,
/// `absent` what could not be measured.
pub fn write(
    dir: &Path,
    samples: &[Sample],
    absent: &Absent,
    about: &serde_json::Value,
) -> Result<String> {
    fs::create_dir_all(dir).map_err(EvalError::io(dir))?;
    let slices = slices(samples);
    let mut table = table(&slices);
    if !absent.is_empty() {
        table.push_str("\nNot measured:\n\n");
        absent.iter().for_each(|(name, why)| table.push_str(&format!("- `{name}`: {why}\n")));
    }
    let rows: String = samples.iter().map(|sample| format!("{}\n", json!(sample))).collect();
    let results = json!({ "run": about, "absent": absent, "slices": slices });
    let results = serde_json::to_string_pretty(&results).unwrap_or_default() + "\n";
    for (name, text) in [("samples.jsonl", &rows), ("results.json", &results), ("table.md", &table)]
    {
        let path = dir.join(name);
        fs::write(&path, text).map_err(EvalError::io(&path))?;
    }
    Ok(table)
}

/// The samples that [`write()`] left in `dir`.
pub fn read(dir: &Path) -> Result<Vec<Sample>> {
    let path = dir.join("samples.jsonl");
    let text = fs::read_to_string(&path).map_err(EvalError::io(&path))?;
    let row = |line: &str| serde_json::from_str(line).map_err(|e| EvalError::malformed(&path, e));
    text.lines().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: &str, modality: &str, figures: &[(&str, f64)]) -> Sample {
        Sample {
            id: "x".into(),
            kind: kind.into(),
            modality: modality.into(),
            instruction: String::new(),
            error: None,
            plan: String::new(),
            figures: figures.iter().map(|(n, v)| (n.to_string(), *v)).collect(),
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
        let table = table(&slices);
        assert!(table.starts_with("| slice | n | plan | PSNR composed |\n"), "{table}");
        assert!(table.contains("| add | 2 | 0.50 | 40.0 |"), "{table}");
        assert!(table.contains("| remove | 1 | – | – |"), "{table}");
    }
}
