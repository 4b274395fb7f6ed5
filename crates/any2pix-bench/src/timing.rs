//! `Bench`: the clock of one case, and the ceilings beside it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use any2pix_agent::outcome::peak_memory;
use any2pix_nn::ops::{Level, Precision};
use any2pix_nn::{Engine, ceiling};

use crate::{Options, Row};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// At least so many runs, after one that is not counted.
    pub runs: usize,
    /// More runs until so much time has gone.
    pub time: Duration,
}

impl Default for Effort {
    fn default() -> Self {
        Self { runs: 5, time: Duration::from_millis(700) }
    }
}

/// Errors of a case, of whatever crate.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
/// What takes rows.
pub(crate) type Report<'a> = &'a mut (dyn FnMut(&Row) -> ControlFlow<()> + Send);
/// What a case returns: broken off if nobody wants more rows.
pub(crate) type Outcome = Result<ControlFlow<()>, Failure>;

/// What a measured piece of work amounts to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Floating-point operations.
    Operations(f64),
    /// Bytes that come from memory once.
    Bytes(f64),
    /// An elementwise pass: arrays read, elements of each and of the one written.
    Pass { inputs: usize, elements: usize },
}

/// The clock of one case.
pub(crate) struct Bench<'a> {
    name: &'static str,
    options: &'a Options,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(name: &'static str, options: &'a Options) -> Self {
        Self { name, options }
    }

    pub(crate) fn precisions(&self) -> &[Precision] {
        &self.options.precisions
    }

    pub(crate) fn peer(&self) -> bool {
        self.options.peer
    }

    /// Median seconds of `work`; the first run fills caches and is not counted.
    pub(crate) fn median<E>(&self, mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
        work()?;
        let Effort { runs, time } = self.options.effort;
        let (mut seconds, begin) = (Vec::new(), Instant::now());
        while seconds.len() < runs.max(1) || begin.elapsed() < time {
            let start = Instant::now();
            work()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    /// A row, with the ceiling measured now.
    pub(crate) fn row(
        &self,
        shape: String,
        precision: Precision,
        median_s: f64,
        work: Work,
    ) -> Row {
        let engine = Engine::current(precision);
        let mut row = Row {
            name: self.name,
            shape,
            dtype: if precision == Precision::Bf16 { "bf16" } else { "f32" },
            threads: rayon::current_num_threads(),
            median_s,
            gflops: None,
            ceiling_gflops: None,
            gbps: None,
            ceiling_gbps: None,
            fraction: None,
            samples_per_s: None,
            peer_s: None,
            peak_mb: None,
        };
        match work {
            Work::Operations(count) => {
                let (rate, ceiling) = (count / median_s / 1e9, ceiling::peak_gflops(engine));
                (row.gflops, row.ceiling_gflops) = (Some(rate), Some(ceiling));
                row.fraction = Some(rate / ceiling);
            }
            Work::Bytes(count) => {
                let (rate, ceiling) =
                    (count / median_s / 1e9, ceiling::read_gbps(Level::current()));
                (row.gbps, row.ceiling_gbps) = (Some(rate), Some(ceiling));
                row.fraction = Some(rate / ceiling);
            }
            Work::Pass { inputs, elements } => {
                let pass = ceiling::pass_seconds(Level::current(), inputs, elements);
                let bytes = (4 * (inputs + 1) * elements) as f64;
                row.gbps = Some(bytes / median_s / 1e9);
                row.ceiling_gbps = Some(bytes / pass / 1e9);
                row.fraction = Some(pass / median_s);
            }
        }
        row
    }
}

/// Largest resident memory of this process so far, 10⁶ bytes, where the system tells.
pub(crate) fn peak_mb() -> Option<f64> {
    Some(peak_memory()? as f64 / 1e6)
}
