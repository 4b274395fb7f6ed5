//! The flags that say which shard of the work is done.

use any2pix_agent::batch::Shard;

use crate::diagnostics::Failure;

/// What schedulers call the index of a task. The number of tasks is never taken from them: one
/// task that is submitted again would be one of one.
const INDICES: [&str; 3] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK"];

/// Which shard is done.
#[derive(clap::Args)]
pub(crate) struct ShardArgs {
    /// Do one of so many shards; any number gives the same results.
    #[arg(long, env = "ANY2PIX_SHARDS", value_name = "N", default_value_t = 1)]
    shards: usize,
    /// Which shard, from 0; unless given, the index that Slurm, Kubernetes or RANK says.
    #[arg(long, env = "ANY2PIX_SHARD", value_name = "I")]
    shard: Option<usize>,
}

impl ShardArgs {
    /// The shard that flags, environment and scheduler result in.
    pub(crate) fn shard(&self) -> Result<Shard, Failure> {
        let index = match self.shard {
            Some(index) => index,
            None if self.shards <= 1 => 0,
            None => index_of_task()?,
        };
        Ok(Shard::new(index, self.shards)?)
    }
}

/// The index that a scheduler gave this process.
fn index_of_task() -> Result<usize, Failure> {
    let said = |name: &'static str| Some((name, std::env::var_os(name)?));
    let Some((name, text)) = INDICES.into_iter().find_map(said) else {
        let failure = Failure::refused("--shards is given, and nothing says which shard to do");
        return Err(failure.hint("say it with --shard I, or ANY2PIX_SHARD"));
    };
    let text = text.to_string_lossy();
    text.parse().map_err(|_| Failure::refused(format!("{name}={text}: is no index of a shard")))
}
