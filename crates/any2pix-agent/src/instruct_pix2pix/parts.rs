//! `Parts`: the components of an InstructPix2Pix, in folders as diffusers lays them out or in
//! one file as its authors publish it. Each belongs to one stage of an edit.

use std::collections::BTreeMap;

use any2pix_diffusion::instruct_pix2pix::Channels;
use any2pix_diffusion::ldm_names::{LdmParts, early_codec_name};
use any2pix_diffusion::schedulers::{PredictionType, SchedulerConfig};
use any2pix_diffusion::{
    Autoencoder, AutoencoderKL, AutoencoderKLConfig, PatchCodec, TiledAutoencoder, Tiling,
    UNet2DConditionModel, UNet2DConditionModelConfig,
};
use any2pix_encoders::EncoderError;
use any2pix_encoders::clip_text::{ClipTextConfig, ClipTextModel, ClipTextOutput};
use any2pix_encoders::clip_tokenizer::Padding;
use any2pix_encoders::imagebind::{self, ImageBindConfig, ImageBindModel};
use any2pix_encoders::locator::{Locator, LocatorConfig};
use any2pix_llm::Tokenizer;
use any2pix_nn::Checkpoint;
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::text_to_image::PairsPatch;
use crate::error::AgentError;
use crate::full_size::{
    TEXT_CONSTANTS, TextEncoder, admit, clip_tokenizer, lay, misfit, read, weights,
};
use crate::progress::Stage;
use crate::settings::SettingsPatch;
use crate::sighting;
use crate::store::ModelStore;

/// What `_class_name` in `model_index.json` says.
const CLASS_NAME: &str = "StableDiffusionInstructPix2PixPipeline";
const INDEX: &str = "model_index.json";
/// What some UNets see the source with, beside its latents.
const EYE: &str = "locator";
/// What looks again at what that finds.
const ENCODER: &str = "imagebind";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
/// The published settings.
const SETTINGS: &str = include_str!("../../../../models/instruct_pix2pix/pipeline.json");
/// The published configs, for files that have none.
const CONFIGS: [(&str, &str); 4] = [
    ("text_encoder", include_str!("../../../../models/instruct_pix2pix/text_encoder/config.json")),
    ("vae", include_str!("../../../../models/instruct_pix2pix/vae/config.json")),
    ("unet", include_str!("../../../../models/instruct_pix2pix/unet/config.json")),
    (
        "scheduler",
        include_str!("../../../../models/instruct_pix2pix/scheduler/scheduler_config.json"),
    ),
];
/// What the names of one file begin with: of the authors, and of MagicBrush, trained on from it.
const ONE_FILE: [&str; 2] = ["instruct-pix2pix-", "MagicBrush-"];

/// How a model lies in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder a component, each with its config.
    Folders,
    /// All in the file of that name.
    OneFile(String),
}

/// The layout of the InstructPix2Pix in `store`: its index says so, or it has no index and a
/// file with the published name. `None` when there is none.
pub fn layout(store: &ModelStore) -> Result<Option<Layout>, AgentError> {
    if store.find(INDEX)?.is_some() {
        let index: Value = store.json(INDEX)?;
        return Ok((index["_class_name"].as_str() == Some(CLASS_NAME)).then_some(Layout::Folders));
    }
    let published = |name: &String| {
        let ends = name.ends_with(".ckpt") || name.ends_with(".safetensors");
        ONE_FILE.iter().any(|begins| name.starts_with(begins)) && ends
    };
    Ok(store.files().into_iter().find(published).map(Layout::OneFile))
}

/// What `model_index.json` says beyond the published one.
#[derive(Clone, Debug, Default, Deserialize)]
struct Index {
    /// Settings that differ from the published ones.
    #[serde(default)]
    settings: Value,
    /// Places of parts that do not lie in a folder of their name, seen from the model's.
    #[serde(default)]
    places: BTreeMap<String, String>,
    /// How pairs of captions are painted, where that differs from edits and from the published.
    #[serde(default)]
    pairs: PairsPatch,
}

/// The parts of a model, none of which is held.
pub(super) struct Parts {
    pub(super) store: ModelStore,
    pub(super) settings: SettingsPatch,
    layout: Layout,
    index: Index,
    max_memory: Option<u64>,
}

impl Parts {
    /// What the model says of pairs of captions.
    pub(super) fn pairs(&self) -> &PairsPatch {
        &self.index.pairs
    }

    /// Looks whether every part is there; no weights are read yet.
    pub(super) fn open(
        store: ModelStore,
        layout: Layout,
        max_memory: Option<u64>,
    ) -> Result<Self, AgentError> {
        let misread = |e: serde_json::Error| store.bad("settings", &e);
        let mut settings = serde_json::from_str(SETTINGS).map_err(misread)?;
        let index: Index = match store.find(INDEX)? {
            Some(_) => store.json(INDEX)?,
            None => Index::default(),
        };
        if index.settings.is_object() {
            lay(&mut settings, index.settings.clone());
        }
        let settings = serde_json::from_value(settings).map_err(misread)?;
        let parts = Self { store, settings, layout, index, max_memory };
        if parts.layout == Layout::Folders {
            for component in ["text_encoder", "vae", "unet"] {
                parts.find(component)?;
            }
        }
        Ok(parts)
    }

    /// The same parts for one edit; its store knows which of them that edit uses.
    pub(super) fn for_one_edit(&self) -> Self {
        Self {
            store: self.store.for_one_edit(),
            settings: self.settings.clone(),
            layout: self.layout.clone(),
            index: self.index.clone(),
            max_memory: self.max_memory,
        }
    }

    /// Where a component lies.
    fn place<'a>(&'a self, component: &'a str) -> &'a str {
        self.index.places.get(component).map_or(component, String::as_str)
    }

    /// The weights of a component, which must be there.
    fn find(&self, component: &str) -> Result<String, AgentError> {
        let missing = "is missing: there is no file of weights in it";
        weights(&self.store, self.place(component))
            .ok_or_else(|| self.store.bad(component, &missing))
    }

    /// The published config of a component.
    fn published(&self, component: &str) -> Result<Value, AgentError> {
        let config = CONFIGS.iter().find(|(name, _)| *name == component);
        let text = config.map_or("null", |(_, text)| text);
        serde_json::from_str(text).map_err(|e| self.store.bad(component, &e))
    }

    /// The config of a component; what one file leaves out is the published model's.
    fn config<T: DeserializeOwned>(&self, component: &str) -> Result<T, AgentError> {
        let path = format!("{}/config.json", self.place(component));
        if self.layout == Layout::Folders {
            return self.store.json(&path);
        }
        let mut config = self.published(component)?;
        if self.store.has_file(&path) {
            lay(&mut config, self.store.json(&path)?);
        }
        serde_json::from_value(config).map_err(|e| self.store.bad(&path, &e))
    }

    /// The tensors of a component by the names of diffusers, unless they would take more memory
    /// than is allowed.
    fn weights(&self, component: &str) -> Result<Checkpoint, AgentError> {
        let weights = self.named_as_in_diffusers(component)?;
        admit(self.max_memory, component, &weights, TEXT_CONSTANTS, None)?;
        Ok(weights)
    }

    fn named_as_in_diffusers(&self, component: &str) -> Result<Checkpoint, AgentError> {
        let wrong = AgentError::weights(component);
        let path = match &self.layout {
            Layout::Folders => {
                let weights = self.store.weights(&self.find(component)?)?;
                return weights.renamed(early_codec_name).map_err(wrong);
            }
            Layout::OneFile(path) => path,
        };
        let file = self.store.weights_again(path)?;
        let parts = LdmParts::split(&file, &self.config("unet")?, &self.config("vae")?);
        let LdmParts { unet, codec, text_encoder } = parts.map_err(wrong)?;
        Ok(match component {
            "unet" => unet,
            "vae" => codec,
            _ => text_encoder,
        })
    }

    /// What the text encoder makes of texts.
    pub(super) fn said(&self, texts: &[&str]) -> Result<ClipTextOutput, AgentError> {
        let name = "text_encoder";
        let config: ClipTextConfig = self.config(name)?;
        let weights = self.weights(name)?;
        let model = ClipTextModel::load(weights.builder(DType::F32, &Device::Cpu), &config);
        let model = model.map_err(EncoderError::from).map_err(misfit(name))?;
        weights.finish(TEXT_CONSTANTS).map_err(AgentError::weights(name))?;
        let place = self.place("tokenizer");
        if place.ends_with(".json") {
            let ids = self.own_ids(place, &config, texts)?;
            return model.forward(&ids).map_err(AgentError::compute(Stage::Prompt));
        }
        let tokenizer = clip_tokenizer(&self.store, place, config.max_position_embeddings)?;
        read(&TextEncoder { model, tokenizer }, texts, Padding::End)
    }

    /// Ids of texts by a tokenizer that is not CLIP's.
    ///
    /// # Shapes
    /// n texts → `(n, max_position_embeddings)`, u32.
    fn own_ids(
        &self,
        place: &str,
        config: &ClipTextConfig,
        texts: &[&str],
    ) -> Result<Tensor, AgentError> {
        let tokenizer = Tokenizer::from_json(&self.store.read(place)?, None);
        let tokenizer = tokenizer.map_err(misfit("tokenizer"))?;
        let mut ids = Vec::new();
        for text in texts {
            let text = tokenizer.encode_text(text);
            let text = text.map_err(|error| AgentError::Planning { error: Box::new(error) })?;
            ids.extend(config.closed(&text));
        }
        let shape = (texts.len(), config.max_position_embeddings);
        Tensor::from_vec(ids, shape, &Device::Cpu).map_err(AgentError::compute(Stage::Prompt))
    }

    /// The codec, as the UNet reads its latents.
    pub(super) fn codec(&self) -> Result<Box<dyn Autoencoder>, AgentError> {
        let channels = self.channels()?;
        let class: Value = self.config("vae")?;
        let weights = self.weights("vae")?;
        let builder = weights.builder(DType::F32, &Device::Cpu);
        let codec: Box<dyn Autoencoder> = if class["_class_name"] == "PatchCodec" {
            let codec = PatchCodec::load(builder, &self.config("vae")?).map_err(misfit("vae"))?;
            channels.codec(TiledAutoencoder::new(codec, Tiling::default()))
        } else {
            let config: AutoencoderKLConfig = self.config("vae")?;
            let codec = AutoencoderKL::load(builder, &config).map_err(misfit("vae"))?;
            channels.codec(TiledAutoencoder::new(codec, Tiling::default()))
        };
        weights.finish(&[]).map_err(AgentError::weights("vae"))?;
        Ok(codec)
    }

    /// What the channels of the UNet stand for.
    pub(super) fn channels(&self) -> Result<Channels, AgentError> {
        let config: UNet2DConditionModelConfig = self.config("unet")?;
        let codec: Value = self.config("vae")?;
        let latent_channels = codec["latent_channels"].as_u64().unwrap_or(4).max(1) as usize;
        let Some(channels) = Channels::of(&config, latent_channels) else {
            let UNet2DConditionModelConfig { in_channels, out_channels, .. } = config;
            let need = format!("{latent_channels}, or that and a source's {latent_channels} more");
            let reason = format!(
                "in_channels is {in_channels}, out_channels {out_channels}; latents have {need}"
            );
            return Err(self.store.bad("unet/config.json", &reason));
        };
        if channels.is_gated && self.scheduler()?.prediction_type != PredictionType::Sample {
            let reason = "must predict the `sample`, as the UNet's gates lie over pictures";
            return Err(self.store.bad(SCHEDULER, &reason));
        }
        Ok(channels)
    }

    /// What else than its latents the UNet sees of a source: the features of the model's locator,
    /// which is asked `query`, the projected text, if the text encoder has a projection.
    ///
    /// # Shapes
    /// `query` `(1, embed_dim)` → `(1, c, cells, cells)`.
    pub(super) fn features(
        &self,
        picture: &RgbImage,
        query: Option<&Tensor>,
    ) -> Result<Option<Tensor>, AgentError> {
        let channels = self.channels()?;
        if channels.features() == 0 {
            return Ok(None);
        }
        if self.find(EYE).is_err() {
            return Err(self.unfit(&channels));
        }
        let config: LocatorConfig = self.config(EYE)?;
        let weights = self.weights(EYE)?;
        let eye = Locator::load(weights.builder(DType::F32, &Device::Cpu), &config);
        let eye = eye.map_err(EncoderError::from).map_err(misfit(EYE))?;
        weights.finish(&[]).map_err(AgentError::weights(EYE))?;
        let encoder = self.encoder()?;
        let look = || {
            let seen = eye.look(picture)?;
            let Some((query, encoder)) = query.zip(encoder.as_ref()) else {
                return eye.features(&seen, query);
            };
            let place = sighting::likeliest((&eye, encoder), (picture, &seen), query)?;
            eye.features_at(&seen, query, &place)
        };
        let features = look().map_err(AgentError::compute(Stage::Invert))?;
        let count = features.dims()[1] * channels.latents_a_side().pow(2);
        match count == channels.features() {
            true => Ok(Some(features)),
            false => Err(self.unfit(&channels)),
        }
    }

    /// What looks again at the places that the locator finds, if the model has it.
    fn encoder(&self) -> Result<Option<ImageBindModel>, AgentError> {
        if self.find(ENCODER).is_err() {
            return Ok(None);
        }
        let config: ImageBindConfig = self.config(ENCODER)?;
        let weights = self.weights(ENCODER)?;
        let model = ImageBindModel::load(weights.builder(DType::F32, &Device::Cpu), &config);
        let model = model.map_err(EncoderError::from).map_err(misfit(ENCODER))?;
        weights.finish(imagebind::IGNORED).map_err(AgentError::weights(ENCODER))?;
        Ok(Some(model))
    }

    /// The UNet, which must have channels for the source.
    pub(super) fn unet(&self) -> Result<UNet2DConditionModel, AgentError> {
        let channels = self.channels()?;
        match channels.source {
            0 => Err(self.unfit(&channels)),
            _ => self.load_unet(),
        }
    }

    fn unfit(&self, channels: &Channels) -> AgentError {
        let (have, need) = (channels.sample + channels.source, 2 * channels.sample);
        let reason = format!("in_channels is {have}; this pipeline needs {need}");
        self.store.bad("unet/config.json", &reason)
    }

    /// The UNet, which may have channels for a source.
    pub(super) fn text_to_image_unet(&self) -> Result<UNet2DConditionModel, AgentError> {
        let config: UNet2DConditionModelConfig = self.config("unet")?;
        if config.has_text_time() {
            let reason = "is SDXL's; pairs are painted by models with one text encoder";
            return Err(self.store.bad("unet/config.json", &reason));
        }
        self.channels()?;
        self.load_unet()
    }

    fn load_unet(&self) -> Result<UNet2DConditionModel, AgentError> {
        let config: UNet2DConditionModelConfig = self.config("unet")?;
        let weights = self.weights("unet")?;
        let unet = UNet2DConditionModel::load(weights.builder(DType::F32, &Device::Cpu), &config);
        let unet = unet.map_err(misfit("unet"))?;
        weights.finish(&[]).map_err(AgentError::weights("unet"))?;
        Ok(unet)
    }

    /// The noise schedule; the published one where the model does not say.
    pub(super) fn scheduler(&self) -> Result<SchedulerConfig, AgentError> {
        if self.store.has_file(SCHEDULER) {
            return self.store.json(SCHEDULER);
        }
        let published = self.published("scheduler")?;
        serde_json::from_value(published).map_err(|e| self.store.bad(SCHEDULER, &e))
    }
}
