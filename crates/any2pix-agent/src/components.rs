//! `Components`: the parts of a model, each loaded when it is first needed and shared from then.

use std::sync::{Arc, Mutex, PoisonError};

use any2pix_diffusion::ip_adapter::AdaptedUNet;
use any2pix_diffusion::prior_transformer::RefineConfig;
use any2pix_diffusion::{
    Autoencoder, AutoencoderKL, AutoencoderKLConfig, ImageProjModelConfig, PatchCodec,
    PatchCodecConfig, PriorTransformer, PriorTransformerConfig, UNet2DConditionModelConfig,
};
use any2pix_encoders::EncoderError;
use any2pix_encoders::imagebind::{self, ImageBindConfig, ImageBindModel};
use any2pix_encoders::locator::{Locator, LocatorConfig};
use any2pix_llm::Planner;
use any2pix_nn::ops::Quantisation;
use any2pix_nn::{Checkpoint, Hint};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use crate::error::AgentError;
use crate::knowledge::Concept;
use crate::painter::Painter;
use crate::progress::Stage;
use crate::settings::{Decoder, EditSettings, SettingsPatch};
use crate::store::ModelStore;

/// `model_index.json`: what a model is as a whole.
#[derive(Clone, Debug, Deserialize)]
pub struct ModelIndex {
    /// The pipeline's class.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Settings that differ from the program's defaults.
    #[serde(default)]
    pub settings: SettingsPatch,
    /// Side of the window that the painter sees.
    #[serde(default = "default_side")]
    pub window_size: u32,
    /// Side of a window over the longer side of what is painted in it.
    #[serde(default = "default_zoom")]
    pub window_zoom: f32,
    /// How the prior is asked.
    #[serde(default)]
    pub prior: PriorUse,
}

/// How the prior is asked; what is left out is the published method's.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorUse {
    /// Aesthetic score to aim for.
    pub score: f64,
    /// Score of the unconditional half.
    pub negative_score: f64,
    /// 1 is no guidance.
    pub guidance_scale: f64,
    /// Norm that the embedding is brought to first.
    pub input_norm: f64,
}

impl Default for PriorUse {
    fn default() -> Self {
        let RefineConfig { score, negative_score, guidance_scale, input_norm } =
            RefineConfig::default();
        Self { score, negative_score, guidance_scale, input_norm }
    }
}

impl From<PriorUse> for RefineConfig {
    fn from(prior: PriorUse) -> Self {
        let PriorUse { score, negative_score, guidance_scale, input_norm } = prior;
        Self { score, negative_score, guidance_scale, input_norm }
    }
}

fn default_side() -> u32 {
    128
}

fn default_zoom() -> f32 {
    1.6
}

/// A part's weights, in its folder.
const WEIGHTS: &str = "model.safetensors";

/// A part that is loaded once.
struct Slot<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Slot<T> {
    fn get(&self, load: impl FnOnce() -> Result<T, AgentError>) -> Result<Arc<T>, AgentError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = &*slot {
            return Ok(part.clone());
        }
        Ok(slot.insert(Arc::new(load()?)).clone())
    }
}

/// Parts that all edits share.
#[derive(Default)]
struct Slots {
    imagebind: Slot<ImageBindModel>,
    planner: Slot<Planner>,
    prior: Slot<PriorTransformer>,
    locator: Slot<Locator>,
    source_painter: Slot<Painter>,
    inversion_painter: Slot<Painter>,
    concepts: Slot<Vec<Concept>>,
    concept_embeddings: Slot<Vec<Vec<f32>>>,
}

/// The parts of a model.
pub struct Components {
    /// The model's files.
    pub store: ModelStore,
    /// What the model is as a whole.
    pub index: ModelIndex,
    /// Where it computes.
    pub device: Device,
    /// The format in which the language model keeps its linear layers; as they are if none.
    pub llm_quant: Option<Quantisation>,
    slots: Arc<Slots>,
}

impl Components {
    /// Opens a model by name or folder; no weights are read yet.
    pub fn open(model: &str) -> Result<Self, AgentError> {
        Self::from_store(ModelStore::open(model)?)
    }

    /// The parts of the model in `store`.
    pub fn from_store(store: ModelStore) -> Result<Self, AgentError> {
        let index: ModelIndex = store.json("model_index.json")?;
        let slots = Arc::default();
        Ok(Self { store, index, device: Device::Cpu, llm_quant: None, slots })
    }

    /// The same parts for one edit; its store knows which of them that edit uses.
    pub(crate) fn for_one_edit(&self) -> Self {
        Self {
            store: self.store.for_one_edit(),
            index: self.index.clone(),
            device: self.device.clone(),
            llm_quant: self.llm_quant,
            slots: self.slots.clone(),
        }
    }

    /// A part out of its slot, which the weights of `names` are in.
    fn part<T>(
        &self,
        slot: &Slot<T>,
        names: &[&str],
        load: impl FnOnce() -> Result<T, AgentError>,
    ) -> Result<Arc<T>, AgentError> {
        let part = slot.get(load)?;
        names.iter().for_each(|name| self.store.use_again(&format!("{name}/{WEIGHTS}")));
        Ok(part)
    }

    /// Builds a part from its weights, all of which must be used.
    fn build<T, E: Hint + Send + Sync + 'static>(
        &self,
        part: &str,
        ignored: &[&str],
        load: impl FnOnce(VarBuilder<'static>) -> Result<T, E>,
    ) -> Result<T, AgentError> {
        let checkpoint = self.checkpoint(part)?;
        let model = load(checkpoint.builder(DType::F32, &self.device)).map_err(|error| {
            AgentError::Weights { component: part.to_string(), error: Box::new(error) }
        })?;
        checkpoint.finish(ignored).map_err(AgentError::weights(part))?;
        Ok(model)
    }

    fn checkpoint(&self, part: &str) -> Result<Checkpoint, AgentError> {
        self.store.weights(&format!("{part}/{WEIGHTS}"))
    }

    /// The encoder of pictures, sounds and text.
    pub fn imagebind(&self) -> Result<Arc<ImageBindModel>, AgentError> {
        self.part(&self.slots.imagebind, &["imagebind"], || {
            let config: ImageBindConfig = self.store.json("imagebind/config.json")?;
            self.build("imagebind", imagebind::IGNORED, |vb| {
                ImageBindModel::load(vb, &config).map_err(EncoderError::from)
            })
        })
    }

    /// SHA-256 of the encoder's weights.
    pub fn encoder_hash(&self) -> Result<String, AgentError> {
        self.imagebind()?;
        Ok(self.store.hashes().remove(&format!("imagebind/{WEIGHTS}")).unwrap_or_default())
    }

    /// The planner.
    pub fn planner(&self) -> Result<Arc<Planner>, AgentError> {
        self.part(&self.slots.planner, &["llm"], || {
            let config = self.store.read("llm/config.json")?;
            let tokenizer = self.store.read("llm/tokenizer.json")?;
            let weights = self.checkpoint("llm")?;
            let files = (&config[..], &tokenizer[..]);
            Planner::load(files, &weights, self.llm_quant, DType::F32, &self.device).map_err(
                |error| AgentError::Weights { component: "llm".into(), error: Box::new(error) },
            )
        })
    }

    /// What the prior makes of an embedding, unless the settings leave it out.
    ///
    /// # Shapes
    /// `(1, e)` → the same.
    pub(crate) fn refined(
        &self,
        generated: &Tensor,
        settings: &EditSettings,
    ) -> Result<Tensor, AgentError> {
        if !settings.refine {
            return Ok(generated.clone());
        }
        let use_of_prior = self.index.prior.into();
        let refined = self.prior()?.refine(generated, None, &use_of_prior);
        refined.map_err(AgentError::compute(Stage::Refine))
    }

    /// The prior.
    pub fn prior(&self) -> Result<Arc<PriorTransformer>, AgentError> {
        self.part(&self.slots.prior, &["prior"], || {
            let config: PriorTransformerConfig = self.store.json("prior/config.json")?;
            self.build("prior", &[], |vb| PriorTransformer::load(vb, &config))
        })
    }

    /// What finds places.
    pub fn locator(&self) -> Result<Arc<Locator>, AgentError> {
        self.part(&self.slots.locator, &["locator"], || {
            let config: LocatorConfig = self.store.json("locator/config.json")?;
            self.build("locator", &[], |vb| Locator::load(vb, &config).map_err(EncoderError::from))
        })
    }

    /// What paints. The two decoders are two UNets: one has channels for the source.
    pub fn painter(&self, decoder: Decoder) -> Result<Arc<Painter>, AgentError> {
        let (slot, part) = match decoder {
            Decoder::Source => (&self.slots.source_painter, "unet"),
            Decoder::Inversion => (&self.slots.inversion_painter, "unet_inversion"),
        };
        self.part(slot, &[part, "vae"], || self.load_painter(part))
    }

    fn load_painter(&self, part: &str) -> Result<Painter, AgentError> {
        let config: UNet2DConditionModelConfig = self.store.json(&format!("{part}/config.json"))?;
        let adapter: ImageProjModelConfig = self.store.json("ip_adapter/config.json")?;
        let scheduler = self.store.json("scheduler/scheduler_config.json")?;
        let model =
            self.build(part, &[], |vb| AdaptedUNet::load(vb.pp("unet"), vb, &config, &adapter))?;
        Ok(Painter { vae: self.load_vae()?, model, scheduler })
    }

    fn load_vae(&self) -> Result<Box<dyn Autoencoder + Send + Sync>, AgentError> {
        let path = "vae/config.json";
        let config: serde_json::Value = self.store.json(path)?;
        let class = config["_class_name"].as_str().unwrap_or("AutoencoderKL").to_string();
        let misread = |e: serde_json::Error| self.store.bad(path, &e);
        Ok(match class.as_str() {
            "PatchCodec" => {
                let config: PatchCodecConfig = serde_json::from_value(config).map_err(misread)?;
                Box::new(self.build("vae", &[], |vb| PatchCodec::load(vb, &config))?)
            }
            "AutoencoderKL" => {
                let config: AutoencoderKLConfig =
                    serde_json::from_value(config).map_err(misread)?;
                Box::new(self.build("vae", &[], |vb| AutoencoderKL::load(vb, &config))?)
            }
            other => return Err(self.store.bad(path, &format!("no class `{other}`"))),
        })
    }

    /// What the model was trained on, by name; empty when the model does not say.
    pub fn concepts(&self) -> Result<Arc<Vec<Concept>>, AgentError> {
        let path = "data/catalogue.jsonl";
        self.slots.concepts.get(|| {
            let Some(bytes) = self.store.find(path)? else { return Ok(Vec::new()) };
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            lines.map(|l| serde_json::from_str(l).map_err(|e| self.store.bad(path, &e))).collect()
        })
    }

    /// The embeddings of the names of [`Self::concepts`], in their order.
    pub fn concept_embeddings(&self) -> Result<Arc<Vec<Vec<f32>>>, AgentError> {
        let concepts = self.concepts()?;
        self.part(&self.slots.concept_embeddings, &["llm", "imagebind"], || {
            let names: Vec<&str> = concepts.iter().map(|concept| concept.name.as_str()).collect();
            self.spoken(&names)?.to_vec2().map_err(AgentError::compute(Stage::Plan))
        })
    }

    /// The embeddings of names.
    ///
    /// # Shapes
    /// → `(names, e)`.
    pub fn spoken(&self, names: &[&str]) -> Result<Tensor, AgentError> {
        let planner = self.planner()?;
        let ids = names.iter().map(|name| planner.tokenizer().encode_text(name));
        let ids = ids
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| AgentError::Planning { error: Box::new(error) })?;
        self.imagebind()?.encode_text(&ids).map_err(AgentError::compute(Stage::Plan))
    }
}
