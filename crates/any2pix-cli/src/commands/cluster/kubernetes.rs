//! Kubernetes: an Indexed Job.

use std::path::{Path, PathBuf};

use super::job::{Job, path_text};
use super::template::{fill, yaml};
use crate::diagnostics::Failure;

const TEMPLATE: &str = include_str!("../../../../../cluster/kubernetes.yaml");

/// Where a pod finds program and files.
#[derive(clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct PodArgs {
    /// The container image that has any2pix.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The persistent volume claim that has manifest and media, and gets the results.
    #[arg(long, value_name = "NAME")]
    claim: Option<String>,
    /// The folder that the claim is, here and in pods; unless given, the deepest that has both the
    /// manifest and the results.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
}

/// The manifest of the job.
pub(super) fn manifest(job: &Job, pod: &PodArgs) -> Result<String, Failure> {
    let given = |flag: &str, value: &Option<String>| {
        let missing = || Failure::refused(format!("--engine k8s needs {flag}"));
        value.clone().ok_or_else(missing)
    };
    let shards = format!("--shards={}", job.shards);
    let mut command = job.batch();
    command.push(&shards);
    // Kubernetes fills in `$(NAME)`.
    let command = command.iter().map(|word| yaml(&word.replace("$(", "$$(")));
    let gpu_limit = match job.gpus {
        0 => String::new(),
        gpus => format!("\n            limits:\n              nvidia.com/gpu: {gpus}"),
    };
    let values = [
        ("out", job.out.clone()),
        ("shards", job.shards.to_string()),
        ("workers", job.workers.to_string()),
        ("image", yaml(&given("--image", &pod.image)?)),
        ("command", format!("[{}]", command.collect::<Vec<_>>().join(", "))),
        ("mount", yaml(&mount(job, pod)?)),
        ("cpus", job.cpus.to_string()),
        ("gpu_limit", gpu_limit),
        ("claim", yaml(&given("--claim", &pod.claim)?)),
    ];
    fill(TEMPLATE, &values)
}

/// The folder that the claim is: manifest and results lie in it.
fn mount(job: &Job, pod: &PodArgs) -> Result<String, Failure> {
    let (manifest, out) = (Path::new(&job.manifest), Path::new(&job.out));
    let Some(mount) = &pod.mount else {
        let common = out.ancestors().find(|folder| manifest.starts_with(folder));
        return match common {
            Some(folder) if folder.parent().is_some() => path_text(folder),
            _ => Err(Failure::refused("manifest and results have no folder in common")
                .hint("say with --mount DIR which folder the claim is")),
        };
    };
    let text = path_text(mount)?;
    if manifest.starts_with(&text) && out.starts_with(&text) {
        return Ok(text);
    }
    let failure = Failure::refused(format!("--mount {text}: does not hold manifest and results"));
    Err(failure.hint("pods see only the claim"))
}
