//! The curves of a run as one SVG: a panel for every named figure, training and held-out.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

use crate::{Result, TrainError};

/// Rows of the log that are not about learning.
const NOT_DRAWN: [&str; 3] = ["step", "seconds", "rate"];
const PANEL: (u32, u32) = (420, 240);
const COLUMNS: usize = 2;

type Series = Vec<(f64, f64)>;

fn series(rows: &[Value]) -> BTreeMap<String, Series> {
    let mut all = BTreeMap::<String, Series>::new();
    for row in rows {
        let (Some(step), Some(fields)) = (row["step"].as_f64(), row.as_object()) else { continue };
        for (name, value) in fields {
            let Some(value) = value.as_f64().filter(|v| v.is_finite()) else { continue };
            if !NOT_DRAWN.contains(&name.as_str()) {
                all.entry(name.clone()).or_default().push((step, value));
            }
        }
    }
    all
}

/// A running mean over about a fiftieth of the series.
fn smooth(series: &[(f64, f64)]) -> Series {
    let keep = 1.0 - 1.0 / (series.len() as f64 / 50.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    series
        .iter()
        .map(|&(step, value)| {
            sum = keep * sum + (1.0 - keep) * value;
            weight = keep * weight + (1.0 - keep);
            (step, sum / weight)
        })
        .collect()
}

/// The values' range with a margin; outliers beyond the 99th percentile are cut off.
fn range(series: &[(f64, f64)]) -> (f64, f64) {
    let mut values: Vec<f64> = series.iter().map(|point| point.1).collect();
    values.sort_by(f64::total_cmp);
    let (Some(&low), Some(&high)) = (values.first(), values.get((values.len() - 1) * 99 / 100))
    else {
        return (0.0, 1.0);
    };
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
    (low - margin, high + margin)
}

/// Draws the rows of the log and of the held-out figures; nothing when there are none yet.
pub fn draw(path: &Path, log: &[Value], figures: &[Value]) -> Result<()> {
    let mut panels: Vec<(String, Series, bool)> = Vec::new();
    panels.extend(series(figures).into_iter().map(|(n, s)| (format!("held-out {n}"), s, false)));
    panels.extend(series(log).into_iter().map(|(n, s)| (n, s, true)));
    if panels.is_empty() {
        return Ok(());
    }
    let broken = |e: String| TrainError::Curve { path: path.to_path_buf(), reason: e };
    let rows = panels.len().div_ceil(COLUMNS);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(|e| broken(e.to_string()))?;
    for (cell, (name, series, noisy)) in area.split_evenly((rows, COLUMNS)).iter().zip(&panels) {
        panel(cell, name, series, *noisy).map_err(|e| broken(e.to_string()))?;
    }
    area.present().map_err(|e| broken(e.to_string()))
}

type Fault<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel<'a>(
    area: &Area<'a>,
    name: &str,
    series: &[(f64, f64)],
    noisy: bool,
) -> std::result::Result<(), Fault<'a>> {
    let last = series.last().map_or(1.0, |point| point.0.max(1.0));
    let (low, high) = range(series);
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 14))
        .margin(8)
        .x_label_area_size(22)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..last, low..high)?;
    chart.configure_mesh().light_line_style(WHITE).x_labels(5).y_labels(5).draw()?;
    let clipped = |points: &[(f64, f64)]| -> Series {
        points.iter().map(|&(x, y)| (x, y.clamp(low, high))).collect()
    };
    let blue = RGBColor(38, 89, 166);
    if noisy {
        chart.draw_series(LineSeries::new(clipped(series), blue.mix(0.25)))?;
        chart.draw_series(LineSeries::new(clipped(&smooth(series)), blue.stroke_width(2)))?;
    } else {
        chart.draw_series(LineSeries::new(clipped(series), blue.stroke_width(2)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn draws_a_panel_for_every_figure() {
        let path = std::env::temp_dir().join(format!("any2pix-curves-{}.svg", std::process::id()));
        let log: Vec<Value> =
            (1..200).map(|s| json!({"step": s, "loss": 1.0 / f64::from(s), "rate": 3})).collect();
        draw(&path, &log, &[json!({"step": 100, "psnr": 20.0})]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.contains("loss") && svg.contains("held-out psnr"));
        assert!(!svg.contains(">\nrate\n<") && svg.matches("polyline").count() >= 3);
        std::fs::remove_file(&path).unwrap();
    }
}
