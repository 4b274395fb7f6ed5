//! `Batch`: a shard of a manifest, done row by row; several rows at a time where a model's parts
//! stay in memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::edit::{Before, Made, RowEditor};
use super::folder::{BatchFolder, Claim};
use super::identity::Identity;
use super::journal::{Entry, Header, Journal};
use super::manifest::Manifest;
use super::merge;
use super::result::{RowResult, RowStatus, Totals};
use super::shards::{Session, Shard};
use crate::error::AgentError;
use crate::pipeline::Pipeline;
use crate::progress::Stage;
use crate::storage::write_atomically;

/// What to do.
pub struct Batch<'a> {
    /// What edits.
    pub pipeline: &'a dyn Pipeline,
    /// The rows.
    pub manifest: &'a Manifest,
    /// Which of the rows.
    pub shard: Shard,
    /// Go on where an earlier run stopped.
    pub resume: bool,
    /// Rows at the same time; unless given, one a thread if the model's parts stay in memory.
    pub jobs: Option<usize>,
}

/// Who watches a batch.
pub trait Watch: Sync {
    /// `total` rows are to be done; of them `skipped` are already.
    fn begin(&self, _total: usize, _skipped: usize) {}

    /// A row is done.
    fn row(&self, _event: &RowEvent<'_>) {}

    /// Something that the user should know.
    fn warning(&self, _message: &str) {}

    /// True when the batch shall stop.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A row is done.
pub struct RowEvent<'a> {
    /// What came of it.
    pub result: &'a RowResult,
    /// How long it took.
    pub seconds: f64,
}

/// What came of a shard.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Rows of the shard.
    pub rows: usize,
    /// Rows that an earlier run had done.
    pub skipped: usize,
    /// How they ended, earlier ones too.
    pub totals: Totals,
    /// Wall time of this run.
    pub seconds: f64,
}

impl Summary {
    /// For `--json`, and for whoever asked a worker.
    pub fn document(&self) -> Value {
        json!({
            "status": "done",
            "rows": self.rows,
            "skipped": self.skipped,
            "done": self.totals.done,
            "failed": self.totals.failed(),
            "failures": self.totals.failures(),
            "seconds": self.seconds,
        })
    }
}

/// What is already done, by index of the row.
type Known = Vec<Option<RowResult>>;

/// A shard that is being done.
struct Work<'a> {
    batch: &'a Batch<'a>,
    editor: RowEditor<'a>,
    known: Known,
    watch: &'a dyn Watch,
    /// Nobody begins anything more.
    stop: AtomicBool,
    /// The next session.
    next: AtomicUsize,
    shared: Mutex<Shared>,
}

struct Shared {
    journal: Journal,
    totals: Totals,
    /// What stopped the batch.
    error: Option<AgentError>,
}

impl Batch<'_> {
    /// Does the shard and writes into `out`; a batch of one shard is merged at its end.
    ///
    /// # Errors
    /// What stops a batch: a model that cannot be loaded, storage, a folder that is somebody
    /// else's, and [`AgentError::Cancelled`]. A row that fails does not; it is counted.
    pub fn run(&self, out: &Path, watch: &dyn Watch) -> Result<Summary, AgentError> {
        let start = Instant::now();
        let Self { pipeline, manifest, shard, .. } = self;
        let identity = Identity::new(manifest, *pipeline, shard.count)?;
        let claim = BatchFolder::new(out).claim(&identity, *shard, self.resume)?;
        let sessions: Vec<&Session> = shard.sessions(&manifest.sessions).collect();
        let rows: Vec<usize> = sessions.iter().flat_map(|s| s.rows.iter().copied()).collect();
        claim.sweep(&rows.iter().map(|row| manifest.rows[*row].stem.as_str()).collect())?;
        let header = Header {
            batch: identity.digest(),
            shard: shard.index,
            shards: shard.count,
            rows: rows.len(),
        };
        let (journal, known) = self.resume(&claim, &header, &rows, watch)?;
        let mut totals = Totals::default();
        known.iter().flatten().for_each(|result| totals.count(result));
        let skipped = known.iter().flatten().count();
        watch.begin(rows.len(), skipped);
        let work = Work {
            batch: self,
            editor: RowEditor { pipeline: *pipeline, manifest, folder: &claim.folder },
            known,
            watch,
            stop: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            shared: Mutex::new(Shared { journal, totals, error: None }),
        };
        let totals = work.finish(&sessions)?;
        let done = json!({
            "batch": header.batch, "rows": header.rows, "done": totals.done, "failed": totals.failed(),
        });
        write_atomically(&claim.folder.done(*shard), format!("{done}\n").as_bytes())?;
        if shard.count == 1 {
            merge::merge(out)?;
        }
        Ok(Summary { rows: rows.len(), skipped, totals, seconds: start.elapsed().as_secs_f64() })
    }

    /// Opens the journal and finds out what is done already: rows whose pictures are where the
    /// journal says, and failures.
    fn resume(
        &self,
        claim: &Claim,
        header: &Header,
        rows: &[usize],
        watch: &dyn Watch,
    ) -> Result<(Journal, Known), AgentError> {
        let ours: BTreeSet<usize> = rows.iter().copied().collect();
        let mut known: Known = vec![None; self.manifest.len()];
        let path = claim.folder.journal(self.shard);
        let (journal, is_torn) = Journal::open(&path, header, |entry: Entry<RowResult>| {
            if !ours.contains(&entry.index) || self.manifest.rows[entry.index].id != entry.result.id
            {
                let what = "rows of another manifest";
                return Err(AgentError::OtherBatch { path: path.clone(), what });
            }
            known[entry.index] = Some(entry.result);
            Ok(())
        })?;
        if is_torn {
            watch.warning(&format!("{}: the last line was torn and is dropped", path.display()));
        }
        for slot in &mut known {
            let picture = slot.as_ref().and_then(|result| result.picture.as_ref());
            if picture.is_some_and(|picture| !merge::is_there(&claim.folder, picture)) {
                *slot = None;
            }
        }
        Ok((journal, known))
    }

    /// Rows at the same time, and threads for each.
    fn jobs(&self, sessions: usize) -> (usize, usize) {
        let threads = rayon::current_num_threads();
        let usual = if self.pipeline.is_resident() { threads } else { 1 };
        let jobs = self.jobs.unwrap_or(usual).clamp(1, sessions.max(1));
        (jobs, (threads / jobs).max(1))
    }
}

impl Work<'_> {
    /// Does all sessions.
    fn finish(self, sessions: &[&Session]) -> Result<Totals, AgentError> {
        let (jobs, threads) = self.batch.jobs(sessions.len());
        let pool = || rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pools: Vec<_> =
            (0..jobs).map(|_| pool()).collect::<Result<_, _>>().map_err(|error| {
                let reason = error.to_string();
                AgentError::Setting { name: "--threads", value: threads.to_string(), reason }
            })?;
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| pool.install(|| self.take_sessions(sessions)));
            }
        });
        let shared = self.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        shared.error.map_or(Ok(shared.totals), Err)
    }

    fn take_sessions(&self, sessions: &[&Session]) {
        while let Some(session) = sessions.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = self.session(session) {
                self.stop.store(true, Ordering::Relaxed);
                let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                // Others that stop because of the first say only that they were stopped.
                let is_cause = !matches!(error, AgentError::Cancelled { .. });
                if shared.error.is_none() || is_cause {
                    shared.error = Some(error);
                }
                return;
            }
        }
    }

    fn session(&self, session: &Session) -> Result<(), AgentError> {
        let mut before = Before::Nothing;
        for index in &session.rows {
            if self.is_stopped() {
                return Err(AgentError::Cancelled { stage: Stage::Load });
            }
            before = match &self.known[*index] {
                Some(result) => Before::of(result),
                None => Before::of(&self.row(*index, &before)?),
            };
        }
        Ok(())
    }

    fn row(&self, index: usize, before: &Before) -> Result<RowResult, AgentError> {
        let Made { result, run } = self.editor.make(index, before, &|| self.is_stopped())?;
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.journal.append(index, &result, &run)?;
        shared.totals.count(&result);
        self.watch.row(&RowEvent { result: &result, seconds: run.seconds });
        Ok(result)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.watch.is_cancelled()
    }
}

impl Before {
    fn of(result: &RowResult) -> Self {
        match (&result.picture, &result.failure, result.status) {
            (Some(picture), _, RowStatus::Done) => Self::Picture(picture.output.clone()),
            (_, Some(failure), _) => {
                Self::Failure { id: result.id.clone(), error: failure.error.clone() }
            }
            _ => Self::Nothing,
        }
    }
}
