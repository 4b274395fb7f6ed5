//! `any2pix models init`: random weights of full size.

use std::path::PathBuf;

use any2pix_hub::{InitOptions, ModelDefinition, human_bytes};
use candle_core::DType;
use clap::ValueEnum;
use serde_json::json;

use super::failure;
use super::transfer::Transfer;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// What `any2pix models init` takes.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The model: instructany2pix, instruct-pix2pix (in folders) or instruct-pix2pix-ckpt (in one
    /// file).
    name: String,
    /// Where to write it.
    dir: PathBuf,
    /// Say that the weights are to be random; there are no others to begin with.
    #[arg(long, required = true)]
    random: bool,
    /// The same seed gives the same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Type of every number; as published when it is not given.
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Write these components only, with what lies in the same files.
    #[arg(long, num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
}

/// Type of floating-point numbers.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Dtype {
    F16,
    Bf16,
    F32,
}

impl Dtype {
    /// The same for candle.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::F32 => DType::F32,
        }
    }
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let model = ModelDefinition::named(&args.name).map_err(|e| failure(&e))?;
    let options = InitOptions {
        seed: args.seed,
        dtype: args.dtype.map(Dtype::dtype),
        only: args.only.clone(),
        ..InitOptions::default()
    };
    let mut transfer = Transfer::new(printer);
    let written = any2pix_hub::init(&model, &args.dir, &options, &mut transfer);
    transfer.finish();
    let written = written.map_err(|e| failure(&e))?;
    if printer.json {
        let files: Vec<_> =
            written.iter().map(|f| json!({ "path": f.path, "bytes": f.bytes })).collect();
        printer.document(&json!({ "model": model.name, "seed": args.seed, "files": files }));
    } else {
        for file in &written {
            printer.result(&file.path.display().to_string());
        }
        let total = written.iter().map(|file| file.bytes).sum();
        printer.note(&format!("{} of random weights", human_bytes(total)));
    }
    Ok(Exit::Done)
}
