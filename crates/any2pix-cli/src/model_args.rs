//! The flags that say which model edits and how; every command that edits takes them.

use std::path::PathBuf;

use any2pix_agent::store::PLAYROOM;
use any2pix_agent::{EditSettings, LlmFormat, LoraFile, OpenOptions, Pipeline, Recording};

use crate::diagnostics::{Exit, Failure};
use crate::settings_args::SettingsArgs;

/// Which model edits, and how.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// A model: `playroom` or `playroom-ip2p`, which this program carries, or a model's folder.
    /// Unless given, `playroom`.
    #[arg(long, env = "ANY2PIX_MODEL")]
    model: Option<String>,
    /// Further galleries of reference pictures (see `any2pix gallery`).
    #[arg(long = "gallery", value_name = "DIR", env = "ANY2PIX_GALLERY")]
    galleries: Vec<PathBuf>,
    /// A LoRA to merge into a full-size model, and how much of it.
    #[arg(long = "lora", value_name = "FILE[:SCALE]", value_parser = lora)]
    loras: Vec<LoraFile>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A file, and a number after the last colon if there is one.
fn lora(text: &str) -> Result<LoraFile, String> {
    let scaled = text.rsplit_once(':').and_then(|(path, n)| Some((path, n.parse::<f64>().ok()?)));
    match scaled {
        Some((_, scale)) if !scale.is_finite() => Err("the scale must be finite".to_string()),
        Some((path, scale)) => Ok(LoraFile { path: path.into(), scale }),
        None => Ok(LoraFile { path: text.into(), scale: 1.0 }),
    }
}

impl ModelArgs {
    /// Opens the model; no weights are read yet.
    pub(crate) fn open(&self) -> Result<Box<dyn Pipeline>, Failure> {
        Ok(any2pix_agent::open(self.name(), self.options())?)
    }

    /// The model's name, or its folder.
    pub(crate) fn name(&self) -> &str {
        self.model.as_deref().unwrap_or(PLAYROOM)
    }

    /// Opens the model of an edit that is repeated, with the weights that it had.
    pub(crate) fn open_again(&self, edit: &Recording) -> Result<Box<dyn Pipeline>, Failure> {
        if self.model.is_none() && edit.model() != PLAYROOM {
            let message = format!("the edit was made with the model `{}`", edit.model());
            return Err(Failure::new(Exit::Model, message).hint("say where it is: --model DIR"));
        }
        let given = OpenOptions { llm_format: LlmFormat::default(), ..self.options() };
        Ok(any2pix_agent::open(self.name(), edit.options(given)?)?)
    }

    /// Flags that are given, or set in the environment, and that change a result.
    pub(crate) fn given(&self) -> Vec<String> {
        self.settings.given()
    }

    /// The settings that flags, environment, files and the model result in.
    pub(crate) fn settings(&self, pipeline: &dyn Pipeline) -> Result<EditSettings, Failure> {
        self.settings.resolve(pipeline.settings())
    }

    fn options(&self) -> OpenOptions {
        OpenOptions {
            galleries: self.galleries.clone(),
            llm_format: self.settings.llm_format(),
            loras: self.loras.clone(),
            max_memory: self.settings.max_memory(),
            expected_weights: None,
        }
    }
}
