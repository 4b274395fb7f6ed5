//! Sweeps: one run for each point of a grid of settings, and what the figures do along it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use any2pix_agent::storage::write_atomically;
use serde::Serialize;
use serde_json::{Value, json};

use crate::asked::{Asked, label};
use crate::journal::pretty;
use crate::metrics::statistics::Estimate;
use crate::report::{Sample, Slice, parts, slices, table};
use crate::{EvalError, Result};

/// The points of a sweep are no more.
const MOST_POINTS: usize = 1000;

/// A setting and the values that it takes.
///
/// ```text
/// axis   = name "=" ( number ":" number ":" number | value { "," value } )
/// value  = number | "on" | "off" | word | number "/" number …
/// ```
///
/// A range is from, to, and the distance between neighbours; `to` belongs to it. `mix=0/0.4/1` is
/// one value of three numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The setting.
    pub name: String,
    /// Its values, in order.
    pub values: Vec<Value>,
}

fn number(text: &str) -> Option<Value> {
    let value: f64 = text.parse().ok().filter(|value: &f64| value.is_finite())?;
    Some(as_json(value))
}

/// Whole numbers are written as such, so that counts may be given too.
fn as_json(value: f64) -> Value {
    // The rounding takes away what adding up a range's steps leaves.
    let value = (value * 1e10).round() / 1e10;
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn value(text: &str) -> Value {
    match text {
        "on" | "true" => json!(true),
        "off" | "false" => json!(false),
        _ => number(text).unwrap_or_else(|| {
            let several: Option<Vec<Value>> = text.split('/').map(number).collect();
            several.map_or_else(|| json!(text), Value::Array)
        }),
    }
}

fn range(text: &str, [from, to, step]: [f64; 3]) -> Result<Vec<Value>> {
    let count = (to - from) / step + 1.0 + 1e-9;
    if !(1.0..=MOST_POINTS as f64).contains(&count) {
        let reason = format!("a range is FROM:TO:STEP and has 1 to {MOST_POINTS} values");
        return Err(EvalError::syntax(text, reason));
    }
    Ok((0..count as usize).map(|index| as_json(from + index as f64 * step)).collect())
}

impl FromStr for Axis {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self> {
        let form = "an axis is `SETTING=FROM:TO:STEP` or `SETTING=VALUE,VALUE,…`";
        let wrong = || EvalError::syntax(text, form);
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        let name = name.trim().replace('-', "_");
        let values = values.trim();
        if name.is_empty() || values.is_empty() {
            return Err(wrong());
        }
        let values = if values.contains(':') {
            let numbers: Option<Vec<f64>> =
                values.split(':').map(|n| number(n.trim())?.as_f64()).collect();
            let bounds = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
            range(text, bounds.ok_or_else(wrong)?)?
        } else {
            values.split(',').map(|text| value(text.trim())).collect()
        };
        if values.iter().enumerate().any(|(i, value)| values[..i].contains(value)) {
            return Err(EvalError::syntax(text, "a value is given twice"));
        }
        Ok(Self { name, values })
    }
}

/// Names of settings and their values, in the order of the axes.
pub type Place = Vec<(String, Value)>;

/// One point of a grid: a value on each axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Where it is.
    pub values: Place,
    /// What is run there.
    pub asked: Asked,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = |(name, value): &(String, Value)| format!("{name}={}", label(value));
        f.pad(&self.values.iter().map(written).collect::<Vec<_>>().join(","))
    }
}

/// The points of the grid that the axes span; the last axis runs fastest.
///
/// # Errors
/// For an axis that is no setting, a value that it cannot take, and more than 1000 points.
pub fn grid(axes: &[Axis], start: &Asked) -> Result<Vec<Point>> {
    let size = axes.iter().try_fold(1usize, |size, axis| size.checked_mul(axis.values.len()));
    if size.is_none_or(|size| size > MOST_POINTS) {
        let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
        let reason = format!("the grid has more than {MOST_POINTS} points");
        return Err(EvalError::syntax(names.join(" × "), reason));
    }
    let mut points = vec![Point { values: Vec::new(), asked: start.clone() }];
    for (index, Axis { name, values }) in axes.iter().enumerate() {
        if axes[..index].iter().any(|axis| axis.name == *name) {
            return Err(EvalError::syntax(name, "two axes have this name"));
        }
        let mut next = Vec::new();
        for point in &points {
            for value in values {
                let asked = point.asked.with(name, value)?;
                let mut values = point.values.clone();
                values.push((name.clone(), value.clone()));
                next.push(Point { values, asked });
            }
        }
        points = next;
    }
    Ok(points)
}

/// The figures of the run at a point.
struct Measured<'a> {
    point: &'a Point,
    slices: Vec<Slice>,
}

/// A point of a curve.
#[derive(Serialize)]
struct Mark<'a> {
    x: f64,
    label: String,
    figures: &'a BTreeMap<String, Estimate>,
}

/// Writes into `out` what the runs at `points` came to; gives the table of all items.
///
/// - `sweep.json`: the axes, and for each point its values, folder and slices;
/// - `curves.json`: for each slice, axis, and values of the other axes a curve: along the axis (by
///   its number, or by the place of a value that is none) every figure with its interval;
/// - `sweep.md`: a table for each slice, a row for each point.
pub fn write(out: &Path, axes: &[Axis], runs: &[(Point, Vec<Sample>)]) -> Result<String> {
    let measured: Vec<Measured> = runs
        .iter()
        .map(|(point, samples)| {
            let slices = slices(samples).into_iter().filter(|s| parts(&s.name) < 2).collect();
            Measured { point, slices }
        })
        .collect();
    let over: Vec<Value> =
        axes.iter().map(|axis| json!({ "name": axis.name, "values": axis.values })).collect();
    let points: Vec<Value> = measured
        .iter()
        .map(|Measured { point, slices }| {
            let values: serde_json::Map<String, Value> = point.values.iter().cloned().collect();
            json!({ "values": values, "folder": point.to_string(), "slices": slices })
        })
        .collect();
    let names = measured.first().map(|m| m.slices.iter().map(|s| s.name.clone()).collect());
    let names: Vec<String> = names.unwrap_or_default();
    let curves: Vec<Value> = names.iter().flat_map(|name| curves(name, axes, &measured)).collect();
    let tables: Vec<String> = names.iter().map(|name| rows_of(name, &measured)).collect();
    let text: String =
        names.iter().zip(&tables).map(|(name, table)| format!("## {name}\n\n{table}\n")).collect();
    write_atomically(&out.join("sweep.json"), &pretty(&json!({ "over": over, "points": points })))?;
    write_atomically(&out.join("curves.json"), &pretty(&json!({ "curves": curves })))?;
    write_atomically(&out.join("sweep.md"), text.as_bytes())?;
    Ok(tables.into_iter().next().unwrap_or_default())
}

/// A slice at every point, a row each.
fn rows_of(name: &str, measured: &[Measured]) -> String {
    let row = |Measured { point, slices }: &Measured| {
        let slice = slices.iter().find(|slice| slice.name == name)?.clone();
        Some(Slice { name: point.to_string(), ..slice })
    };
    table(&measured.iter().filter_map(row).collect::<Vec<_>>())
}

/// The curves of a slice: along each axis that has more than one value, for all values of the
/// others.
fn curves(name: &str, axes: &[Axis], measured: &[Measured]) -> Vec<Value> {
    let mut curves = Vec::new();
    for (index, axis) in axes.iter().enumerate().filter(|(_, axis)| axis.values.len() > 1) {
        let mut groups: Vec<(Place, Vec<Mark>)> = Vec::new();
        for Measured { point, slices } in measured {
            let Some(slice) = slices.iter().find(|slice| slice.name == name) else { continue };
            let mut fixed = point.values.clone();
            let (_, value) = fixed.remove(index);
            let place = axis.values.iter().position(|other| *other == value).unwrap_or(0);
            let x = value.as_f64().unwrap_or(place as f64);
            let mark = Mark { x, label: label(&value), figures: &slice.figures };
            match groups.iter_mut().find(|(others, _)| *others == fixed) {
                Some((_, marks)) => marks.push(mark),
                None => groups.push((fixed, vec![mark])),
            }
        }
        for (fixed, points) in groups {
            let fixed: serde_json::Map<String, Value> = fixed.into_iter().collect();
            let curve =
                json!({ "axis": axis.name, "fixed": fixed, "slice": name, "points": points });
            curves.push(curve);
        }
    }
    curves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> Axis {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_hold_both_ends_and_lists_hold_anything() {
        let values = |text: &str| axis(text).values;
        assert_eq!(
            values("alpha=0:1:0.25"),
            [json!(0), json!(0.25), json!(0.5), json!(0.75), json!(1)]
        );
        assert_eq!(values("alpha=0:1:0.1")[3], json!(0.3));
        assert_eq!(values("steps=4:1:-1"), [json!(4), json!(3), json!(2), json!(1)]);
        assert_eq!(values("guidance=1,1.5"), [json!(1), json!(1.5)]);
        assert_eq!(values("refine=on,off"), [json!(true), json!(false)]);
        assert_eq!(values("mix=0/0.4/1,0/1/0"), [json!([0, 0.4, 1]), json!([0, 1, 0])]);
        assert_eq!(axis("image-guidance=1").name, "image_guidance");
        for text in [
            "",
            "alpha",
            "alpha=",
            "=1",
            "a=0:1",
            "a=0:1:0",
            "a=0:1:-1",
            "a=0:1:x",
            "a=1,1",
            "a=0:1:1e-9",
            "a=0:inf:1",
        ] {
            assert!(text.parse::<Axis>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_grid_has_every_combination_and_refuses_what_is_no_setting() {
        let axes = [axis("alpha=0,0.5"), axis("decoder=source,inversion")];
        let points = grid(&axes, &Asked::default()).unwrap();
        let names: Vec<String> = points.iter().map(Point::to_string).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names[1], "alpha=0,decoder=inversion");
        assert_eq!(points[2].asked.patch.alpha, Some(0.5));
        for wrong in ["alpa=1", "decoder=none", "steps=0.5", "size=3"] {
            assert!(grid(&[axis(wrong)], &Asked::default()).is_err(), "{wrong}");
        }
        assert!(grid(&[axis("alpha=0"), axis("alpha=1")], &Asked::default()).is_err());
        let wide = [axis("alpha=0:1:0.01"), axis("guidance=0:1:0.01")];
        assert!(grid(&wide, &Asked::default()).is_err());
    }

    #[test]
    fn curves_go_along_one_axis_for_each_value_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let axes = [axis("alpha=0,0.5,1"), axis("refine=on,off")];
        let points = grid(&axes, &Asked::default()).unwrap();
        let runs: Vec<(Point, Vec<Sample>)> = points
            .into_iter()
            .enumerate()
            .map(|(i, point)| (point, vec![Sample::of_figures("1", [("edit_right", i as f64)])]))
            .collect();
        let table = write(folder.path(), &axes, &runs).unwrap();
        assert!(table.contains("| alpha=0.5,refine=false | 1 | 3.00 |"), "{table}");
        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.path().join(name)).unwrap()).unwrap()
        };
        let curves = read("curves.json");
        let all: Vec<&Value> = curves["curves"].as_array().unwrap().iter().collect();
        assert_eq!(all.len(), 2 + 3);
        assert_eq!(
            (&all[1]["axis"], &all[1]["fixed"]),
            (&json!("alpha"), &json!({"refine": false}))
        );
        assert_eq!(all[1]["points"][2]["x"], json!(1.0));
        assert_eq!(all[1]["points"][2]["figures"]["edit_right"]["mean"], json!(5.0));
        assert_eq!(
            (&all[4]["axis"], &all[4]["points"][1]["label"]),
            (&json!("refine"), &json!("false"))
        );
        let sweep = read("sweep.json");
        assert_eq!(sweep["points"][3]["folder"], json!("alpha=0.5,refine=false"));
        assert_eq!(sweep["points"][3]["slices"][0]["figures"]["edit_right"]["mean"], json!(3.0));
    }
}
