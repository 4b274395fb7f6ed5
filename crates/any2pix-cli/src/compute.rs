//! Flags of how to compute: threads, instructions, precision.

use any2pix_nn::ops::{self, Level, Precision};
use clap::ValueEnum;

use crate::diagnostics::Failure;

/// How to compute.
#[derive(clap::Args)]
pub(crate) struct ComputeArgs {
    /// Threads to compute with; the result does not depend on it.
    #[arg(long, global = true, env = "ANY2PIX_THREADS", value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Use at most these instructions; unless given, those that are fastest on this machine.
    #[arg(long, global = true, env = "ANY2PIX_LEVEL", value_enum)]
    level: Option<LevelArg>,
    /// Precision of weights and products. Unless given, edits use bf16 where the machine has
    /// instructions for it, f32 elsewhere.
    #[arg(long, global = true, env = "ANY2PIX_PRECISION", value_enum)]
    precision: Option<PrecisionArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LevelArg {
    Portable,
    Avx2,
    Avx512,
    #[value(name = "avx512-bf16")]
    Avx512Bf16,
    Amx,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PrecisionArg {
    F32,
    Bf16,
    F16,
}

/// Whether this machine has instructions for bfloat16; where they are slower than those for f32,
/// weights are kept in it all the same, in half the memory.
pub(crate) fn has_bf16() -> bool {
    Level::detected() >= Level::Avx512Bf16
}

impl ComputeArgs {
    /// Starts the threads and limits the instructions, as asked. `computes` says that this thread
    /// does the command's work and waits for nobody: it is one of the threads then, and no other
    /// has to be woken for what it can begin itself.
    pub(crate) fn prepare(&self, computes: bool) -> Result<(), Failure> {
        set_threads(self.threads, computes)?;
        if let Some(level) = self.level {
            set_level(level)?;
        }
        if self.precision == Some(PrecisionArg::F16) {
            let failure = Failure::refused("--precision f16: the CPU computes in f32 or bf16");
            return Err(failure.hint("use --precision bf16, which takes the same memory"));
        }
        Ok(())
    }

    /// The precision that was asked for.
    pub(crate) fn precision(&self) -> Option<Precision> {
        self.precision.map(|precision| match precision {
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::F32 | PrecisionArg::F16 => Precision::F32,
        })
    }

    /// Computes in the precision that was asked for, or in bf16 where the machine has it.
    pub(crate) fn use_fastest(&self) {
        let fastest = if has_bf16() { Precision::Bf16 } else { Precision::F32 };
        ops::set_precision(self.precision().unwrap_or(fastest));
    }

    /// Computes in the precision that was asked for, or in f32.
    pub(crate) fn use_exact(&self) {
        ops::set_precision(self.precision().unwrap_or_default());
    }
}

fn set_threads(wanted: Option<usize>, computes: bool) -> Result<(), Failure> {
    let threads =
        wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if threads == 0 || threads > 1024 {
        return Err(Failure::refused(format!("--threads {threads}: must be 1 to 1024")));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    // Alone it could be waited for by a thread that it waits for, one that prepares batches, say.
    let pool = if computes && threads > 1 { pool.use_current_thread() } else { pool };
    pool.build_global()
        .map_err(|e| Failure::internal(format!("cannot start {threads} threads: {e}")))
}

fn set_level(level: LevelArg) -> Result<(), Failure> {
    let wanted = match level {
        LevelArg::Portable => Level::Portable,
        LevelArg::Avx2 => Level::Avx2,
        LevelArg::Avx512 => Level::Avx512,
        LevelArg::Avx512Bf16 => Level::Avx512Bf16,
        LevelArg::Amx => Level::Amx,
    };
    let detected = Level::detected();
    if wanted > detected {
        let failure = Failure::refused(format!("--level: this machine has no {wanted:?}"));
        return Err(failure.hint(format!("the best it has is {detected:?}")));
    }
    Level::limit(wanted);
    Ok(())
}
