//! `any2pix doctor`: what this build and this machine are.

use any2pix_agent::store::ModelStore;
use any2pix_nn::ops::Level;
use serde_json::json;

use crate::compute::has_bf16;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Say what this build and this machine are.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(super) fn run(_args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let parts = [
        "imagebind",
        "llm",
        "prior",
        "vae",
        "unet",
        "unet_inversion",
        "locator",
        "ip2p/text_encoder",
        "ip2p/unet",
    ];
    let carries = |part: &&str| {
        let path = format!("{part}/model.safetensors");
        ModelStore::embedded().find(&path).is_ok_and(|file| file.is_some())
    };
    let (carried, missing): (Vec<&str>, Vec<&str>) = parts.into_iter().partition(carries);
    let facts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "threads": rayon::current_num_threads(),
        "level": format!("{:?}", Level::current()),
        "precision": if has_bf16() { "bf16" } else { "f32" },
        "embedded": carried.join(" "),
        "missing": missing.join(" "),
    });
    if printer.json {
        printer.document(&facts);
        return Ok(Exit::Done);
    }
    for (name, value) in facts.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        printer.result(&format!("{name:<10} {value}"));
    }
    Ok(Exit::Done)
}
