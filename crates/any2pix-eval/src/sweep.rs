//! Variants of the settings side by side, and two runs compared item by item.

use std::collections::BTreeMap;

use any2pix_agent::{Decoder, EditSettings};

use crate::metrics::statistics::Estimate;
use crate::report::{Sample, Slice, slices, table};

/// The variants that the method is argued with, the given settings first.
pub fn variants(settings: &EditSettings) -> Vec<(String, EditSettings)> {
    let with = |change: &dyn Fn(&mut EditSettings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        settings
    };
    let other = match settings.decoder {
        Decoder::Source => Decoder::Inversion,
        Decoder::Inversion => Decoder::Source,
    };
    let name = |decoder: Decoder| match decoder {
        Decoder::Source => "decoder source",
        Decoder::Inversion => "decoder inversion",
    };
    let mut all = vec![
        (name(settings.decoder).to_string(), settings.clone()),
        (name(other).to_string(), with(&|s| s.decoder = other)),
        ("no window".to_string(), with(&|s| s.window = false)),
        ("no gallery".to_string(), with(&|s| s.gallery = false)),
        ("no prior".to_string(), with(&|s| s.refine = false)),
    ];
    for tenths in [4, 6, 8, 10] {
        let alpha = f64::from(tenths) / 10.0;
        let changed = with(&|s| {
            s.alpha = Some(alpha);
            s.decoder = Decoder::Inversion;
        });
        all.push((format!("inversion, alpha {alpha:.1}"), changed));
    }
    all
}

/// One row a run: the figures over all items.
pub fn side_by_side(runs: &[(String, Vec<Sample>)]) -> String {
    let whole = |(name, samples): &(String, Vec<Sample>)| {
        slices(samples).into_iter().next().map(|slice| Slice { name: name.clone(), ..slice })
    };
    table(&runs.iter().filter_map(whole).collect::<Vec<_>>())
}

/// The mean of `a - b` for every figure over the items that both have, with its interval.
pub fn differences(a: &[Sample], b: &[Sample]) -> BTreeMap<String, Estimate> {
    let other: BTreeMap<&str, &Sample> = b.iter().map(|s| (s.id.as_str(), s)).collect();
    let mut pairs = BTreeMap::<String, Vec<(f64, f64)>>::new();
    for sample in a {
        let Some(other) = other.get(sample.id.as_str()) else { continue };
        for (name, value) in &sample.figures {
            if let Some(counterpart) = other.figures.get(name) {
                pairs.entry(name.clone()).or_default().push((*value, *counterpart));
            }
        }
    }
    let estimate =
        |(name, pairs): (String, Vec<_>)| Some((name, Estimate::of_differences(&pairs)?));
    pairs.into_iter().filter_map(estimate).collect()
}

/// [`differences`] as a Markdown table.
pub fn comparison(a: &[Sample], b: &[Sample]) -> String {
    let mut text = String::from("| figure | n | difference | 95 % |\n|---|--:|--:|---|\n");
    for (name, Estimate { mean, low, high, count }) in differences(a, b) {
        text.push_str(&format!("| {name} | {count} | {mean:+.3} | {low:+.3} … {high:+.3} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(id: &str, value: f64) -> Sample {
        let figures = [("edit_right".to_string(), value)].into();
        let (kind, modality) = ("add".into(), "text".into());
        let (instruction, plan) = (String::new(), String::new());
        Sample { id: id.into(), kind, modality, instruction, error: None, plan, figures }
    }

    #[test]
    fn runs_are_paired_by_item_and_shown_side_by_side() {
        let a = [sample("1", 1.0), sample("2", 1.0), sample("3", 0.0)];
        let b = [sample("2", 0.0), sample("1", 0.0), sample("4", 1.0)];
        let difference = differences(&a, &b)["edit_right"];
        assert_eq!((difference.mean, difference.count), (1.0, 2));
        assert!(comparison(&a, &b).contains("| edit_right | 2 | +1.000 | +1.000 … +1.000 |"));
        let text = side_by_side(&[("with".into(), a.to_vec()), ("without".into(), b.to_vec())]);
        assert!(text.contains("| with | 3 | 0.67 |") && text.contains("| without | 3 | 0.33 |"));
    }

    #[test]
    fn every_variant_differs_from_the_first() {
        let all = variants(&EditSettings::default());
        assert!(all.iter().skip(1).all(|(_, settings)| *settings != all[0].1));
        assert!(all.iter().all(|(_, settings)| settings.validate().is_ok()));
    }
}
