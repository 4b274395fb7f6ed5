//! `EditOutcome`: the picture and everything about how it came to be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use any2pix_encoders::metadata::Metadata;
use any2pix_nn::ops::{self, Level, Precision};
use image::DynamicImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::AgentError;
use crate::output::{self, Account, Encoding};
use crate::pipeline::LlmFormat;
use crate::progress::Stage;
use crate::public_names::public_names;
use crate::request::{EditRequest, Instruction, LAST, Reference};
use crate::run::Run;
use crate::settings::EditSettings;
use crate::storage;
use crate::store::ModelStore;

/// A rectangle in pixels of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// One object of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectReport {
    /// Its name, as the planner says it.
    pub name: String,
    /// `add` or `remove`; `change` is a place where a model without a plan changed something.
    pub role: String,
    /// The input that shows or sounds it, if one does.
    pub reference: Option<String>,
    /// The gallery's picture that was followed, if one was.
    pub gallery: Option<String>,
    /// Cosine of the object's embedding with what was retrieved.
    pub similarity: Option<f32>,
    /// Where in the source it is added or removed.
    pub region: Option<Rect>,
    /// What was cut out and painted.
    pub window: Option<Rect>,
}

/// What the planner understood and where it led.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// The input that is edited, if one is.
    pub base: Option<String>,
    /// add, remove, replace, …
    pub operation: String,
    /// The caption of the picture to come.
    pub caption: String,
    /// Objects to add and to remove.
    pub subjects: Vec<SubjectReport>,
    /// The word of place, if the plan has one.
    pub place: Option<String>,
    /// The look, if the plan has one.
    pub look: Option<String>,
    /// What the planner said, control tokens and all.
    pub text: String,
    /// What it would have said if its answer were not bound to be a plan, when that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unbound_text: Option<String>,
}

/// How long a stage took, and the memory of the process after it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// Seconds of wall time.
    pub seconds: f64,
    /// Resident memory when the stage ended, in bytes, where the system tells it.
    pub resident_memory: Option<u64>,
    /// Largest resident memory so far, in bytes.
    pub peak_memory: Option<u64>,
}

/// An input as the outcome remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// What stands between the brackets.
    pub name: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// The name of its file, where that is another: `[image1]` is no file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The picture and everything about how it came to be.
#[derive(Clone, Debug)]
pub struct EditOutcome {
    /// The edited picture, at the source's size.
    pub image: DynamicImage,
    /// The model's name.
    pub model: String,
    /// The instruction, as it parses.
    pub instruction: String,
    /// The inputs.
    pub references: Vec<Provenance>,
    /// What the planner understood.
    pub plan: PlanReport,
    /// The embedding of the picture to come that the painter was given, by models that have one.
    pub aim: Option<Vec<f32>>,
    /// The settings that were in force.
    pub settings: EditSettings,
    /// How the language model's layers were kept, where that was asked for.
    pub llm_quant: Option<String>,
    /// SHA-256 of every weights file that was used.
    pub weights: BTreeMap<String, String>,
    /// Wall time of each stage.
    pub timings: Vec<StageTime>,
    /// Largest resident memory so far, in bytes, where the system tells it.
    pub peak_memory: Option<u64>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What the base's file says beside its pixels.
    pub source: Metadata,
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// [`sha256`] of a file, read piece by piece.
pub fn sha256_of_file(file: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut std::fs::File::open(file)?, &mut hasher)?;
    Ok(hexadecimal(hasher))
}

pub(crate) fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Largest resident memory of this process so far, where the system tells it.
pub fn peak_memory() -> Option<u64> {
    memory("VmHWM:")
}

/// Resident memory of this process now, where the system tells it.
pub fn resident_memory() -> Option<u64> {
    memory("VmRSS:")
}

fn memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// What weights are kept in, and products computed in where the machine can.
pub fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Bf16 => "bf16",
        Precision::F32 => "f32",
    }
}

/// What the record calls the instructions that computed: sums differ from set to set.
pub(crate) fn level_name(level: Level) -> String {
    format!("{level:?}").to_lowercase()
}

/// The inputs of `request` as the outcome remembers them.
pub fn provenance(request: &EditRequest) -> Vec<Provenance> {
    let file_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let of = |reference: &Reference| Provenance {
        name: reference.name.clone(),
        sha256: sha256(&reference.bytes),
        // The result before is called as its conversation or its batch calls its files.
        file: reference
            .path
            .as_deref()
            .filter(|_| reference.name != LAST)
            .and_then(file_name)
            .filter(|name| file_name(Path::new(&reference.name)).as_ref() != Some(name)),
    };
    request.references.iter().map(of).collect()
}

/// What the file of the picture that `plan` edits says beside its pixels.
fn source(plan: &PlanReport, request: &EditRequest) -> Metadata {
    let base = plan.base.as_ref();
    let base = base.and_then(|base| request.references.iter().find(|r| r.name == *base));
    base.map(|base| Metadata::read(&base.bytes)).unwrap_or_default()
}

impl EditOutcome {
    /// What an edit that is done comes to.
    pub(crate) fn new(
        image: DynamicImage,
        request: &EditRequest,
        plan: PlanReport,
        store: &ModelStore,
        run: Run,
    ) -> Self {
        Self {
            image,
            model: store.name().to_string(),
            instruction: request.instruction.to_string(),
            references: provenance(request),
            source: source(&plan, request),
            plan,
            aim: None,
            settings: request.settings.clone(),
            llm_quant: None,
            weights: store.hashes(),
            timings: run.timings,
            peak_memory: peak_memory(),
            warnings: run.warnings,
        }
    }

    /// Says how the language model was kept.
    pub(crate) fn with_llm(mut self, format: LlmFormat) -> Self {
        self.llm_quant = format.name().map(str::to_string);
        self
    }

    /// What decides the picture, and nothing that differs from run to run.
    fn deterministic(&self) -> Value {
        let mut document = json!({
            "any2pix": env!("CARGO_PKG_VERSION"),
            "model": self.model,
            "instruction": self.instruction,
            "references": self.references,
            "plan": self.plan,
            "settings": self.settings,
            "precision": precision_name(ops::precision()),
            "level": level_name(Level::current()),
            "weights": self.weights,
        });
        if let Some(llm_quant) = &self.llm_quant {
            document["llm_quant"] = json!(llm_quant);
        }
        document
    }

    /// What a file remembers, from which the edit can be repeated: no paths of this machine are
    /// in it.
    fn record(&self, encoding: Encoding) -> Result<Value, AgentError> {
        let mut instruction = Instruction::parse(&self.instruction)?;
        let public = public_names(&instruction.names);
        let rename = |name: &str| {
            let at = instruction.names.iter().position(|known| known == name);
            at.map_or_else(|| name.to_string(), |at| public[at].clone())
        };
        let (mut references, mut plan) = (self.references.clone(), self.plan.clone());
        for reference in &mut references {
            reference.name = rename(&reference.name);
        }
        plan.base = plan.base.as_deref().map(rename);
        for subject in &mut plan.subjects {
            subject.reference = subject.reference.as_deref().map(rename);
        }
        let mut document = self.deterministic();
        document["references"] = json!(references);
        document["plan"] = json!(plan);
        document["encoding"] = json!(encoding);
        instruction.names = public;
        document["instruction"] = json!(instruction.to_string());
        Ok(document)
    }

    /// Everything, for `--json`; `output` is where the picture was written.
    pub fn document(&self, output: Option<&Path>) -> Value {
        let mut document = self.deterministic();
        if let Value::Object(map) = &mut document {
            map.insert("status".into(), json!("done"));
            map.insert("seed".into(), json!(self.settings.seed));
            map.insert("width".into(), json!(self.image.width()));
            map.insert("height".into(), json!(self.image.height()));
            map.insert("timings".into(), json!(self.timings));
            map.insert("peak_memory_bytes".into(), json!(self.peak_memory));
            map.insert("warnings".into(), json!(self.warnings));
            map.insert("output".into(), json!(output.map(|p| p.to_string_lossy())));
        }
        document
    }

    /// The line format that image viewers and web interfaces read.
    fn parameters(&self, instruction: &str) -> String {
        let (s, image) = (&self.settings, &self.image);
        let fields = [
            ("Steps", s.steps.to_string()),
            ("Sampler", s.sampler.class_name().trim_end_matches("Scheduler").to_string()),
            ("CFG scale", s.guidance.to_string()),
            ("Seed", s.seed.to_string()),
            ("Size", format!("{}x{}", image.width(), image.height())),
            ("Model", self.model.clone()),
            ("Version", format!("any2pix {}", env!("CARGO_PKG_VERSION"))),
        ];
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        format!("{instruction}\n{}", fields.join(", "))
    }

    /// The file's bytes: the same for the same request, weights and program.
    pub fn encode(&self, encoding: Encoding) -> Result<Vec<u8>, AgentError> {
        let record = self.record(encoding.settled())?;
        let instruction = record["instruction"].as_str().unwrap_or_default();
        let account = Account {
            record: &record.to_string(),
            parameters: &self.parameters(instruction),
            source: &self.source,
            is_edit: self.plan.base.is_some(),
        };
        output::encode(&self.image, encoding, &account)
    }

    /// [`Self::encode`] as PNG.
    pub fn png(&self) -> Result<Vec<u8>, AgentError> {
        self.encode(Encoding::default())
    }

    /// Writes the picture to `output`, which must not be one of `inputs`, in the format that its
    /// name asks for.
    pub fn save(&self, output: &Path, inputs: &[PathBuf]) -> Result<(), AgentError> {
        storage::refuse_inputs(output, inputs)?;
        storage::write_atomically(output, &self.encode(Encoding::of_path(output))?)
    }
}
