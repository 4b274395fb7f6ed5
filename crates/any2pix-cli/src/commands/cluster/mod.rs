//! `any2pix cluster`: a manifest of many edits on many machines.
//!
//! Ray, Slurm and Kubernetes decide who does which shard, and when; shards are done by `any2pix
//! batch` and `any2pix worker`, which need no network and know no cluster.

mod job;
mod kubernetes;
mod ray;
mod slurm;
mod start;
mod template;

use std::path::PathBuf;

use any2pix_agent::batch::{Manifest, ManifestOptions, Shard, begun_shards};
use clap::ValueEnum;

use self::job::{Job, path_text};
use self::kubernetes::PodArgs;
use self::start::Start;
use crate::compute::ComputeArgs;
use crate::diagnostics::{Exit, Failure};
use crate::edit_flags::EditFlags;
use crate::printer::Printer;

/// Shards for each worker, so that those with quick edits take over from those with slow ones.
const SHARDS_A_WORKER: usize = 4;

/// Do the edits of a manifest on many machines, by Ray, Slurm or Kubernetes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Submit(Box<SubmitArgs>),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// Actors that each keep a model loaded; what a lost node had is done by others.
    Ray,
    /// An array of shards, and a job that merges them.
    Slurm,
    /// An Indexed Job.
    #[value(name = "k8s", alias = "kubernetes")]
    Kubernetes,
}

/// Do the edits of a manifest on a cluster.
///
/// Every node sees the manifest, its files and the folder of the results under the same paths.
/// What is done stays done: the same command goes on where an earlier one stopped.
#[derive(clap::Args)]
struct SubmitArgs {
    /// The manifest (JSONL), as of `any2pix batch`.
    manifest: PathBuf,
    /// The folder of the results.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Who does it.
    #[arg(long, value_enum)]
    engine: Engine,
    /// Print what would be started, and start nothing.
    #[arg(long)]
    print: bool,
    /// Shards at the same time.
    #[arg(long, visible_alias = "concurrency", value_name = "K", default_value_t = 4)]
    workers: usize,
    /// Parts of the manifest; unless given, as many as were begun, or four a worker.
    #[arg(long, env = "ANY2PIX_SHARDS", value_name = "N")]
    shards: Option<usize>,
    /// Processors of each worker.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: usize,
    /// Graphics processors of each worker.
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpus: usize,
    /// Where any2pix lies on the nodes; unless given, where it lies here, in a container on its path.
    #[arg(long, value_name = "PATH")]
    binary: Option<String>,
    /// Let references lead out of the manifest's folder.
    #[arg(long)]
    allow_outside: bool,
    #[command(flatten)]
    pod: PodArgs,
    #[command(flatten)]
    edit: EditFlags,
}

pub(super) fn run(args: &Args, compute: &ComputeArgs, printer: &Printer) -> Result<Exit, Failure> {
    let Action::Submit(args) = &args.action;
    let job = args.job(args.shards(printer)?, compute, printer)?;
    let start = args.start(&job)?;
    if args.print {
        start.show(printer);
        return Ok(Exit::Done);
    }
    start.write()?;
    printer.note(&format!("{} shards: {}", job.shards, start.file.display()));
    match args.engine {
        Engine::Ray => start.become_it(),
        Engine::Slurm | Engine::Kubernetes => start.submit(printer),
    }
}

impl SubmitArgs {
    /// How many shards: checks the whole manifest, so that no job is started for one that is
    /// refused.
    fn shards(&self, printer: &Printer) -> Result<usize, Failure> {
        if self.workers == 0 || self.cpus == 0 {
            return Err(Failure::refused("--workers and --cpus: must be 1 or more"));
        }
        let pipeline = self.edit.model.open()?;
        let settings = self.edit.model.settings(&*pipeline)?;
        let options = ManifestOptions { settings, allow_outside: self.allow_outside };
        let manifest = Manifest::open(&self.manifest, options)?;
        for warning in &manifest.warnings {
            printer.warning(warning);
        }
        let begun = begun_shards(&self.out)?;
        let usual = self.workers.saturating_mul(SHARDS_A_WORKER).min(manifest.session_count());
        let shards = self.shards.or(begun).unwrap_or(usual);
        if let Some(begun) = begun.filter(|begun| *begun != shards) {
            let failure = Failure::refused(format!("--shards {shards}: {begun} were begun"));
            return Err(failure.hint("give another folder, or leave --shards out"));
        }
        Ok(Shard::new(0, shards)?.count)
    }

    fn job(&self, shards: usize, compute: &ComputeArgs, printer: &Printer) -> Result<Job, Failure> {
        let here = || {
            let path = std::env::current_exe();
            path_text(&path.map_err(|e| Failure::internal(format!("cannot find itself: {e}")))?)
        };
        let mut flags = self.edit.words.clone();
        if compute.threads.is_none() {
            flags.push(format!("--threads={}", self.cpus));
        }
        if flags.iter().any(|flag| flag.chars().any(char::is_control)) {
            return Err(Failure::refused("a setting with a line break cannot stand in a script"));
        }
        Ok(Job {
            any2pix: match (&self.binary, self.engine) {
                (Some(path), _) => path.clone(),
                (None, Engine::Kubernetes) => "any2pix".to_string(),
                (None, Engine::Ray | Engine::Slurm) => here()?,
            },
            manifest: path_text(&self.manifest)?,
            out: path_text(&self.out)?,
            shards,
            workers: self.workers.min(shards),
            cpus: self.cpus,
            gpus: self.gpus,
            flags,
            allow_outside: self.allow_outside,
            json: printer.json,
        })
    }

    fn start(&self, job: &Job) -> Result<Start, Failure> {
        let sh: &[&str] = &["sh"];
        let (name, text, program) = match self.engine {
            Engine::Ray => ("ray.sh", ray::script(job)?, sh),
            Engine::Slurm => ("slurm.sh", slurm::script(job)?, sh),
            Engine::Kubernetes => {
                let text = kubernetes::manifest(job, &self.pod)?;
                ("kubernetes.yaml", text, &["kubectl", "create", "-f"][..])
            }
        };
        Ok(Start { file: job.folder().join(name), text, program })
    }
}
