//! Two runs of one suite compared item by item, and gates that say when the difference is too bad.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use crate::metrics::statistics::Estimate;
use crate::report::{self, Sample, Slice, estimated, parts, table_of};
use crate::{EvalError, Result};

/// What must be the same in two runs whose figures are compared.
const COMMON: [(&str, &str); 3] = [
    ("/suite/sha256", "on another suite"),
    ("/eyes", "by another judge"),
    ("/metrics", "with other weights of the published metrics"),
];

/// The first run less the second, over the items and figures that both have.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Items that both have.
    pub pairs: usize,
    /// Items that only the first has.
    pub only_a: Vec<String>,
    /// Items that only the second has.
    pub only_b: Vec<String>,
    /// Means of the first run, over the pairs.
    pub a: Vec<Slice>,
    /// Means of the second.
    pub b: Vec<Slice>,
    /// Means of the differences of pairs, with their intervals: the paired bootstrap.
    pub differences: Vec<Slice>,
}

fn without(these: &[Sample], those: &BTreeMap<&str, &Sample>) -> Vec<String> {
    let alone = these.iter().filter(|sample| !those.contains_key(sample.id.as_str()));
    alone.map(|sample| sample.id.clone()).collect()
}

impl Comparison {
    /// Of two runs by their rows.
    pub fn of(a: &[Sample], b: &[Sample]) -> Self {
        let in_a: BTreeMap<&str, &Sample> = a.iter().map(|s| (s.id.as_str(), s)).collect();
        let in_b: BTreeMap<&str, &Sample> = b.iter().map(|s| (s.id.as_str(), s)).collect();
        let pairs: Vec<(&Sample, &Sample)> =
            a.iter().filter_map(|s| Some((s, *in_b.get(s.id.as_str())?))).collect();
        let of_both = |value: fn(f64, f64) -> f64| -> Vec<Slice> {
            let figures: Vec<BTreeMap<String, f64>> = pairs
                .iter()
                .map(|(a, b)| {
                    let both = |(name, x): (&String, &f64)| {
                        Some((name.clone(), value(*x, *b.figures.get(name)?)))
                    };
                    a.figures.iter().filter_map(both).collect()
                })
                .collect();
            let rows: Vec<_> = pairs.iter().map(|(a, _)| *a).zip(&figures).collect();
            estimated(&rows)
        };
        Self {
            pairs: pairs.len(),
            only_a: without(a, &in_b),
            only_b: without(b, &in_a),
            a: of_both(|a, _| a),
            b: of_both(|_, b| b),
            differences: of_both(|a, b| a - b),
        }
    }

    /// Of the reports in two folders.
    ///
    /// # Errors
    /// When the runs cannot be compared: they are of other suites or were judged by others, or
    /// have no item in common.
    pub fn read(a: &Path, b: &Path) -> Result<Self> {
        let (run_a, run_b) = (report::read_run(a)?, report::read_run(b)?);
        let nothing = Value::Null;
        for (field, what) in COMMON {
            let of = |run: &'_ Value| run.pointer(field).unwrap_or(&nothing).clone();
            if of(&run_a) != of(&run_b) {
                let reason = format!("was measured {what} than {}", a.display());
                return Err(EvalError::malformed(b, reason));
            }
        }
        let comparison = Self::of(&report::read(a)?, &report::read(b)?);
        if comparison.pairs == 0 {
            let reason = format!("has no item in common with {}", a.display());
            return Err(EvalError::malformed(b, reason));
        }
        Ok(comparison)
    }

    /// All figures over all items, then the differences of every slice by kind and modality; a
    /// star marks those whose interval leaves out 0.
    pub fn table(&self) -> String {
        let mut text = String::from("| figure | n | A | B | A − B | 95 % |\n");
        text.push_str("|---|--:|--:|--:|--:|---|\n");
        let whole =
            |slices: &[Slice]| slices.first().map(|s| s.figures.clone()).unwrap_or_default();
        let (a, b) = (whole(&self.a), whole(&self.b));
        for (name, Estimate { mean, low, high, count }) in whole(&self.differences) {
            let of = |run: &BTreeMap<String, Estimate>| run.get(&name).map_or(0.0, |e| e.mean);
            let (a, b) = (of(&a), of(&b));
            text.push_str(&format!(
                "| {name} | {count} | {a:.3} | {b:.3} | {mean:+.3} | {low:+.3} … {high:+.3} |\n"
            ));
        }
        text.push_str("\nA − B by slice:\n\n");
        let slices: Vec<Slice> =
            self.differences.iter().filter(|s| parts(&s.name) < 3).cloned().collect();
        text.push_str(&table_of(&slices, |decimals, difference| {
            let is_sure = difference.low > 0.0 || difference.high < 0.0;
            let star = if is_sure { "\\*" } else { "" };
            format!("{:+.*}{star}", decimals, difference.mean)
        }));
        for (run, alone) in [("A", &self.only_a), ("B", &self.only_b)] {
            if !alone.is_empty() {
                text.push_str(&format!("\nOnly in {run}: {} items.\n", alone.len()));
            }
        }
        text
    }

    /// What the gates say.
    ///
    /// # Errors
    /// A gate about a figure or slice that the comparison does not have: it would never fail.
    pub fn check(&self, gates: &[Gate]) -> Result<Vec<Verdict>> {
        gates.iter().map(|gate| gate.judge(self)).collect()
    }
}

/// What of a difference a gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Mean,
    Low,
    High,
}

/// Which side of its number a gate minds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// When a comparison fails.
///
/// ```text
/// gate    = measure [ "@" slice ] order number
/// measure = figure | "low(" figure ")" | "high(" figure ")"
/// order   = "<" | "<=" | ">" | ">="
/// ```
///
/// A figure by itself is the mean of A − B over the pairs; `low(…)` and `high(…)` are the ends of
/// its 95 % interval: `high(edit_right) < 0` fails only when A is worse beyond doubt. A slice is
/// named as in the report (` x ` may stand for ` × `); without one it is `all`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    text: String,
    figure: String,
    measure: Measure,
    slice: String,
    order: Order,
    number: f64,
}

/// What a gate says of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The gate, as it was written.
    pub gate: String,
    /// What it looked at.
    pub value: f64,
    /// Whether the comparison fails.
    pub fails: bool,
}

impl FromStr for Gate {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason: &str| EvalError::syntax(text, reason);
        let form = "a gate is `FIGURE[@SLICE] < NUMBER`, with <, <=, > or >=";
        let at = text.find(['<', '>']).ok_or_else(|| wrong(form))?;
        let (left, right) = text.split_at(at);
        let (order, number) = match right.split_at(1) {
            ("<", rest) => {
                rest.strip_prefix('=').map_or((Order::Less, rest), |r| (Order::AtMost, r))
            }
            (_, rest) => {
                rest.strip_prefix('=').map_or((Order::Greater, rest), |r| (Order::AtLeast, r))
            }
        };
        let number: f64 = number.trim().parse().map_err(|_| wrong(form))?;
        if !number.is_finite() {
            return Err(wrong("the number must be finite"));
        }
        let (measured, slice) = left.split_once('@').unwrap_or((left, "all"));
        let measured = measured.trim();
        let inner = |name: &str| measured.strip_prefix(name)?.strip_suffix(')');
        let (measure, figure) = match (inner("low("), inner("high(")) {
            (Some(figure), _) => (Measure::Low, figure),
            (_, Some(figure)) => (Measure::High, figure),
            _ => (Measure::Mean, measured),
        };
        let is_figure = |c: char| c.is_alphanumeric() || c == '_';
        if figure.is_empty() || !figure.chars().all(is_figure) || slice.trim().is_empty() {
            return Err(wrong(form));
        }
        let slice = slice.trim().replace(" x ", " × ");
        Ok(Self { text: text.to_string(), figure: figure.into(), measure, slice, order, number })
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Gate {
    fn judge(&self, comparison: &Comparison) -> Result<Verdict> {
        let slice = comparison.differences.iter().find(|slice| slice.name == self.slice);
        let slice = slice.ok_or_else(|| {
            EvalError::syntax(&self.text, format!("no slice is called `{}`", self.slice))
        })?;
        let found = slice.figures.get(&self.figure).ok_or_else(|| {
            let reason = format!("no pair in `{}` has the figure `{}`", self.slice, self.figure);
            EvalError::syntax(&self.text, reason)
        })?;
        let value = match self.measure {
            Measure::Mean => found.mean,
            Measure::Low => found.low,
            Measure::High => found.high,
        };
        let fails = match self.order {
            Order::Less => value < self.number,
            Order::AtMost => value <= self.number,
            Order::Greater => value > self.number,
            Order::AtLeast => value >= self.number,
        };
        Ok(Verdict { gate: self.text.clone(), value, fails })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> (Vec<Sample>, Vec<Sample>) {
        let sample = |id: &str, value: f64| Sample {
            kind: "add".into(),
            modality: "text".into(),
            ..Sample::of_figures(id, [("edit_right", value)])
        };
        let a = vec![sample("1", 1.0), sample("2", 1.0), sample("3", 0.0)];
        let b = vec![sample("2", 0.0), sample("1", 0.0), sample("4", 1.0)];
        (a, b)
    }

    #[test]
    fn runs_are_paired_by_item() {
        let (a, b) = runs();
        let comparison = Comparison::of(&a, &b);
        assert_eq!(comparison.pairs, 2);
        assert_eq!((&*comparison.only_a[0], &*comparison.only_b[0]), ("3", "4"));
        let difference = comparison.differences[0].figures["edit_right"];
        assert_eq!((difference.mean, difference.low, difference.count), (1.0, 1.0, 2));
        let table = comparison.table();
        let row = "| edit_right | 2 | 1.000 | 0.000 | +1.000 | +1.000 … +1.000 |";
        assert!(table.contains(row), "{table}");
        assert!(table.contains("| add × text | 2 | +1.00\\* |"), "{table}");
    }

    #[test]
    fn a_gate_looks_at_the_mean_or_at_an_end_of_the_interval() {
        let (a, b) = runs();
        let comparison = Comparison::of(&b, &a);
        for (gate, fails) in [
            ("edit_right < -0.02", true),
            ("edit_right<-1", false),
            ("edit_right <= -1.0", true),
            ("edit_right@add x text > -2", true),
            ("high(edit_right)@add >= 0", false),
            ("low(edit_right) < 0", true),
        ] {
            let verdicts = comparison.check(&[gate.parse().unwrap()]).unwrap();
            assert_eq!((verdicts[0].value, verdicts[0].fails), (-1.0, fails), "{gate}");
        }
        for gate in ["edit_wrong < 0", "edit_right@remove < 0"] {
            assert!(comparison.check(&[gate.parse().unwrap()]).is_err(), "{gate}");
        }
    }

    #[test]
    fn what_is_no_gate_is_refused() {
        for text in [
            "",
            "edit_right",
            "edit_right <",
            "< 3",
            "edit_right = 3",
            "edit_right < NaN",
            "edit_right < 1 2",
            "edit_right @ < 1",
            "mid(edit_right) < 1",
            "low(edit_right < 1",
            "edit right < 1",
            "edit_right << 1",
            "edit_right < inf",
        ] {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
    }
}
