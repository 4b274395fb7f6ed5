//! `any2pix eval sweep` and `any2pix eval baselines`: a report for each point of a grid.

use any2pix_eval::sweep::{Axis, Point, grid, write};
use any2pix_eval::systems::SystemName;
use any2pix_eval::{Asked, Sample, curves};
use serde_json::json;

use super::bench::{Bench, BenchArgs};
use super::failure;
use super::playroom::system;
use super::settings::SettingsArgs;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    bench: BenchArgs,
    /// A setting and its values: `alpha=0:1:0.1`, `guidance=1,1.5,2`, `refine=on,off`,
    /// `mix_base=0:1:0.25`, `decoder=source,inversion`, `system=model,sdedit`,
    /// `sdedit_strength=0.3:0.9:0.1`. Several span a grid.
    #[arg(long, value_name = "AXIS", required = true)]
    over: Vec<String>,
    /// What makes the edits: model, identity, oracle, sdedit, text-only, no-prior, inversion or
    /// instruct-pix2pix.
    #[arg(long, value_name = "NAME", default_value = "model", value_parser = system)]
    system: SystemName,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(clap::Args)]
pub(super) struct BaselinesArgs {
    #[command(flatten)]
    bench: BenchArgs,
    /// Which systems, in which order; `inversion` is the model with the published method's decoder,
    /// `instruct-pix2pix` another model.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = system,
        default_values_t = SystemName::OWN)]
    systems: Vec<SystemName>,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let axes: Result<Vec<Axis>, _> = args.over.iter().map(|text| text.parse()).collect();
    let asked = Asked { system: args.system, ..args.settings.asked() };
    every_point(&args.bench, &axes.map_err(failure)?, &asked, printer)
}

pub(super) fn baselines(args: &BaselinesArgs, printer: &Printer) -> Result<Exit, Failure> {
    let values = args.systems.iter().map(|system| json!(system.to_string())).collect();
    let axis = Axis { name: "system".into(), values };
    every_point(&args.bench, &[axis], &args.settings.asked(), printer)
}

/// Items are taken in parallel inside a point, which keeps all cores busy, so that points follow
/// each other.
fn every_point(
    args: &BenchArgs,
    axes: &[Axis],
    asked: &Asked,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let points = grid(axes, asked).map_err(failure)?;
    let bench = Bench::open(args, &points.iter().map(|point| &point.asked).collect::<Vec<_>>())?;
    let mut runs: Vec<(Point, Vec<Sample>)> = Vec::new();
    let total = points.len();
    for (index, point) in points.into_iter().enumerate() {
        printer.note(&format!("point {}/{total}: {point}", index + 1));
        let out = args.out.join(point.to_string());
        let report = bench.run(&point.asked, &out, printer).map_err(failure)?;
        runs.push((point, report.samples));
    }
    let table = write(&args.out, axes, &runs).map_err(failure)?;
    curves::draw(&args.out).map_err(failure)?;
    if printer.json {
        let out = args.out.to_string_lossy();
        printer.document(&json!({ "out": out, "points": total, "table": table }));
    } else {
        printer.result(table.trim_end());
    }
    Ok(Exit::Done)
}
