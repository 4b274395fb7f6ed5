//! Ray: a driver in Python whose actors each hold one `any2pix worker`.

use super::job::Job;
use super::template::{fill, shell};
use crate::diagnostics::Failure;

const TEMPLATE: &str = include_str!("../../../../../cluster/ray.sh");
const DRIVER: &str = include_str!("../../../../../cluster/any2pix_ray.py");

/// The script that writes the driver and runs it.
pub(super) fn script(job: &Job) -> Result<String, Failure> {
    let (shards, workers) = (job.shards.to_string(), job.workers.to_string());
    let (cpus, gpus) = (job.cpus.to_string(), job.gpus.to_string());
    let mut words = vec![&*job.manifest, "--out", &job.out, "--any2pix", &job.any2pix];
    words.extend(["--shards", &shards, "--workers", &workers, "--cpus", &cpus, "--gpus", &gpus]);
    words.extend(job.allow_outside.then_some("--allow-outside"));
    words.extend(job.json.then_some("--json"));
    words.push("--");
    words.extend(job.flags.iter().map(String::as_str));
    let values = [
        ("folder", job.shell_folder(|folder| folder)?),
        ("driver", DRIVER.to_string()),
        ("words", shell(words)?),
    ];
    fill(TEMPLATE, &values)
}
