//! `any2pix edit`: one edit.

use std::path::PathBuf;

use any2pix_agent::progress::Progress;
use any2pix_agent::request::Bindings;
use any2pix_agent::{AgentError, EditRequest, ErrorClass, LoraFile, OpenOptions};

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;
use crate::progress::Terminal;
use crate::settings_args::SettingsArgs;

/// Edit a picture, or make one from nothing.
///
/// References stand in the instruction as [path]; \[ is a bracket in the text.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to do, for instance: add [dog.ogg] to [park.jpg]
    instruction: String,
    /// Where the picture goes (PNG).
    #[arg(long, short, default_value = "out.png")]
    output: PathBuf,
    /// A model: `playroom`, which this program carries, or a model's folder.
    #[arg(long, env = "ANY2PIX_MODEL", default_value = "playroom")]
    model: String,
    /// What [image1], [image2], … stand for.
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// What [audio1], [audio2], … stand for.
    #[arg(long = "audio", value_name = "FILE")]
    audios: Vec<PathBuf>,
    /// Further galleries of reference pictures (see `any2pix gallery`).
    #[arg(long = "gallery", value_name = "DIR", env = "ANY2PIX_GALLERY")]
    galleries: Vec<PathBuf>,
    /// A LoRA to merge into a full-size model, and how much of it.
    #[arg(long = "lora", value_name = "FILE[:SCALE]", value_parser = lora)]
    loras: Vec<LoraFile>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A file, and a number after the last colon if there is one.
fn lora(text: &str) -> Result<LoraFile, String> {
    let scaled = text.rsplit_once(':').and_then(|(path, n)| Some((path, n.parse::<f64>().ok()?)));
    match scaled {
        Some((_, scale)) if !scale.is_finite() => Err("the scale must be finite".to_string()),
        Some((path, scale)) => Ok(LoraFile { path: path.into(), scale }),
        None => Ok(LoraFile { path: text.into(), scale: 1.0 }),
    }
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    if args.output.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        let message = format!("{}: the output is a PNG file", args.output.display());
        return Err(Failure::refused(message).hint("name it as in -o out.png"));
    }
    let options = OpenOptions {
        galleries: args.galleries.clone(),
        llm_format: args.settings.llm_format(),
        loras: args.loras.clone(),
        max_memory: args.settings.max_memory(),
    };
    let pipeline = any2pix_agent::open(&args.model, options).map_err(|e| failure(&e))?;
    let settings = args.settings.resolve(pipeline.settings())?;
    let bindings = Bindings { images: args.images.clone(), audios: args.audios.clone() };
    let request =
        EditRequest::parse(&args.instruction, &bindings, settings).map_err(|e| failure(&e))?;
    for name in bindings.unused(&request.instruction) {
        printer.warning(&format!("[{name}] does not stand in the instruction"));
    }
    let inputs: Vec<PathBuf> = request.references.iter().filter_map(|r| r.path.clone()).collect();
    // Asked before the work, and once more when the picture is written.
    any2pix_agent::storage::refuse_inputs(&args.output, &inputs).map_err(|e| failure(&e))?;

    let mut progress = Terminal::new(printer);
    let outcome = pipeline.edit(&request, &mut progress).map_err(|e| failure(&e))?;
    progress.stage(any2pix_agent::Stage::Save);
    outcome.save(&args.output, &inputs).map_err(|e| failure(&e))?;
    progress.finish();
    if printer.json {
        printer.document(&outcome.document(Some(&args.output)));
    } else {
        printer.note(&timings(&outcome));
        printer.result(&args.output.display().to_string());
    }
    Ok(Exit::Done)
}

fn timings(outcome: &any2pix_agent::EditOutcome) -> String {
    let total: f64 = outcome.timings.iter().map(|t| t.seconds).sum();
    let parts: Vec<String> = outcome
        .timings
        .iter()
        .filter(|t| t.seconds >= 0.05)
        .map(|t| format!("{} {:.1}", t.stage, t.seconds))
        .collect();
    let memory = outcome.peak_memory.map_or(String::new(), |m| format!(", {} MB", m >> 20));
    format!("{total:.1} s ({}){memory}", parts.join(", "))
}

/// An error of the agent as the command line tells it.
pub(super) fn failure(error: &AgentError) -> Failure {
    let exit = match error.class() {
        ErrorClass::Refused => Exit::Refused,
        ErrorClass::Model => Exit::Model,
        ErrorClass::Storage => Exit::Storage,
        ErrorClass::Internal => Exit::Internal,
        ErrorClass::Cancelled => interrupt::requested().unwrap_or(Exit::Interrupted),
    };
    Failure::of(exit, error)
}
