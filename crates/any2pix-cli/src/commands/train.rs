//! `any2pix train STAGE` and `any2pix train --all`: stages of training, stopped and resumed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use any2pix_train::progress::StepReport;
use any2pix_train::run_dir::RunDir;
use any2pix_train::stages::{self, StageContext};
use any2pix_train::{Event, Outcome, PlanOfStages, Progress, TrainError, TrainSettings, Trainer};

use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

/// Train one stage of the embedded model, or all of them in order.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The stage; its settings file names its numbers.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    stage: Option<String>,
    /// Train every stage that the settings file lists, each with the file beside it.
    #[arg(long)]
    all: bool,
    /// The settings file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The training data, as `any2pix data playroom` wrote them.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where checkpoints, log, curves and samples go; one folder a stage with --all.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// The model directory: configs and earlier stages are read here, weights written here.
    #[arg(long, value_name = "DIR", default_value = "models/playroom")]
    model: PathBuf,
    /// Go on with what is in the run directory.
    #[arg(long)]
    resume: bool,
    /// Train this many steps instead of those in the settings file.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let Some(stage) = &args.stage else { return run_all(args, printer) };
    let settings = TrainSettings::read(&args.config).map_err(failure)?;
    run_stage(args, printer, stage, settings, &args.run)
}

fn run_all(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let plan = PlanOfStages::read(&args.config).map_err(failure)?;
    for file in &plan.stages {
        let settings = TrainSettings::read(&plan.settings_file(file)).map_err(failure)?;
        let stage = settings.stage.clone().unwrap_or_else(|| file.clone());
        let exit = run_stage(args, printer, &stage, settings, &args.run.join(file))?;
        if exit != Exit::Done {
            return Ok(exit);
        }
    }
    Ok(Exit::Done)
}

fn run_stage(
    args: &Args,
    printer: &Printer,
    stage: &str,
    mut settings: TrainSettings,
    run: &Path,
) -> Result<Exit, Failure> {
    settings.steps = args.steps.unwrap_or(settings.steps);
    let (data, model) = (args.data.clone(), args.model.clone());
    let context = StageContext { data, model: model.clone(), settings: settings.clone() };
    let mut recipe = stages::open(stage, &context).map_err(failure)?;
    let run = RunDir::open(run).map_err(failure)?;
    let stop = Arc::new(AtomicBool::new(false));
    let trainer = Trainer { run, model, resume: args.resume, stop: stop.clone() };
    let mut told = Told { printer, stop, shown: Instant::now(), began: Instant::now() };
    match trainer.run(recipe.as_mut(), &settings, &mut told).map_err(failure)? {
        Outcome::Finished => Ok(Exit::Done),
        Outcome::Stopped { step } => {
            printer
                .note(&format!("{stage}: stopped and saved after step {step}; --resume goes on"));
            Ok(interrupt::requested().unwrap_or(Exit::Interrupted))
        }
    }
}

fn failure(error: TrainError) -> Failure {
    let exit = match &error {
        TrainError::Io { .. } => Exit::Storage,
        TrainError::Checkpoint(_) => Exit::Model,
        TrainError::Tensor(_) | TrainError::NonFinite { .. } | TrainError::Curve { .. } => {
            Exit::Internal
        }
        _ => Exit::Refused,
    };
    Failure::of(exit, &error)
}

/// Prints progress, and passes a signal on to the run.
struct Told<'a> {
    printer: &'a Printer,
    stop: Arc<AtomicBool>,
    began: Instant,
    shown: Instant,
}

impl Told<'_> {
    fn step(&mut self, report: &StepReport<'_>) {
        let every = Duration::from_secs(if self.printer.is_interactive() { 1 } else { 10 });
        if report.step != report.steps && self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let parts: String = report.logs.iter().map(|(n, v)| format!("  {n} {v:.4}")).collect();
        self.printer.note(&format!(
            "step {}/{}  loss {:.4}{parts}  lr {:.2e}  norm {:.2}  {:.1}/s  left {}",
            report.step,
            report.steps,
            report.loss,
            report.learning_rate,
            report.gradient_norm,
            report.rate,
            clock(report.time_left),
        ));
    }
}

impl Progress for Told<'_> {
    fn report(&mut self, event: Event<'_>) {
        if interrupt::requested().is_some() {
            self.stop.store(true, Ordering::Relaxed);
        }
        match event {
            Event::Started { stage, step, steps, parameters } => {
                let millions = parameters as f64 / 1e6;
                self.printer.note(&format!(
                    "{stage}: {millions:.2} M parameters, {steps} steps, {step} done"
                ));
            }
            Event::Step(report) => self.step(report),
            Event::Evaluated { step, figures } => {
                let text: String = figures.iter().map(|(n, v)| format!("  {n} {v:.4}")).collect();
                self.printer.note(&format!("step {step}: held-out{text}"));
            }
            Event::Sampled { dir } => self.printer.note(&format!("samples: {}", dir.display())),
            Event::Saved { step, path } => {
                self.printer.note(&format!("step {step}: saved {}", path.display()));
            }
            Event::Exported { dir } => {
                let took = clock(self.began.elapsed());
                self.printer.note(&format!("weights: {} after {took}", dir.display()));
            }
        }
    }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
