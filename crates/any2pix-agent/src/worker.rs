//! `Worker`: edits for another program; one JSON request a line, one reply a line, in order.
//!
//! ```text
//! {"id"?, "instruction", "references"?: {name: path}, "output", "settings"?}   one edit
//! {"id"?, "batch": {"manifest", "out", "shards"?, "shard"?, "resume"?, "allow_outside"?}}
//! {"cancel": id}                                    stops that request, or takes it off the queue
//! ```
//!
//! A reply has the request's `id` and `status`: `done` with the outcome or the batch's summary,
//! `failed` with `error`, `class` and `hint`, or `cancelled`. A line that is no request gets a reply
//! too, and the worker goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use any2pix_nn::Hint;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::batch::{Batch, Manifest, ManifestOptions, Shard, Watch};
use crate::bounded_lines::{BoundedLines, Line, MAX_LINE_BYTES};
use crate::error::AgentError;
use crate::pipeline::{Pipeline, edit_guarded};
use crate::progress::{Progress, Stage};
use crate::request::{EditRequest, Instruction, Reference};
use crate::settings::{EditSettings, SettingsPatch};
use crate::storage;
use crate::strict_json;

/// Most requests that wait; then lines are left unread.
const MAX_WAITING: usize = 64;
/// How often somebody who waits asks whether to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// Edits for another program.
pub struct Worker<'a> {
    /// What edits.
    pub pipeline: &'a dyn Pipeline,
    /// The settings that a request's own go over.
    pub settings: EditSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    id: Option<String>,
    #[serde(default)]
    references: BTreeMap<String, PathBuf>,
    #[serde(default)]
    settings: SettingsPatch,
    instruction: Option<String>,
    output: Option<PathBuf>,
    batch: Option<BatchRequest>,
    cancel: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchRequest {
    manifest: PathBuf,
    out: PathBuf,
    #[serde(default = "one")]
    shards: usize,
    #[serde(default)]
    shard: usize,
    #[serde(default)]
    resume: bool,
    #[serde(default)]
    allow_outside: bool,
}

fn one() -> usize {
    1
}

/// One edit.
#[derive(Debug)]
struct EditLine {
    instruction: String,
    references: BTreeMap<String, PathBuf>,
    settings: SettingsPatch,
    output: PathBuf,
}

#[derive(Debug)]
enum Job {
    Edit(Box<EditLine>),
    Batch(BatchRequest),
    /// Nothing can be done; this is why.
    Refuse(String),
}

/// A line that asks for a reply.
#[derive(Debug)]
struct Request {
    id: Option<String>,
    job: Job,
}

/// Ids of requests that wait or run, and which of them somebody no longer wants.
#[derive(Debug, Default)]
struct Wanted {
    pending: BTreeSet<String>,
    cancelled: BTreeSet<String>,
}

type SharedWanted = Arc<Mutex<Wanted>>;

fn locked(wanted: &SharedWanted) -> MutexGuard<'_, Wanted> {
    wanted.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Request {
    fn refuse(id: Option<String>, reason: impl Into<String>) -> Self {
        Self { id, job: Job::Refuse(reason.into()) }
    }

    /// What a line asks for; nothing for a cancellation that is carried out.
    fn parse(text: &str, wanted: &SharedWanted) -> Option<Self> {
        let value = match strict_json::parse_object(text, &["references", "settings", "batch"]) {
            Ok(value) => value,
            Err(reason) => return Some(Self::refuse(None, reason)),
        };
        let id = value["id"].as_str().map(str::to_string);
        let raw: RawRequest = match serde_json::from_value(value) {
            Ok(raw) => raw,
            Err(error) => return Some(Self::refuse(id, error.to_string())),
        };
        let id = raw.id;
        if let Some(cancel) = raw.cancel {
            let mut wanted = locked(wanted);
            if wanted.pending.contains(&cancel) {
                wanted.cancelled.insert(cancel);
                return None;
            }
            return Some(Self::refuse(Some(cancel), "nothing of this id waits or runs"));
        }
        let job = match (raw.instruction, raw.output, raw.batch) {
            (Some(instruction), Some(output), None) => {
                let RawRequest { references, settings, .. } = raw;
                Job::Edit(Box::new(EditLine { instruction, references, settings, output }))
            }
            (None, None, Some(batch)) => Job::Batch(batch),
            _ => Job::Refuse("needs `instruction` and `output`, or `batch`, or `cancel`".into()),
        };
        if let Some(id) = id.as_ref().filter(|_| !matches!(job, Job::Refuse(_)))
            && !locked(wanted).pending.insert(id.clone())
        {
            return Some(Self::refuse(Some(id.clone()), "a request of this id waits or runs"));
        }
        Some(Self { id, job })
    }
}

/// Reads lines and sends on what asks for a reply, until the input or the receiver ends.
fn read(input: impl Read, sender: &SyncSender<Request>, wanted: &SharedWanted) {
    let mut lines = BoundedLines::new(BufReader::new(input));
    loop {
        let request = match lines.next_line() {
            Ok(Some(Line::Text(text))) if text.trim().is_empty() => None,
            Ok(Some(Line::Text(text))) => Request::parse(&text, wanted),
            Ok(Some(Line::TooLong)) => {
                let reason = format!("the line is longer than {} KB", MAX_LINE_BYTES >> 10);
                Some(Request::refuse(None, reason))
            }
            Ok(Some(Line::Invalid { offset })) => {
                Some(Request::refuse(None, format!("byte {offset} of the input is not UTF-8")))
            }
            Ok(None) | Err(_) => return,
        };
        if request.is_some_and(|request| sender.send(request).is_err()) {
            return;
        }
    }
}

/// Asks whether a request is still wanted.
struct Asked<'a> {
    id: Option<&'a str>,
    wanted: &'a SharedWanted,
    is_stopped: &'a (dyn Fn() -> bool + Sync),
}

impl Asked<'_> {
    fn is_over(&self) -> bool {
        (self.is_stopped)() || self.id.is_some_and(|id| locked(self.wanted).cancelled.contains(id))
    }
}

impl Progress for Asked<'_> {
    fn is_cancelled(&self) -> bool {
        self.is_over()
    }
}

impl Watch for Asked<'_> {
    fn is_cancelled(&self) -> bool {
        self.is_over()
    }
}

impl Worker<'_> {
    /// Serves the lines of `input` until it ends or `is_stopped` says so; what `reply` is given is
    /// one line.
    ///
    /// # Errors
    /// [`AgentError::Cancelled`] when it was stopped.
    pub fn serve(
        &self,
        input: impl Read + Send + 'static,
        reply: &mut dyn FnMut(&str),
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), AgentError> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let wanted = SharedWanted::default();
        let readers = wanted.clone();
        // Nobody waits for this thread: it ends with its input, or with the process.
        std::thread::spawn(move || read(input, &sender, &readers));
        while let Some(request) = next(&receiver, is_stopped)? {
            let asked = Asked { id: request.id.as_deref(), wanted: &wanted, is_stopped };
            let result = self.carry_out(&request.job, &asked);
            let mut document = json!({ "id": request.id });
            if let Value::Object(map) = &mut document {
                map.extend(answer(result));
            }
            if let (Some(id), false) = (&request.id, matches!(request.job, Job::Refuse(_))) {
                let mut wanted = locked(&wanted);
                wanted.pending.remove(id);
                wanted.cancelled.remove(id);
            }
            reply(&document.to_string());
            if is_stopped() {
                return Err(AgentError::Cancelled { stage: Stage::Load });
            }
        }
        Ok(())
    }

    fn carry_out(&self, job: &Job, asked: &Asked<'_>) -> Result<Value, AgentError> {
        if asked.is_over() {
            return Err(AgentError::Cancelled { stage: Stage::Load });
        }
        match job {
            Job::Edit(line) => self.edit(line, asked),
            Job::Batch(request) => self.batch(request, asked),
            Job::Refuse(reason) => Err(AgentError::BadRequest { reason: reason.clone() }),
        }
    }

    fn edit(&self, line: &EditLine, asked: &Asked<'_>) -> Result<Value, AgentError> {
        let mut settings = self.settings.clone();
        line.settings.apply(&mut settings);
        settings.validate()?;
        let instruction = Instruction::parse(&line.instruction)?;
        let path = |name: &String| match line.references.get(name) {
            Some(path) => path.clone(),
            None => PathBuf::from(name),
        };
        let inputs: Vec<PathBuf> = instruction.names.iter().map(path).collect();
        storage::refuse_inputs(&line.output, &inputs)?;
        let named = instruction.names.iter().zip(&inputs);
        let references = named.map(|(name, path)| Reference::open(name, path));
        let references = references.collect::<Result<_, _>>()?;
        let request = EditRequest { instruction, references, settings };
        let mut progress = Asked { ..*asked };
        let outcome = edit_guarded(self.pipeline, &request, &mut progress)?;
        outcome.save(&line.output, &inputs)?;
        Ok(outcome.document(Some(&line.output)))
    }

    fn batch(&self, request: &BatchRequest, asked: &Asked<'_>) -> Result<Value, AgentError> {
        let shard = Shard::new(request.shard, request.shards)?;
        let BatchRequest { resume, allow_outside, .. } = *request;
        let options = ManifestOptions { settings: self.settings.clone(), allow_outside };
        let manifest = Manifest::open(&request.manifest, options)?;
        let batch =
            Batch { pipeline: self.pipeline, manifest: &manifest, shard, resume, jobs: None };
        let mut document = batch.run(&request.out, asked)?.document();
        if let Value::Object(map) = &mut document {
            map.insert("shard".into(), json!(shard.index));
            map.insert("shards".into(), json!(shard.count));
        }
        Ok(document)
    }
}

/// The next request; `None` at the end of the input.
fn next(
    receiver: &Receiver<Request>,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Option<Request>, AgentError> {
    loop {
        if is_stopped() {
            return Err(AgentError::Cancelled { stage: Stage::Load });
        }
        match receiver.recv_timeout(PATIENCE) {
            Ok(request) => return Ok(Some(request)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// What follows the id in a reply.
fn answer(result: Result<Value, AgentError>) -> serde_json::Map<String, Value> {
    let document = match result {
        Ok(document) => document,
        Err(AgentError::Cancelled { .. }) => json!({ "status": "cancelled" }),
        Err(error) => {
            let mut document = json!({
                "status": "failed",
                "error": error.line(),
                "class": error.class().name(),
                "hint": error.hints().first(),
            });
            if let (AgentError::Manifest { faults, .. }, Value::Object(map)) =
                (&error, &mut document)
            {
                map.insert("faults".into(), json!(faults));
            }
            document
        }
    };
    match document {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
}
