//! Slurm: an array of shards, and a job that merges them.

use super::job::Job;
use super::template::{fill, shell};
use crate::diagnostics::Failure;

const TEMPLATE: &str = include_str!("../../../../../cluster/slurm.sh");

/// The script that submits both.
pub(super) fn script(job: &Job) -> Result<String, Failure> {
    let shards = format!("--shards={}", job.shards);
    let mut batch = job.batch();
    batch.push(&shards);
    let gres = match job.gpus {
        0 => String::new(),
        gpus => format!("\n#SBATCH --gres=gpu:{gpus}"),
    };
    let values = [
        ("folder", job.shell_folder(|folder| folder)?),
        // In names of logs, sbatch fills in what follows a percent sign.
        ("logs", job.shell_folder(|folder| folder.replace('%', "%%"))?),
        ("last", (job.shards - 1).to_string()),
        ("workers", job.workers.to_string()),
        ("cpus", job.cpus.to_string()),
        ("gres", gres),
        ("batch", shell(batch)?),
        ("merge", shell(job.merge())?),
    ];
    fill(TEMPLATE, &values)
}
