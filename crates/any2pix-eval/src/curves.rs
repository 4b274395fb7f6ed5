//! Curves of sweeps: what came of each value of a setting, as SVG files and as a page, drawn from
//! the sweep's `curves.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use any2pix_agent::storage::write_atomically;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::chart::{Chart, Ground, Line, Point};
use crate::metrics::statistics::Estimate;
use crate::report::COLUMNS;
use crate::{EvalError, Result, page};

/// The curves' file in the folder of a sweep.
pub const CURVES: &str = "curves.json";
/// The page's name there.
pub const FILE: &str = "sweep.html";
/// The slice that is drawn.
const SLICE: &str = "all";
/// Figures against each other: how far an edit went as it was told, and how much was kept
/// (InstructPix2Pix, figure 8; with the embedded model's own encoder, too).
const TRADE_OFFS: [[&str; 2]; 2] =
    [["clip_sim_direction", "clip_sim_image"], ["PlayroomCLIP_dir", "PlayroomCLIP_im"]];

#[derive(Deserialize)]
struct Curves {
    curves: Vec<Curve>,
}

/// The figures along one axis, the others fixed.
#[derive(Deserialize)]
struct Curve {
    axis: String,
    fixed: Map<String, Value>,
    slice: String,
    points: Vec<Mark>,
}

#[derive(Deserialize)]
struct Mark {
    x: f64,
    label: String,
    figures: BTreeMap<String, Estimate>,
}

/// Draws the curves in the folder of a sweep: each as `curves/NAME.svg`, all of them in
/// `sweep.html`.
///
/// # Errors
/// `curves.json` must be there, and what the file system refuses.
pub fn draw(dir: &Path) -> Result<()> {
    let path = dir.join(CURVES);
    let bytes = fs::read(&path).map_err(EvalError::io(&path))?;
    let curves: Curves =
        serde_json::from_slice(&bytes).map_err(|e| EvalError::malformed(&path, e))?;
    let curves: Vec<Curve> = curves.curves.into_iter().filter(|c| c.slice == SLICE).collect();
    let mut axes: Vec<&str> = Vec::new();
    for curve in &curves {
        if !axes.contains(&curve.axis.as_str()) {
            axes.push(&curve.axis);
        }
    }
    let charts: Vec<Chart> = axes.iter().flat_map(|axis| charts(axis, &curves)).collect();
    let folder = dir.join("curves");
    fs::create_dir_all(&folder).map_err(EvalError::io(&folder))?;
    for chart in &charts {
        let path = folder.join(format!("{}.svg", file_name(chart.title())));
        write_atomically(&path, chart.svg(Ground::White).as_bytes())?;
    }
    let title = format!("Sweep over {}", axes.join(" and "));
    page::write_charts(&dir.join(FILE), &title, &charts, &json!({ "axes": axes, "slice": SLICE }))
}

/// A chart for every figure of the table along `axis`, then the trade-offs.
fn charts(axis: &str, curves: &[Curve]) -> Vec<Chart> {
    let curves: Vec<&Curve> = curves.iter().filter(|curve| curve.axis == axis).collect();
    let single = COLUMNS.iter().filter_map(|(name, title, _)| {
        let point = |mark: &Mark| {
            let y = *mark.figures.get(*name)?;
            Some(Point { label: mark.label.clone(), ..Point::of_setting(mark.x, y) })
        };
        let axes = [axis.to_string(), title.to_string()];
        chart(format!("{title} over {axis}"), axes, &curves, point)
    });
    let pairs = TRADE_OFFS.iter().filter_map(|[across, upward]| {
        let point = |mark: &Mark| {
            let figure = |name: &str| mark.figures.get(name).copied();
            Some(Point { x: figure(across)?, y: figure(upward)?, label: mark.label.clone() })
        };
        let title = format!("{} against {} over {axis}", heading(upward), heading(across));
        chart(title, [heading(across), heading(upward)], &curves, point)
    });
    single.chain(pairs).collect()
}

fn heading(name: &str) -> String {
    let column = COLUMNS.iter().find(|(known, ..)| *known == name);
    column.map_or_else(|| name.replace('_', " "), |column| column.1.to_string())
}

/// Nothing where no point has the figure.
fn chart(
    title: String,
    axes: [String; 2],
    curves: &[&Curve],
    point: impl Fn(&Mark) -> Option<Point>,
) -> Option<Chart> {
    let line = |curve: &&Curve| {
        let mut marks: Vec<&Mark> = curve.points.iter().collect();
        marks.sort_by(|a, b| a.x.total_cmp(&b.x));
        let fixed = curve.fixed.iter().map(|(name, value)| format!("{name}={value}"));
        let name = fixed.collect::<Vec<_>>().join(", ");
        Line { name, points: marks.into_iter().filter_map(&point).collect() }
    };
    let lines: Vec<Line> = curves.iter().map(line).filter(|line| !line.points.is_empty()).collect();
    (!lines.is_empty()).then_some(Chart::Lines { title, axes, lines })
}

/// Letters and digits in lower case, hyphens for the rest.
fn file_name(title: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' };
    let words: String = title.chars().map(plain).collect();
    words.split_whitespace().collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(x: f64, figures: &[(&str, f64)]) -> Value {
        let estimate = |mean: f64| json!({ "mean": mean, "low": mean - 0.01, "high": mean + 0.01, "count": 4 });
        let figures: Map<String, Value> =
            figures.iter().map(|(name, mean)| (name.to_string(), estimate(*mean))).collect();
        json!({ "x": x, "label": x.to_string(), "figures": figures })
    }

    #[test]
    fn a_sweep_has_a_chart_for_each_figure_and_the_trade_off() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let along = |direction, image| {
            [("clip_sim_direction", direction), ("clip_sim_image", image), ("unlisted", 1.0)]
        };
        let points = [mark(2.2, &along(0.05, 0.95)), mark(1.0, &along(0.2, 0.7))];
        let curve = |slice: &str, refine: bool| {
            json!({
                "axis": "image_guidance", "fixed": { "refine": refine }, "slice": slice,
                "points": points,
            })
        };
        let curves =
            json!({ "curves": [curve("all", true), curve("all", false), curve("add", true)] });
        fs::write(folder.join(CURVES), curves.to_string()).unwrap();
        let bytes = || {
            draw(folder).unwrap();
            let name = "curves/clip-im-against-clip-dir-over-image-guidance.svg";
            [name, FILE].map(|name| fs::read(folder.join(name)).unwrap())
        };
        let first = bytes();
        assert!(first == bytes());
        let [svg, page] = first.map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(svg.contains("refine=false") && svg.contains(">2.2</text>"), "{svg}");
        assert!(page.contains("Sweep over image_guidance"));
        assert_eq!(
            page.matches("<svg").count(),
            fs::read_dir(folder.join("curves")).unwrap().count()
        );
    }
}
