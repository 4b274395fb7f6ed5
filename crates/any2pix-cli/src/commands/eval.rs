//! `any2pix eval SUITE`: numbers about edits.

use std::path::{Path, PathBuf};

use any2pix_agent::{Decoder, EditSettings, Playroom, SettingsPatch};
use any2pix_eval::{
    EvalError, Eyes, Harness, Published, Sample, Suite, contact_sheet, report, sweep,
};
use serde_json::json;

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// How many items the contact sheet shows.
const SHOWN: usize = 40;

/// Measure edits against their exact truth, or compare two measurements.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The held-out split of the embedded model's world.
    Playroom(Box<PlayroomArgs>),
    /// What differs between two results, item by item, with intervals.
    Compare {
        /// The folder of the first results.
        a: PathBuf,
        /// The folder of the results that are taken away from the first.
        b: PathBuf,
    },
}

#[derive(clap::Args)]
struct PlayroomArgs {
    /// The suite, as `any2pix data playroom` wrote it.
    #[arg(long, value_name = "DIR")]
    suite: PathBuf,
    /// Where results, pictures and the contact sheet go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model: `playroom`, or a folder.
    #[arg(long, value_name = "NAME|DIR", default_value = "playroom")]
    model: String,
    /// The folder of the judge; `none` measures plans, regions and pixels alone.
    #[arg(long, value_name = "DIR", default_value = "models/playroom/judge")]
    judge: PathBuf,
    /// A folder with the models of published metrics, each in a folder of its own:
    /// clip-vit-base-patch32, clip-vit-large-patch14, dino-vits16, aesthetic, pickscore.
    #[arg(long, value_name = "DIR")]
    metrics_model: Option<PathBuf>,
    /// Run this many items, spread over all kinds.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Run every variant of the settings side by side: decoders, window, gallery, prior, alpha.
    #[arg(long)]
    sweep: bool,
    /// Do not run every local edit a second time to measure the decoder without composing.
    #[arg(long)]
    no_raw: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The settings that the tables are about.
#[derive(clap::Args)]
struct SettingsArgs {
    /// How the painter starts: `source` or `inversion`.
    #[arg(long, value_parser = decoder)]
    decoder: Option<Decoder>,
    /// Paint the whole picture instead of a window.
    #[arg(long)]
    no_window: bool,
    /// Imagine every object that is not given as a picture.
    #[arg(long)]
    no_gallery: bool,
    /// Use the planned embedding as it is.
    #[arg(long)]
    no_prior: bool,
    /// Keep the decoder's own pixels everywhere.
    #[arg(long)]
    no_compose: bool,
    /// 1 starts from the inverted source, 0 from noise alone.
    #[arg(long)]
    alpha: Option<f64>,
    /// Denoising steps.
    #[arg(long)]
    steps: Option<usize>,
    /// Classifier-free guidance.
    #[arg(long)]
    guidance: Option<f64>,
    /// Added to every item's own seed.
    #[arg(long)]
    seed: Option<u64>,
}

fn decoder(text: &str) -> Result<Decoder, String> {
    match text {
        "source" => Ok(Decoder::Source),
        "inversion" => Ok(Decoder::Inversion),
        _ => Err("must be `source` or `inversion`".to_string()),
    }
}

impl SettingsArgs {
    /// The program's defaults, the model's own, then the flags.
    fn settings(&self, model: &SettingsPatch) -> Result<EditSettings, Failure> {
        let off = |flag: bool| flag.then_some(false);
        let flags = SettingsPatch {
            decoder: self.decoder,
            window: off(self.no_window),
            gallery: off(self.no_gallery),
            refine: off(self.no_prior),
            compose: off(self.no_compose),
            alpha: self.alpha,
            steps: self.steps,
            guidance: self.guidance,
            seed: self.seed,
            ..SettingsPatch::default()
        };
        let mut settings = EditSettings::default();
        model.apply(&mut settings);
        flags.apply(&mut settings);
        // A refusal to edit an unknown object is an answer; the table wants its picture.
        settings.force = true;
        settings.validate().map_err(|error| Failure::of(Exit::Refused, &error))?;
        Ok(settings)
    }
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    match &args.what {
        What::Playroom(args) => playroom(args, printer),
        What::Compare { a, b } => {
            let (a, b) = (report::read(a).map_err(failure)?, report::read(b).map_err(failure)?);
            if printer.json {
                printer.document(&json!(sweep::differences(&a, &b)));
            } else {
                printer.result(sweep::comparison(&a, &b).trim_end());
            }
            Ok(Exit::Done)
        }
    }
}

fn failure(error: EvalError) -> Failure {
    let exit = match &error {
        EvalError::Io { .. } => Exit::Storage,
        EvalError::Malformed { .. } => Exit::Refused,
        EvalError::Checkpoint(_) | EvalError::Metric { .. } => Exit::Model,
        EvalError::Stopped => interrupt::requested().unwrap_or(Exit::Interrupted),
        _ => Exit::Internal,
    };
    Failure::of(exit, &error)
}

fn playroom(args: &PlayroomArgs, printer: &Printer) -> Result<Exit, Failure> {
    let mut suite = Suite::open(&args.suite).map_err(failure)?;
    if let Some(limit) = args.limit {
        suite.limit(limit);
    }
    let model = Playroom::open(&args.model, &[]).map_err(|e| Failure::of(Exit::Model, &e))?;
    let settings = args.settings.settings(&model.components().index.settings)?;
    let eyes = eyes(args, &model)?;
    let published = Published::open(args.metrics_model.as_deref()).map_err(failure)?;
    let absent = published.absent(suite.has_captions());
    let one = |settings: EditSettings, out: &Path| {
        let raw = !args.no_raw && !args.sweep;
        let eyes = eyes.as_ref().map(|eyes| eyes as &dyn any2pix_eval::Perception);
        let about =
            json!({ "model": args.model, "items": suite.items.len(), "settings": settings });
        let harness = Harness {
            suite: &suite,
            eyes,
            published: Some(&published),
            settings,
            raw,
            out: out.to_path_buf(),
        };
        let samples = harness.run(&model, &mut |done, total, sample: &Sample| {
            let state = sample.error.as_deref().unwrap_or("done");
            printer.note(&format!("{done}/{total} {} {}: {state}", sample.id, sample.kind));
            interrupt::requested().is_none()
        })?;
        let table = report::write(out, &samples, &absent, &about)?;
        contact_sheet::write(&suite, &samples, out, SHOWN)?;
        Ok((samples, table))
    };
    let table = if args.sweep {
        swept(&settings, &args.out, printer, one).map_err(failure)?
    } else {
        one(settings, &args.out).map_err(failure)?.1
    };
    show(&table, &args.out, printer);
    Ok(Exit::Done)
}

fn eyes(args: &PlayroomArgs, model: &Playroom) -> Result<Option<Eyes>, Failure> {
    if args.judge.as_os_str() == "none" {
        return Ok(None);
    }
    let encoder = model.components().imagebind().map_err(|e| Failure::of(Exit::Model, &e))?;
    Eyes::open(&args.judge, encoder).map(Some).map_err(failure)
}

/// Every variant in a folder of its own; the table has a row for each.
fn swept(
    settings: &EditSettings,
    out: &Path,
    printer: &Printer,
    one: impl Fn(EditSettings, &Path) -> any2pix_eval::Result<(Vec<Sample>, String)>,
) -> any2pix_eval::Result<String> {
    let mut runs = Vec::new();
    for (name, settings) in sweep::variants(settings) {
        printer.note(&name);
        let (samples, _) = one(settings, &out.join(name.replace([' ', ','], "-")))?;
        runs.push((name, samples));
    }
    let mut text = sweep::side_by_side(&runs);
    let with = runs.first().map_or(&[][..], |(_, samples)| samples);
    if let Some((_, without)) = runs.iter().find(|(name, _)| name == "no prior") {
        text.push_str("\nThe prior on, less the prior off:\n\n");
        text.push_str(&sweep::comparison(with, without));
    }
    let path = out.join("sweep.md");
    std::fs::write(&path, &text).map_err(EvalError::io(&path))?;
    Ok(text)
}

fn show(table: &str, out: &Path, printer: &Printer) {
    if printer.json {
        printer.document(&json!({ "out": out.to_string_lossy(), "table": table }));
    } else {
        printer.result(table.trim_end());
    }
}
