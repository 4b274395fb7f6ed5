//! `any2pix edit`: one edit.

use std::path::PathBuf;

use any2pix_agent::EditRequest;
use any2pix_agent::progress::Progress;
use any2pix_agent::request::Bindings;

use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::model_args::ModelArgs;
use crate::printer::Printer;
use crate::progress::Terminal;

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
    /// What [image1], [image2], … stand for.
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// What [audio1], [audio2], … stand for.
    #[arg(long = "audio", value_name = "FILE")]
    audios: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    compute.use_fastest();
    if args.output.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        let message = format!("{}: the output is a PNG file", args.output.display());
        return Err(Failure::refused(message).hint("name it as in -o out.png"));
    }
    let pipeline = args.model.open()?;
    let settings = args.model.settings(&*pipeline)?;
    let bindings = Bindings { images: args.images.clone(), audios: args.audios.clone() };
    let request = EditRequest::parse(&args.instruction, &bindings, settings)?;
    for name in bindings.unused(&request.instruction) {
        printer.warning(&format!("[{name}] does not stand in the instruction"));
    }
    let inputs: Vec<PathBuf> = request.references.iter().filter_map(|r| r.path.clone()).collect();
    // Asked before the work, and once more when the picture is written.
    any2pix_agent::storage::refuse_inputs(&args.output, &inputs)?;

    let mut progress = Terminal::new(printer);
    let outcome = pipeline.edit(&request, &mut progress)?;
    progress.stage(any2pix_agent::Stage::Save);
    outcome.save(&args.output, &inputs)?;
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
