//! `any2pix models inspect`, `list` and `convert`: what is on this machine.

use std::path::{Path, PathBuf};

use any2pix_agent::store;
use any2pix_hub::definition::MODELS;
use any2pix_hub::{Inspection, human_bytes};
use candle_core::DType;
use comfy_table::{Table, presets};
use serde_json::json;

use super::failure;
use super::hub_args::HubArgs;
use super::init::Dtype;
use super::transfer::Transfer;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// What `any2pix models inspect` takes.
#[derive(clap::Args)]
pub(super) struct InspectArgs {
    /// A folder, a model that was pulled by name, or `organisation/name` in the cache.
    what: String,
}

/// What `any2pix models convert` takes.
#[derive(clap::Args)]
pub(super) struct ConvertArgs {
    /// A file of weights (torch, GGUF, an index of shards), or a folder of them.
    from: PathBuf,
    /// The safetensors file to write; a folder when a folder is read.
    to: PathBuf,
    /// Type of floating-point numbers; as they are when it is not given.
    #[arg(long)]
    dtype: Option<Dtype>,
}

fn find(what: &str, hub: &HubArgs) -> Result<PathBuf, Failure> {
    if Path::new(what).is_dir() {
        return Ok(what.into());
    }
    let named = hub.models()?.join(what);
    if MODELS.contains(&what) && named.is_dir() {
        return Ok(named);
    }
    if let Some(folder) = hub.cache()?.snapshot(what, "main") {
        return Ok(folder);
    }
    Err(Failure::refused(format!("{what}: no folder, no pulled model, and not in the cache")).hint(
        format!("`any2pix models pull {what}` fetches it, `models list` shows what is there"),
    ))
}

/// A component's types: `BF16`, or `F16 + I64`.
fn types<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(" + ")
}

/// Says what a folder holds; exit code 1 when something needed is missing.
pub(super) fn inspect(
    args: &InspectArgs,
    hub: &HubArgs,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let folder = find(&args.what, hub)?;
    let found = any2pix_hub::inspect(&folder).map_err(|e| failure(&e))?;
    let exit = if found.is_complete() { Exit::Done } else { Exit::Items };
    if printer.json {
        let mut document = serde_json::to_value(&found)
            .map_err(|e| Failure::internal(format!("the report is no JSON: {e}")))?;
        document["complete"] = found.is_complete().into();
        printer.document(&document);
    } else {
        show(&found, printer);
    }
    Ok(exit)
}

fn show(found: &Inspection, printer: &Printer) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["part", "file", "format", "types", "tensors", "parameters", "bytes"]);
    for part in &found.parts {
        let contents = &part.contents;
        let known = |text: String| if part.file.is_some() { text } else { String::new() };
        table.add_row([
            part.name.clone(),
            part.file.clone().unwrap_or_else(|| "missing".into()),
            contents.format.clone(),
            types(contents.dtypes.keys()),
            known(contents.tensors.to_string()),
            known(format!("{:.1} M", contents.parameters as f64 / 1e6)),
            known(human_bytes(contents.bytes)),
        ]);
    }
    printer.result(&table.to_string());
    for part in &found.parts {
        for fault in &part.faults {
            printer.result(&format!("{}: {fault}", part.name));
        }
        if let (Some(why), None) = (&part.optional, &part.file) {
            printer.result(&format!("{}: optional, {why}", part.name));
        }
    }
    let mut commands: Vec<&String> = found.parts.iter().filter_map(|p| p.get.as_ref()).collect();
    commands.sort();
    commands.dedup();
    for command in commands {
        printer.note(&format!("to get it: {command}"));
    }
}

/// Lists the embedded model, the pulled ones, and what the cache holds.
pub(super) fn list(hub: &HubArgs, printer: &Printer) -> Result<Exit, Failure> {
    let embedded = |name: &str| (name.to_string(), "embedded".to_string(), String::new());
    let mut rows: Vec<(String, String, String)> = store::carried().map(embedded).collect();
    let models = hub.models()?;
    for name in MODELS {
        let folder = models.join(name);
        match folder.is_dir() {
            true => rows.push((name.to_string(), "folder".into(), folder.display().to_string())),
            false => rows.push((name.to_string(), "not pulled".into(), String::new())),
        }
    }
    let snapshots = hub.cache()?.snapshots();
    if printer.json {
        let known: Vec<_> = rows
            .iter()
            .map(|(name, state, folder)| json!({ "name": name, "state": state, "folder": folder }))
            .collect();
        let cached: Vec<_> = snapshots
            .iter()
            .map(|s| {
                json!({
                    "repository": s.id, "commit": s.commit, "refs": s.refs, "folder": s.folder,
                    "bytes": s.bytes,
                })
            })
            .collect();
        printer.document(&json!({ "models": known, "cache": cached }));
        return Ok(Exit::Done);
    }
    for snapshot in snapshots {
        let short: String = snapshot.commit.chars().take(8).collect();
        let state = format!("cached {short} {}", snapshot.refs.join(" "));
        let bytes = human_bytes(snapshot.bytes);
        rows.push((snapshot.id, state, format!("{bytes} {}", snapshot.folder.display())));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (name, state, place) in rows {
        table.add_row([name, state, place]);
    }
    printer.result(&table.to_string());
    Ok(Exit::Done)
}

/// Writes weights of any format as safetensors.
pub(super) fn convert(args: &ConvertArgs, printer: &Printer) -> Result<Exit, Failure> {
    let mut transfer = Transfer::new(printer);
    let dtype: Option<DType> = args.dtype.map(Dtype::dtype);
    let written = any2pix_hub::convert(&args.from, &args.to, dtype, &mut transfer);
    transfer.finish();
    let written = written.map_err(|e| failure(&e))?;
    if printer.json {
        printer.document(&json!({ "files": written }));
    } else {
        written.iter().for_each(|path| printer.result(&path.display().to_string()));
    }
    Ok(Exit::Done)
}
