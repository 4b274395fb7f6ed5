//! `any2pix models pull`: a repository of the hub, or all that a model consists of.

use std::path::PathBuf;

use any2pix_hub::definition::MODELS;
use any2pix_hub::{
    Destination, ModelDefinition, ModelPlace, PullRequest, Pulled, human_bytes, pull, pull_model,
};
use serde_json::json;

use super::failure;
use super::hub_args::HubArgs;
use super::transfer::Transfer;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// What `any2pix models pull` takes.
#[derive(clap::Args)]
pub(super) struct Args {
    /// `organisation/name`, or a model: instructany2pix.
    what: String,
    /// Branch, tag or commit of a repository.
    #[arg(long, default_value = "main")]
    revision: String,
    /// Take only files that fit: `*.json`, `unet/*`, `llm/**`.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave out files that fit.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Of a model, fetch these repositories only.
    #[arg(long, value_name = "REPOSITORY")]
    only: Vec<String>,
    /// Put the files into this folder instead of the cache.
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, hub: &HubArgs, printer: &Printer) -> Result<Exit, Failure> {
    let client = hub.client();
    let mut transfer = Transfer::new(printer);
    let is_model = MODELS.contains(&args.what.as_str());
    let (folder, pulled) = if is_model {
        if args.revision != "main" || !(args.include.is_empty() && args.exclude.is_empty()) {
            return Err(Failure::refused(format!(
                "`{}` states its own revisions and files",
                args.what
            ))
            .hint("name a repository to choose them, or choose repositories with --only"));
        }
        let model = ModelDefinition::named(&args.what).map_err(|e| failure(&e))?;
        for repository in &model.repositories {
            printer.note(&format!("{}: licence: {}", repository.id, repository.licence));
        }
        let place = match &args.dir {
            Some(dir) => ModelPlace::Folder(dir.clone()),
            None => {
                ModelPlace::Linked { cache: hub.cache()?, folder: hub.models()?.join(model.name) }
            }
        };
        let (ModelPlace::Folder(folder) | ModelPlace::Linked { folder, .. }) = &place;
        (Some(folder.clone()), pull_model(&client, &model, &args.only, &place, &mut transfer))
    } else {
        let request = PullRequest {
            id: args.what.clone(),
            revision: args.revision.clone(),
            include: args.include.clone(),
            exclude: args.exclude.clone(),
        };
        let destination = match &args.dir {
            Some(dir) => Destination::Folder(dir.clone()),
            None => Destination::Cache(hub.cache()?),
        };
        (None, pull(&client, &request, &destination, &mut transfer).map(|one| vec![one]))
    };
    transfer.finish();
    let pulled = pulled.map_err(|e| failure(&e))?;
    report(folder, &pulled, printer);
    Ok(Exit::Done)
}

fn report(folder: Option<PathBuf>, pulled: &[Pulled], printer: &Printer) {
    let fetched: u64 = pulled.iter().map(|one| one.fetched).sum();
    let folder = folder.or_else(|| pulled.first().map(|one| one.folder.clone()));
    if printer.json {
        let parts: Vec<_> = pulled
            .iter()
            .map(|one| json!({ "folder": one.folder, "commit": one.commit, "files": one.files }))
            .collect();
        printer.document(&json!({ "folder": folder, "fetched": fetched, "repositories": parts }));
        return;
    }
    let count: usize = pulled.iter().map(|one| one.files.len()).sum();
    printer.note(&format!("{count} files, {} fetched now", human_bytes(fetched)));
    if let Some(folder) = folder {
        printer.result(&folder.display().to_string());
    }
}
