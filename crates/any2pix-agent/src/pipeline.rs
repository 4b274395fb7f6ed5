//! `Pipeline`: the one way to an edit; command line, batch and evaluation call nothing else.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use any2pix_nn::ops::Quantisation;
use serde_json::Value;

use crate::edit::Playroom;
use crate::error::AgentError;
use crate::instruct_pix2pix::{self, InstructPix2Pix};
use crate::instructany2pix::{InstructAny2Pix, is_full_size};
use crate::outcome::EditOutcome;
use crate::progress::Progress;
use crate::request::EditRequest;
use crate::settings::SettingsPatch;
use crate::store::ModelStore;

/// A model that edits pictures.
pub trait Pipeline: Send + Sync {
    /// Does the edit that `request` asks for. The same request gives the same picture, on any
    /// number of threads.
    fn edit(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError>;

    /// Settings that this model has instead of the program's defaults.
    fn settings(&self) -> &SettingsPatch;

    /// What this model is, to the last weight: two pipelines of one identity make the same edits.
    fn identity(&self) -> Result<Value, AgentError>;

    /// Whether its parts stay in memory between edits, so that several edits at a time share them.
    fn is_resident(&self) -> bool {
        false
    }
}

/// An edit of which a defect of ours makes an error, so that the next one can be done.
pub(crate) fn edit_guarded(
    pipeline: &dyn Pipeline,
    request: &EditRequest,
    progress: &mut dyn Progress,
) -> Result<EditOutcome, AgentError> {
    catch_unwind(AssertUnwindSafe(|| pipeline.edit(request, progress)))
        .unwrap_or_else(|_| Err(AgentError::Panicked))
}

/// A change of weights, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFile {
    /// The file.
    pub path: PathBuf,
    /// 1 is the change as it was trained.
    pub scale: f64,
}

impl LoraFile {
    /// What the names of LoRAs begin with in records.
    pub(crate) const RECORDED: &str = "lora/";

    /// What records call it, among the weights.
    pub(crate) fn recorded_name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{}{name} × {}", Self::RECORDED, self.scale)
    }
}

/// How a language model keeps its linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LlmFormat {
    /// In the precision in force; large ones in 8 bits where that would be 32.
    #[default]
    Fitting,
    /// In the precision in force.
    Whole,
    /// In fewer bits.
    Quantised(Quantisation),
}

impl LlmFormat {
    /// What a record calls it; none for the default.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Fitting => None,
            Self::Whole => Some("none"),
            Self::Quantised(Quantisation::Q8_0) => Some("q8_0"),
            Self::Quantised(Quantisation::Q4_0) => Some("q4_0"),
            Self::Quantised(Quantisation::Q4K) => Some("q4_k"),
            Self::Quantised(Quantisation::Q6K) => Some("q6_k"),
        }
    }

    /// What a record means by `name`.
    pub fn of_name(name: Option<&str>) -> Option<Self> {
        let quantised =
            [Quantisation::Q8_0, Quantisation::Q4_0, Quantisation::Q4K, Quantisation::Q6K];
        let all = quantised.into_iter().map(Self::Quantised);
        all.chain([Self::Fitting, Self::Whole]).find(|format| format.name() == name)
    }
}

/// What is decided when a model is opened, and not by each edit.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Further galleries of reference pictures.
    pub galleries: Vec<PathBuf>,
    /// How the language model keeps its linear layers.
    pub llm_format: LlmFormat,
    /// Changes of UNet and text encoders.
    pub loras: Vec<LoraFile>,
    /// Bytes that the program may have in memory once a part of a full-size model is loaded.
    pub max_memory: Option<u64>,
    /// SHA-256 that weights must have, by path; others are refused.
    pub expected_weights: Option<BTreeMap<String, String>>,
}

/// Opens a model by name or folder; no weights are read yet. What it is decides what edits.
pub fn open(model: &str, options: OpenOptions) -> Result<Box<dyn Pipeline>, AgentError> {
    let mut store = ModelStore::open(model)?;
    store.expect(options.expected_weights.clone());
    let pix2pix = instruct_pix2pix::layout(&store)?;
    if pix2pix.is_none() && is_full_size(&store)? {
        return Ok(Box::new(InstructAny2Pix::open(store, options)?));
    }
    let OpenOptions { galleries, llm_format, loras, max_memory, .. } = options;
    if let Some(lora) = loras.first() {
        let (path, reason) = (lora.path.clone(), "this model takes no LoRA".to_string());
        return Err(AgentError::Unusable { path, reason });
    }
    if let Some(layout) = pix2pix {
        return Ok(Box::new(InstructPix2Pix::open(store, layout, max_memory)?));
    }
    let mut playroom = Playroom::from_store(store, &galleries)?;
    playroom.quantise_llm(match llm_format {
        LlmFormat::Quantised(format) => Some(format),
        LlmFormat::Fitting | LlmFormat::Whole => None,
    });
    Ok(Box::new(playroom))
}
