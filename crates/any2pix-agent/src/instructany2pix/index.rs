//! `Index`: where the parts of a full-size model lie, and how they are asked.

use std::path::Path;

use any2pix_diffusion::prior_transformer::RefineConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::components::PriorUse;
use crate::error::AgentError;
use crate::full_size::lay;
use crate::settings::SettingsPatch;
use crate::store::ModelStore;

/// What `_class_name` in `model_index.json` says.
const CLASS_NAME: &str = "InstructAny2PixPipeline";
const INDEX: &str = "model_index.json";
/// The published layout and settings, over which a model's own index is laid.
const PUBLISHED: &str = include_str!("../../../../models/instructany2pix/model_index.json");
const PUBLISHED_PRIOR: &str = include_str!("../../../../models/instructany2pix/prior/config.json");
const PUBLISHED_PRIOR_TEXT: &str =
    include_str!("../../../../models/instructany2pix/prior_text_encoder/config.json");

/// A file or a folder for each part, below the model's folder or absolute.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Places {
    /// The encoder of pictures and sounds.
    pub(super) imagebind: String,
    /// The language model, with its tokenizer.
    pub(super) llm: String,
    /// The prior.
    pub(super) prior: String,
    /// The IP-Adapter.
    pub(super) ip_adapter: String,
    /// SDXL, as diffusers lays it out.
    pub(super) base: String,
    /// SDXL's refiner, as diffusers lays it out.
    pub(super) refiner: String,
}

/// How the refiner is asked.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefinerUse {
    /// Steps of the whole schedule, of which the settings' share is taken.
    pub(super) steps: usize,
    /// Classifier-free guidance.
    pub(super) guidance: f64,
}

/// `model_index.json` of a full-size model; what it leaves out is the published layout's.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Index {
    pub(super) components: Places,
    pub(super) prior: PriorUse,
    pub(super) refiner: RefinerUse,
    pub(super) settings: SettingsPatch,
}

impl Index {
    /// The index of a model, or the published one.
    pub(super) fn open(store: &ModelStore) -> Result<Self, AgentError> {
        let misread = |e: serde_json::Error| store.bad(INDEX, &e);
        let mut index: Value = serde_json::from_str(PUBLISHED).map_err(misread)?;
        if store.find(INDEX)?.is_some() {
            lay(&mut index, store.json(INDEX)?);
        }
        serde_json::from_value(index).map_err(misread)
    }

    /// How the prior is asked.
    pub(super) fn refine(&self) -> RefineConfig {
        self.prior.into()
    }
}

/// True when the model in `store` is a full-size InstructAny2Pix: its index says so, or it has
/// no index and lies there as it was published.
pub fn is_full_size(store: &ModelStore) -> Result<bool, AgentError> {
    if store.find(INDEX)?.is_some() {
        let index: Value = store.json(INDEX)?;
        return Ok(index["_class_name"].as_str().is_some_and(|name| name == CLASS_NAME));
    }
    let published = Index::open(store)?.components;
    let own = [published.imagebind, published.llm, published.prior, published.ip_adapter];
    Ok(own.iter().any(|place| store.has(place)))
}

/// The config of the weights at `path`: a document of their own name, or the `config.json` of
/// the folder that a part has to itself; `None` when there is none.
pub(super) fn config(
    store: &ModelStore,
    path: &str,
    place: &str,
) -> Result<Option<Value>, AgentError> {
    let path = Path::new(path);
    let beside = path.with_extension("json").to_string_lossy().into_owned();
    let folder = match store.has_file(place) {
        true => Path::new(place).parent().filter(|folder| folder.iter().next().is_some()),
        false => Some(Path::new(place)),
    };
    let of_folder = folder.map(|folder| folder.join("config.json").to_string_lossy().into_owned());
    for candidate in [Some(beside), of_folder].into_iter().flatten() {
        if store.has_file(&candidate) {
            return store.json(&candidate).map(Some);
        }
    }
    Ok(None)
}

/// The config of a prior: what is found, over what the published one is.
pub(super) fn prior_config(store: &ModelStore, found: Option<Value>) -> Result<Value, AgentError> {
    let published = |text| serde_json::from_str(text).map_err(|e| store.bad("prior", &e));
    let mut config: Value = published(PUBLISHED_PRIOR)?;
    config["clip_text_config"] = published(PUBLISHED_PRIOR_TEXT)?;
    if let Some(found) = found {
        lay(&mut config, found);
    }
    Ok(config)
}
