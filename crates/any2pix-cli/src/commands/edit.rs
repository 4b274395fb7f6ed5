//! `any2pix edit`: one edit, or one again.

use std::path::{Path, PathBuf};

use any2pix_agent::progress::Progress;
use any2pix_agent::request::Bindings;
use any2pix_agent::{EditOutcome, EditRequest, Encoding, Pipeline, Recording, storage};
use any2pix_nn::ops::{self, Level};
use serde_json::json;

use super::randomize;
use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::model_args::ModelArgs;
use crate::output_args::{EncodingArgs, agreed, free_name};
use crate::printer::Printer;
use crate::progress::Terminal;

/// Edit a picture, or make one from nothing.
///
/// References stand in the instruction as [path]; \[ is a bracket in the text. The result has the
/// source's size. Settings that are not given are the model's own; `any2pix show` tells what a
/// picture was made with, and --replay makes it again.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to do, for instance: add [dog.ogg] to [park.jpg]
    #[arg(required_unless_present = "replay", conflicts_with = "replay")]
    instruction: Option<String>,
    /// Make the picture in FILE again, byte for byte: instruction, settings and format are what
    /// the file remembers. Its inputs are looked for beside it and in the current folder, or given
    /// with --image and --audio; all must have the content they had, and so must the weights.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Where the picture goes: .png, .jpg or .webp. Unless given, a new file in the current
    /// folder, named after the picture that is edited.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What [image1], [image2], … stand for; with --replay, inputs in any order.
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// What [audio1], [audio2], … stand for; with --replay, inputs in any order.
    #[arg(long = "audio", value_name = "FILE")]
    audios: Vec<PathBuf>,
    /// Make N edits: the first as asked, the others with seeds of their own and both guidances
    /// drawn about what they are set to. They go into files beside the output's name, and all of
    /// them onto a sheet.
    #[arg(long, value_name = "N", conflicts_with = "replay", requires = "output",
        value_parser = clap::value_parser!(u8).range(1..=64))]
    randomize: Option<u8>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    encoding: EncodingArgs,
}

/// An edit that nothing speaks against.
struct Job {
    pipeline: Box<dyn Pipeline>,
    request: EditRequest,
    encoding: Encoding,
    replayed: Option<Recording>,
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    let job = match &args.replay {
        None => first(args, compute, printer)?,
        Some(file) => again(args, file, compute, printer)?,
    };
    let mut inputs = inputs(&job.request);
    if let Some(file) = &args.replay {
        inputs.push((String::new(), file.clone()));
    }
    let paths: Vec<PathBuf> = inputs.iter().map(|(_, path)| path.clone()).collect();
    if let Some(output) = &args.output {
        // Asked before the work, and once more when the picture is written.
        storage::refuse_inputs(output, &paths)?;
    }
    if let (Some(count), Some(output)) = (args.randomize, &args.output) {
        let edit = (&*job.pipeline, &job.request);
        randomize::run(edit, count.into(), (output, job.encoding), &paths, printer)?;
        return Ok(Exit::Done);
    }
    let mut progress = Terminal::new(printer);
    let mut outcome = job.pipeline.edit(&job.request, &mut progress)?;
    progress.stage(any2pix_agent::Stage::Save);
    if let Some(recording) = &job.replayed {
        recording.rename(&mut outcome);
    }
    let bytes = outcome.encode(job.encoding)?;
    let named = || free_name(&outcome, &inputs, args.replay.as_deref(), job.encoding.format);
    let output = args.output.clone().unwrap_or_else(named);
    storage::refuse_inputs(&output, &paths)?;
    storage::write_atomically(&output, &bytes)?;
    progress.finish();
    let identical = job.replayed.as_ref().map(|recording| recording.is(&bytes));
    report(&outcome, &output, identical, printer);
    Ok(if identical == Some(false) { Exit::Items } else { Exit::Done })
}

/// An edit as the flags say it.
fn first(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Job, Failure> {
    compute.use_fastest();
    let encoding = args.encoding.resolve(args.output.as_deref())?;
    let pipeline = args.model.open()?;
    let settings = args.model.settings(&*pipeline)?;
    let bindings = Bindings { images: args.images.clone(), audios: args.audios.clone() };
    let instruction = args.instruction.as_deref().unwrap_or_default();
    let request = EditRequest::parse(instruction, &bindings, settings)?;
    for name in bindings.unused(&request.instruction) {
        printer.warning(&format!("[{name}] does not stand in the instruction"));
    }
    Ok(Job { pipeline, request, encoding, replayed: None })
}

/// The edit that `file` remembers.
fn again(
    args: &Args,
    file: &Path,
    compute: &ComputeArgs,
    printer: &Printer,
) -> Result<Job, Failure> {
    let recording = Recording::open(file)?;
    refuse_changes(args, file)?;
    let encoding = recording.encoding();
    agreed(Some(encoding.format), args.output.as_deref())?;
    let precision = recording.precision()?;
    if compute.precision().is_some_and(|asked| asked != precision) {
        let message = "--precision: the edit was made in the other one";
        return Err(Failure::refused(message).hint("leave --precision (ANY2PIX_PRECISION) out"));
    }
    ops::set_precision(precision);
    // What this machine has, slow or not; less than that only if less was asked for.
    let most =
        if Level::current() == Level::fastest() { Level::detected() } else { Level::current() };
    match recording.level().filter(|level| *level <= most) {
        Some(level) => Level::limit(level),
        None => printer.warning(&format!(
            "the edit was computed with {}, which is not used here: last digits may differ",
            recording.level_name()
        )),
    }
    if recording.version() != env!("CARGO_PKG_VERSION") {
        let version = recording.version();
        printer.warning(&format!("the edit was made by any2pix {version}: it may differ"));
    }
    let supplied = [&args.images[..], &args.audios].concat();
    let request = recording.request(&supplied)?;
    let pipeline = args.model.open_again(&recording)?;
    Ok(Job { pipeline, request, encoding, replayed: Some(recording) })
}

/// What would make a repeated edit another one is refused, not ignored.
fn refuse_changes(args: &Args, file: &Path) -> Result<(), Failure> {
    let mut given = args.model.given();
    if args.encoding.is_given() {
        given.push("--format, --quality or --strip".to_string());
    }
    match given.first() {
        None => Ok(()),
        Some(flag) => {
            let message = format!("{flag}: a replay takes it from {}", file.display());
            Err(Failure::refused(message).hint("leave it out, in the environment, too"))
        }
    }
}

/// Names and files of the inputs.
fn inputs(request: &EditRequest) -> Vec<(String, PathBuf)> {
    let named = request.references.iter().map(|r| Some((r.name.clone(), r.path.clone()?)));
    named.flatten().collect()
}

fn report(outcome: &EditOutcome, output: &Path, identical: Option<bool>, printer: &Printer) {
    if printer.json {
        let mut document = outcome.document(Some(output));
        if let Some(identical) = identical {
            document["replay"] = json!({ "identical": identical });
        }
        printer.document(&document);
        return;
    }
    printer.note(&timings(outcome));
    match identical {
        Some(true) => printer.note("the same, byte for byte"),
        Some(false) => printer.warning("the result differs from the file that was repeated"),
        None => {}
    }
    printer.result(&output.display().to_string());
}

fn timings(outcome: &EditOutcome) -> String {
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
