//! `AgentError`: what can stop an edit, what to try next, and which exit code it deserves.

use std::path::PathBuf;

use any2pix_nn::{CheckpointError, Hint};
use thiserror::Error;

use crate::batch::Fault;
use crate::progress::Stage;

/// Any error of another crate that carries hints.
pub type BoxedHint = Box<dyn Hint + Send + Sync>;

/// What a caller can do about an error; the command line maps it to an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The input is refused; nothing was done.
    Refused,
    /// A model cannot be loaded.
    Model,
    /// No space, read-only, input/output.
    Storage,
    /// A defect of ours.
    Internal,
    /// Someone asked to stop.
    Cancelled,
    /// Somebody else is at it; try again.
    Busy,
}

impl ErrorClass {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Model => "model",
            Self::Storage => "storage",
            Self::Internal => "internal",
            Self::Cancelled => "cancelled",
            Self::Busy => "busy",
        }
    }
}

/// What can stop an edit.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The instruction does not follow the grammar.
    #[error("instruction, column {column}: {reason}")]
    Syntax {
        /// Position in characters, from 1.
        column: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// There is nothing to do.
    #[error("the instruction is empty: it has no words")]
    EmptyInstruction,
    /// More of something than is allowed.
    #[error("{what}: {count} is over the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// `[image2]` without a second `--image`.
    #[error("[{name}]: nothing is bound to this name")]
    Unbound {
        /// The name between the brackets.
        name: String,
    },
    /// A file cannot be used as an input.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A picture or a sound cannot be decoded.
    #[error("{error}")]
    Media {
        /// What the decoder says.
        error: BoxedHint,
    },
    /// A setting is out of its range.
    #[error("{name} {value}: {reason}")]
    Setting {
        /// The flag's name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        reason: String,
    },
    /// A setting that does not exist.
    #[error("`{key}` is no setting")]
    UnknownSetting {
        /// What was given.
        key: String,
        /// What there is.
        keys: Vec<String>,
    },
    /// A setting's value is of the wrong kind.
    #[error("{key} {value}: {reason}")]
    SettingValue {
        /// The setting.
        key: String,
        /// What was given.
        value: String,
        /// Why it cannot be taken.
        reason: String,
    },
    /// A conversation has no picture yet.
    #[error("there is no result yet")]
    NothingYet,
    /// A reference that a model cannot follow.
    #[error("[{name}]: besides words, this model takes one picture alone: the one that it edits")]
    WordsOnly {
        /// The name between the brackets.
        name: String,
    },
    /// A model that only edits was given no picture.
    #[error("this model edits a picture, and the instruction names none")]
    NoPicture,
    /// The plan names an object that the model does not know.
    #[error("this model does not know `{name}`; the nearest it knows: {}", nearest.join(", "))]
    UnknownObject {
        /// What was asked for.
        name: String,
        /// Names of known objects, nearest first.
        nearest: Vec<String>,
    },
    /// The planner gives no plan.
    #[error("{error}")]
    Planning {
        /// What it says.
        error: BoxedHint,
    },
    /// The planner's answer cannot be carried out.
    #[error("no edit follows from the plan `{text}`: {reason}")]
    NoPlan {
        /// What the planner said.
        text: String,
        /// Why it cannot be carried out.
        reason: String,
    },
    /// The output would replace one of the inputs.
    #[error("{}: is also an input of this edit", path.display())]
    OutputIsInput {
        /// The file.
        path: PathBuf,
    },
    /// A file tells nothing about an edit that could be repeated.
    #[error("{}: {reason}", path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// An edit cannot be repeated with these galleries and LoRAs.
    #[error("{}: {reason}", path.display())]
    OtherOptions {
        /// The file of the edit.
        path: PathBuf,
        /// What is missing or too much.
        reason: String,
    },
    /// An input of the edit that is repeated is not to be found.
    #[error("[{name}]: {reason}")]
    OtherInput {
        /// The name between the brackets.
        name: String,
        /// What was found instead, and what is needed.
        reason: String,
    },
    /// The weights are not those of the edit that is repeated.
    #[error("{path}: these weights ({}) are not those of the edit ({})", short(found),
        expected.as_deref().map_or("it used none of this name", short))]
    OtherWeights {
        /// The file, in the model's folder.
        path: String,
        /// SHA-256 of the edit's.
        expected: Option<String>,
        /// SHA-256 of what is here.
        found: String,
    },
    /// A format cannot hold the picture.
    #[error("the picture cannot be written as {format}: {reason}")]
    Unencodable {
        /// The format.
        format: &'static str,
        /// Why not.
        reason: String,
    },
    /// A component's weights or configuration cannot be loaded.
    #[error("{component}: {error}")]
    Weights {
        /// The component.
        component: String,
        /// What is wrong.
        error: BoxedHint,
    },
    /// A model folder lacks something, or holds something unusable.
    #[error("model {model}: {reason}")]
    BadModel {
        /// The model's name or folder.
        model: String,
        /// What is wrong.
        reason: String,
    },
    /// A part of a full-size model is not there.
    #[error("model {model}: {component}: {path} is missing")]
    MissingComponent {
        /// The model's name or folder.
        model: String,
        /// The part, as `model_index.json` calls it.
        component: &'static str,
        /// Where it was looked for.
        path: String,
    },
    /// A part's weights would take more memory than the user allows.
    #[error("{component}: needs {needed} MB, --max-memory allows {most} MB")]
    TooLarge {
        /// The part's folder or file.
        component: String,
        /// Memory in use with the part loaded, in MB.
        needed: u64,
        /// What is allowed, in MB.
        most: u64,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A computation failed.
    #[error("{stage}: the computation failed")]
    Compute {
        /// Where.
        stage: Stage,
        /// Why.
        #[source]
        source: candle_core::Error,
    },
    /// Numbers went out of range; the picture would be worthless.
    #[error("{stage}: the result holds numbers that are not finite")]
    NotFinite {
        /// Where.
        stage: Stage,
    },
    /// Rows of a manifest are wrong.
    #[error("{}: {} in the manifest; nothing was started", path.display(), count(faults.len()))]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, in the order of the lines.
        faults: Vec<Fault>,
    },
    /// Another process works in a folder.
    #[error("{}: another process{} works on this shard", path.display(), of(*pid))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process, where it said so.
        pid: Option<u32>,
    },
    /// A folder holds results that were made otherwise.
    #[error("{}: holds results of {what}", path.display())]
    OtherBatch {
        /// The folder or the file.
        path: PathBuf,
        /// What they are of.
        what: &'static str,
    },
    /// A shard was begun before.
    #[error("{}: the batch was begun before", path.display())]
    Unfinished {
        /// Its journal.
        path: PathBuf,
    },
    /// A folder holds no batch.
    #[error("{}: holds no batch", path.display())]
    NoBatch {
        /// The folder.
        path: PathBuf,
    },
    /// A journal was changed by something that is not a batch.
    #[error("{}:{line}: the line is damaged", path.display())]
    DamagedJournal {
        /// The journal.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A line that asks for nothing that a worker does.
    #[error("the request: {reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// An edit met a defect of ours.
    #[error("an internal error ended the edit")]
    Panicked,
    /// Someone asked to stop.
    #[error("stopped before {stage}")]
    Cancelled {
        /// The stage that was not started.
        stage: Stage,
    },
}

fn count(faults: usize) -> String {
    if faults == 1 { "1 fault".to_string() } else { format!("{faults} faults") }
}

/// Whether a file cannot be read for a reason that is not the file's own.
fn is_of_storage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{StaleNetworkFileHandle, StorageFull, TimedOut};
    // Input/output error, too many open files in the system and in the process.
    let numbers = cfg!(unix) && matches!(error.raw_os_error(), Some(5 | 23 | 24));
    numbers || matches!(error.kind(), StaleNetworkFileHandle | StorageFull | TimedOut)
}

fn of(pid: Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(" ({pid})"))
}

/// The start of a hash: enough to tell two apart.
pub(crate) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

impl AgentError {
    /// Wraps an error of a computation.
    pub fn compute(stage: Stage) -> impl Fn(candle_core::Error) -> Self {
        move |source| Self::Compute { stage, source }
    }

    /// Wraps an error about the weights of `component`.
    pub fn weights(component: &str) -> impl Fn(CheckpointError) -> Self + '_ {
        move |error| Self::Weights { component: component.to_string(), error: Box::new(error) }
    }

    /// What a caller can do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Weights { .. }
            | Self::BadModel { .. }
            | Self::MissingComponent { .. }
            | Self::OtherWeights { .. }
            | Self::TooLarge { .. } => ErrorClass::Model,
            Self::Unwritable { .. } | Self::DamagedJournal { .. } => ErrorClass::Storage,
            Self::Unreadable { source, .. } if is_of_storage(source) => ErrorClass::Storage,
            Self::Compute { .. } | Self::NotFinite { .. } | Self::Panicked => ErrorClass::Internal,
            Self::Locked { .. } => ErrorClass::Busy,
            Self::Cancelled { .. } => ErrorClass::Cancelled,
            _ => ErrorClass::Refused,
        }
    }

    /// What kind of error it is, in a few words that do not depend on the edit.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "instruction that does not parse",
            Self::EmptyInstruction => "empty instruction",
            Self::TooMany { .. } => "limit exceeded",
            Self::Unbound { .. } => "unbound reference",
            Self::Unusable { .. } | Self::Unreadable { .. } => "unreadable file",
            Self::Media { .. } => "file that is no picture or sound",
            Self::Setting { .. } | Self::SettingValue { .. } | Self::UnknownSetting { .. } => {
                "setting out of range"
            }
            Self::WordsOnly { .. } => "reference that the model cannot follow",
            Self::NoPicture | Self::NothingYet => "no picture to edit",
            Self::UnknownObject { .. } => "unknown object",
            Self::Planning { .. } => "instruction that the planner refuses",
            Self::NoPlan { .. } => "no edit follows from the plan",
            Self::OutputIsInput { .. } => "output is an input",
            Self::NoRecord { .. } | Self::OtherOptions { .. } | Self::OtherInput { .. } => {
                "edit that cannot be repeated"
            }
            Self::Unencodable { .. } => "picture that the format cannot hold",
            Self::Weights { .. }
            | Self::BadModel { .. }
            | Self::MissingComponent { .. }
            | Self::OtherWeights { .. }
            | Self::TooLarge { .. } => "model that cannot be loaded",
            Self::Unwritable { .. } | Self::DamagedJournal { .. } => "storage",
            Self::Compute { .. } | Self::Panicked => "internal error",
            Self::NotFinite { .. } => "numbers that are not finite",
            Self::Manifest { .. } => "manifest with faults",
            Self::Locked { .. } => "folder in use",
            Self::OtherBatch { .. } | Self::Unfinished { .. } | Self::NoBatch { .. } => {
                "folder of something else"
            }
            Self::BadRequest { .. } => "request that does not parse",
            Self::Cancelled { .. } => "stopped",
        }
    }

    /// The error and its causes on one line, without what a terminal or a log would obey.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            source = cause.source();
        }
        // What candle appends is a backtrace.
        let first = line.lines().next().unwrap_or_default();
        first.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }
}

impl Hint for AgentError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Media { error } | Self::Planning { error } | Self::Weights { error, .. } => {
                return error.hints();
            }
            Self::Syntax { .. } => "a reference is `[path]`; write `\\[` for a bracket in the text",
            Self::EmptyInstruction => "say what to do, as in `add [dog.ogg] to [park.jpg]`",
            Self::TooMany { .. } => "split the edit into several",
            Self::Unbound { name } => {
                let flag = if name.starts_with("audio") { "audio" } else { "image" };
                return vec![format!("bind it with --{flag} FILE, or write the path as `[path]`")];
            }
            Self::Unreadable { .. } => "is the path right, relative to where you are?",
            Self::Unusable { .. } => "give a regular picture or sound file",
            Self::UnknownObject { .. } => {
                return vec![
                    "give a picture of it: `add [picture.png] to …`, or put one into a gallery: \
                     `any2pix gallery add DIR`"
                        .to_string(),
                    "--force goes on with the nearest".to_string(),
                ];
            }
            Self::WordsOnly { name } => {
                return vec![
                    format!("say in words what [{name}] is"),
                    "the embedded model follows references: leave --model out".to_string(),
                ];
            }
            Self::UnknownSetting { keys, .. } => {
                return vec![format!("one of {}", keys.join(", "))];
            }
            Self::NothingYet => "name a picture, as in `add a dog to [photo.jpg]`",
            Self::NoPicture => "name it, as in `make it snow in [photo.jpg]`",
            Self::NoPlan { .. } => "say it in other words, for instance `add a dog to [photo.jpg]`",
            Self::NoRecord { .. } => {
                "pictures that `any2pix edit` wrote can be repeated, unless another program has \
                 saved them since"
            }
            Self::OtherOptions { .. } => "give the galleries and LoRAs of the edit, and no others",
            Self::OtherInput { .. } => "give the very file with --image FILE or --audio FILE",
            Self::OtherWeights { .. } => {
                "the edit was made with another version of the model: give that one with --model DIR"
            }
            Self::Unencodable { .. } => "write it as PNG: --format png, or -o NAME.png",
            Self::OutputIsInput { .. } => "write to another file; inputs are never changed",
            Self::BadModel { .. } => {
                "a model is a folder with model_index.json and one folder a component"
            }
            Self::MissingComponent { component, .. } => {
                let place = format!("`{component}` under `components`");
                return vec![
                    format!("fetch it, or say in model_index.json where it lies: {place}"),
                    "docs/instructany2pix.md lists every file and where it is published".into(),
                ];
            }
            Self::TooLarge { .. } => {
                return vec![
                    "--precision bf16 halves the weights; --llm-quant q4_0 is for the language model"
                        .into(),
                    "or allow more with --max-memory".into(),
                ];
            }
            Self::Unwritable { .. } => "is there space, and may you write there?",
            Self::Manifest { .. } => "mend these lines; the whole manifest is checked first",
            Self::Locked { .. } => "wait until it is done, or write to another folder",
            Self::OtherBatch { .. } => "write to another folder; results are never mixed",
            Self::Unfinished { .. } => "--resume goes on where it stopped",
            Self::BadRequest { .. } => "send `{\"id\", \"instruction\", \"output\"}` on one line",
            Self::NoBatch { .. } => "give the folder that `any2pix batch --out` wrote",
            Self::DamagedJournal { .. } => "restore the file, or begin again in another folder",
            Self::NotFinite { .. } => "lower --guidance, or use another --seed",
            Self::Compute { .. } | Self::Panicked => {
                "this is a defect of any2pix or of the model; please report it"
            }
            Self::Setting { .. } | Self::SettingValue { .. } | Self::Cancelled { .. } => {
                return Vec::new();
            }
        };
        vec![hint.to_string()]
    }
}
