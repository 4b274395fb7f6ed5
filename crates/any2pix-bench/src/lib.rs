//! How fast operations and models are, beside what the machine can do at most in the same run.
//!
//! Every case runs the code that edits and trains, on random weights made in memory. A row says
//! the median of several runs, the rate, the ceiling that was measured just before it, and which
//! fraction of that ceiling was reached.

mod cases;
mod llama;
mod models;
mod row;
mod timing;
mod training;
mod weights;

use std::ops::ControlFlow;

use any2pix_nn::ops::Precision;
use thiserror::Error;

pub use cases::{CASES, Case};
pub use row::Row;
pub use timing::Effort;

/// Why there are no rows.
#[derive(Debug, Error)]
pub enum BenchError {
    /// No case has this name.
    #[error("no benchmark is called `{0}`")]
    Unknown(String),
    /// A model could not be built or run.
    #[error("{case} could not run")]
    Failed {
        /// The case.
        case: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The threads could not be started.
    #[error("the threads could not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl any2pix_nn::Hint for BenchError {
    fn hints(&self) -> Vec<String> {
        let names = || CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
        match self {
            Self::Unknown(_) => vec![format!("there are: {}", names())],
            _ => Vec::new(),
        }
    }
}

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of cases; empty means all.
    pub names: Vec<String>,
    /// Threads to compute with.
    pub threads: usize,
    /// Precisions of products, one row each.
    pub precisions: Vec<Precision>,
    /// How long to measure.
    pub effort: Effort,
    /// Stock candle beside each operation.
    pub peer: bool,
}

/// Runs the cases in the order of [`CASES`]; `report` sees each row as soon as it is there and may
/// end the run.
pub fn run(
    options: &Options,
    mut report: impl FnMut(&Row) -> ControlFlow<()> + Send,
) -> Result<(), BenchError> {
    for name in &options.names {
        if !CASES.iter().any(|case| case.name == name) {
            return Err(BenchError::Unknown(name.clone()));
        }
    }
    let wanted = |case: &&Case| {
        options.names.is_empty() || options.names.iter().any(|name| name == case.name)
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    pool.install(|| {
        for case in CASES.iter().filter(wanted) {
            let failed = |source| BenchError::Failed { case: case.name, source };
            let bench = timing::Bench::new(case.name, options);
            if (case.run)(&bench, &mut report).map_err(failed)?.is_break() {
                break;
            }
        }
        Ok(())
    })
}
