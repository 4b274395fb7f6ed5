//! `Parts`: the components of a full-size model. Each is read when its stage asks for it and
//! belongs to that stage alone, so that memory is that of the largest.

use any2pix_diffusion::ip_adapter::AdaptedUNet;
use any2pix_diffusion::lora::{self, Lora, LoraPart};
use any2pix_diffusion::schedulers::SchedulerConfig;
use any2pix_diffusion::{
    AutoencoderKL, AutoencoderKLConfig, DiffusionError, ImageProjModelConfig, PriorTransformer,
    PriorTransformerConfig, TiledAutoencoder, Tiling, UNet2DConditionModel,
    UNet2DConditionModelConfig,
};
use any2pix_encoders::EncoderError;
use any2pix_encoders::clip_text::{ClipTextConfig, ClipTextModel};
use any2pix_encoders::imagebind::{self, ImageBindConfig, ImageBindModel};
use any2pix_llm::sentencepiece::tokenizer_json;
use any2pix_llm::{LlamaConfig, Planner, Tokenizer};
use any2pix_nn::ops::{self, Quantisation};
use any2pix_nn::{Checkpoint, Hint};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::compat::Quirks;
use super::index::{self, Index};
use crate::error::AgentError;
use crate::full_size::{self, TEXT_CONSTANTS, TextEncoder, admit, clip_tokenizer, misfit};
use crate::outcome::sha256_of_file;
use crate::pipeline::{LlmFormat, LoraFile, OpenOptions};
use crate::store::ModelStore;

/// Weights of a language model's layers from which on they are not kept in 32 bits unasked.
const LARGE_LLM: usize = 2_000_000_000;
/// What the text part of the prior's sequence is made of.
#[derive(Deserialize)]
struct PriorText {
    clip_text_config: Value,
}

/// The tokens that begin and end a text.
#[derive(Deserialize)]
struct TextEnds {
    bos_token_id: u32,
    eos_token_id: u32,
}

/// The parts of a model, none of which is held.
pub(super) struct Parts {
    pub(super) store: ModelStore,
    pub(super) index: Index,
    llm_format: LlmFormat,
    loras: Vec<LoraFile>,
    max_memory: Option<u64>,
}

/// The prior with the states of the empty text, when its sequence has text.
pub(super) struct Prior {
    pub(super) model: PriorTransformer,
    pub(super) empty_text: Option<Tensor>,
}

type Codec = TiledAutoencoder<AutoencoderKL>;

impl Parts {
    /// Opens the index and looks whether every part is there; no weights are read yet.
    pub(super) fn open(store: ModelStore, options: OpenOptions) -> Result<Self, AgentError> {
        let OpenOptions { llm_format, loras, max_memory, .. } = options;
        let index = Index::open(&store)?;
        let parts = Self { store, index, llm_format, loras, max_memory };
        let places = &parts.index.components;
        parts.find("imagebind", &places.imagebind)?;
        parts.find("llm", &places.llm)?;
        parts.tokenizer_file()?;
        parts.find("prior", &places.prior)?;
        parts.find("ip_adapter", &places.ip_adapter)?;
        for part in ["text_encoder", "text_encoder_2", "unet", "vae"] {
            parts.find("base", &parts.base(part))?;
        }
        for lora in &parts.loras {
            let path = lora.path.clone();
            std::fs::metadata(&path).map_err(|source| AgentError::Unreadable { path, source })?;
        }
        Ok(parts)
    }

    /// The same parts for one edit; its store knows which of them that edit uses.
    pub(super) fn for_one_edit(&self) -> Self {
        Self {
            store: self.store.for_one_edit(),
            index: self.index.clone(),
            llm_format: self.llm_format,
            loras: self.loras.clone(),
            max_memory: self.max_memory,
        }
    }

    /// What decides an edit besides its request.
    pub(super) fn identity(&self) -> Result<Value, AgentError> {
        let hash = |lora: &LoraFile| {
            let hash = sha256_of_file(&lora.path);
            let unreadable = |source| AgentError::Unreadable { path: lora.path.clone(), source };
            Ok(json!([hash.map_err(unreadable)?, lora.scale]))
        };
        let loras = self.loras.iter().map(hash).collect::<Result<Vec<_>, AgentError>>()?;
        let (name, files) = (self.store.name(), self.store.fingerprint()?);
        let llm_format = format!("{:?}", self.llm_format);
        Ok(json!({ "name": name, "files": files, "llm_format": llm_format, "loras": loras }))
    }

    /// How the language model's layers are to be kept.
    pub(super) fn llm_format(&self) -> LlmFormat {
        self.llm_format
    }

    /// A part of SDXL's base.
    fn base(&self, part: &str) -> String {
        format!("{}/{part}", self.index.components.base)
    }

    /// A part of the refiner where it has its own, else the base's.
    fn refiner_or_base(&self, part: &str) -> String {
        let own = format!("{}/{part}", self.index.components.refiner);
        if self.store.has(&own) { own } else { self.base(part) }
    }

    /// Whether there is a refiner.
    pub(super) fn has_refiner(&self) -> bool {
        let place = format!("{}/unet", self.index.components.refiner);
        full_size::weights(&self.store, &place).is_some()
    }

    /// Where the refiner is looked for.
    pub(super) fn refiner_place(&self) -> &str {
        &self.index.components.refiner
    }

    /// The weights of a part, which must be there.
    fn find(&self, component: &'static str, place: &str) -> Result<String, AgentError> {
        full_size::weights(&self.store, place).ok_or_else(|| self.missing(component, place))
    }

    fn missing(&self, component: &'static str, path: &str) -> AgentError {
        let model = self.store.name().to_string();
        AgentError::MissingComponent { model, component, path: path.to_string() }
    }

    /// Where the language model's tokenizer is: a `tokenizer.json`, or the `tokenizer.model` that
    /// is published.
    fn tokenizer_file(&self) -> Result<String, AgentError> {
        let place = &self.index.components.llm;
        let files = ["tokenizer.json", "tokenizer/tokenizer.json", "tokenizer.model"];
        let mut paths = files.map(|file| format!("{place}/{file}")).to_vec();
        paths.push(format!("{place}/tokenizer/tokenizer.model"));
        let found = paths.iter().find(|path| self.store.has_file(path));
        found.cloned().ok_or_else(|| self.missing("llm", &paths[paths.len() - 1]))
    }

    fn tokenizer(&self, quirks: &Quirks) -> Result<Tokenizer, AgentError> {
        let path = self.tokenizer_file()?;
        let bytes = self.store.read(&path)?;
        let json = match path.strip_suffix("tokenizer.model") {
            Some(folder) => {
                let added = self.store.find(&format!("{folder}added_tokens.json"))?;
                tokenizer_json(&bytes, added.as_deref()).map_err(misfit(&path))?
            }
            None => bytes.into_owned(),
        };
        Tokenizer::from_json(&json, Some(quirks.segment_prefix)).map_err(misfit(&path))
    }

    /// A config document that must be there and be `T`.
    fn config<T: DeserializeOwned>(&self, place: &str) -> Result<T, AgentError> {
        self.store.json(&format!("{place}/config.json"))
    }

    /// The weights of a part, unless they would take more memory than is allowed.
    fn weights(
        &self,
        (component, place): (&'static str, &str),
        ignored: &[&str],
        bits: Option<f64>,
    ) -> Result<Checkpoint, AgentError> {
        let path = self.find(component, place)?;
        let checkpoint = self.store.weights(&path)?;
        admit(self.max_memory, &path, &checkpoint, ignored, bits)?;
        Ok(checkpoint)
    }

    /// Builds a part from its weights, all of which must be used.
    fn build<T, E: Hint + Send + Sync + 'static>(
        &self,
        (component, place): (&'static str, &str),
        ignored: &[&str],
        load: impl FnOnce(VarBuilder<'static>) -> Result<T, E>,
    ) -> Result<T, AgentError> {
        let checkpoint = self.weights((component, place), ignored, None)?;
        let part = load(checkpoint.builder(DType::F32, &Device::Cpu)).map_err(misfit(place))?;
        checkpoint.finish(ignored).map_err(AgentError::weights(place))?;
        Ok(part)
    }

    /// The encoder of pictures and sounds.
    pub(super) fn imagebind(&self, quirks: &Quirks) -> Result<ImageBindModel, AgentError> {
        let place = self.index.components.imagebind.as_str();
        let path = self.find("imagebind", place)?;
        let mut config: ImageBindConfig = match index::config(&self.store, &path, place)? {
            Some(config) => {
                serde_json::from_value(config).map_err(|e| self.store.bad(place, &e))?
            }
            None => ImageBindConfig::default(),
        };
        config.audio_clip_spacing = quirks.clip_spacing;
        self.build(("imagebind", place), imagebind::IGNORED, |vb| {
            ImageBindModel::load(vb, &config).map_err(EncoderError::from)
        })
    }

    /// How the language model keeps its layers: as asked; else in 8 bits where the machine would
    /// keep a large one in 32, which does not fit beside anything.
    fn llm_quant(&self, config: &[u8]) -> Result<Option<Quantisation>, AgentError> {
        let place = self.index.components.llm.as_str();
        let fits = || {
            let llama = LlamaConfig::from_json(config).map_err(misfit(place))?;
            let (hidden, inner) = (llama.hidden_size, llama.intermediate_size);
            let layers = llama.num_hidden_layers * hidden * (4 * hidden + 3 * inner);
            Ok(ops::multiplies_bf16() || layers < LARGE_LLM)
        };
        Ok(match self.llm_format {
            LlmFormat::Quantised(format) => Some(format),
            LlmFormat::Whole => None,
            LlmFormat::Fitting => (!fits()?).then_some(Quantisation::Q8_0),
        })
    }

    /// The language model.
    pub(super) fn planner(&self, quirks: &Quirks) -> Result<Planner, AgentError> {
        let place = self.index.components.llm.as_str();
        let config = self.store.read(&format!("{place}/config.json"))?;
        let files = (&config[..], self.tokenizer(quirks)?);
        let format = self.llm_quant(&config)?;
        // Of many weights, so that parts of a block do not count.
        let bits = format.map(|format| format.bytes(1 << 20) as f64 * 8.0 / f64::from(1 << 20));
        let weights = self.weights(("llm", place), &[], bits)?;
        Planner::load_with(files, &weights, format, DType::F32, &Device::Cpu).map_err(misfit(place))
    }

    /// The prior. Its text encoder only ever reads the empty text, and is dropped at once.
    pub(super) fn prior(&self) -> Result<Prior, AgentError> {
        let place = self.index.components.prior.as_str();
        let found = index::config(&self.store, &self.find("prior", place)?, place)?;
        let config = index::prior_config(&self.store, found)?;
        let bad = |e: serde_json::Error| self.store.bad(place, &e);
        let prior: PriorTransformerConfig = serde_json::from_value(config.clone()).map_err(bad)?;
        let text = match prior.sequence_input_key.iter().any(|key| key == "crossattn_clip") {
            true => Some(serde_json::from_value::<PriorText>(config).map_err(bad)?),
            false => None,
        };
        let ends = |text: &PriorText| -> Result<(ClipTextConfig, TextEnds), serde_json::Error> {
            let config = &text.clip_text_config;
            Ok((serde_json::from_value(config.clone())?, serde_json::from_value(config.clone())?))
        };
        let text = text.as_ref().map(ends).transpose().map_err(bad)?;
        // Buffers of older files: the causal mask, and what it masks with.
        let buffers = (0..prior.gpt2_config.n_layer)
            .flat_map(|i| ["bias", "masked_bias"].map(|b| format!("model.h.{i}.attn.{b}")));
        let mut ignored: Vec<String> = buffers.collect();
        ignored.extend(["model.wte.", "cond_stage_models."].map(String::from));
        let ignored: Vec<&str> = ignored.iter().map(String::as_str).collect();
        self.build(("prior", place), &ignored, |vb| -> Result<Prior, DiffusionError> {
            let model = PriorTransformer::load(vb.clone(), &prior)?;
            let empty = |(config, ends): (ClipTextConfig, TextEnds)| {
                let encoder = ClipTextModel::load(vb.pp("cond_stage_models.0.model"), &config)?;
                let row = [ends.bos_token_id, ends.eos_token_id];
                let ids = Tensor::new(&[row, row], &Device::Cpu)?;
                encoder.forward(&ids).map(|output| output.last_hidden_state)
            };
            Ok(Prior { model, empty_text: text.map(empty).transpose()? })
        })
    }

    /// SDXL's text encoder 1 or 2.
    pub(super) fn text_encoder(&self, second: bool) -> Result<TextEncoder, AgentError> {
        let (name, words, part) = match second {
            false => ("text_encoder", "tokenizer", LoraPart::TextEncoder),
            true => ("text_encoder_2", "tokenizer_2", LoraPart::TextEncoder2),
        };
        let place = self.base(name);
        let config: ClipTextConfig = self.config(&place)?;
        let tokenizer =
            clip_tokenizer(&self.store, &self.base(words), config.max_position_embeddings)?;
        let weights = self.weights(("base", &place), TEXT_CONSTANTS, None)?;
        let vb =
            lora::merged(&weights, part, &self.loras()?, &Device::Cpu).map_err(misfit(name))?;
        let model = ClipTextModel::load(vb, &config).map_err(EncoderError::from);
        let model = model.map_err(misfit(&place))?;
        weights.finish(TEXT_CONSTANTS).map_err(AgentError::weights(&place))?;
        Ok(TextEncoder { model, tokenizer })
    }

    /// The changes of weights, read anew by each part that they may change.
    fn loras(&self) -> Result<Vec<Lora>, AgentError> {
        let read = |lora: &LoraFile| {
            let name = lora.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let unreadable = |source| AgentError::Unreadable { path: lora.path.clone(), source };
            let hash = sha256_of_file(&lora.path).map_err(unreadable)?;
            self.store.remember(&lora.recorded_name(), hash)?;
            let weights = Checkpoint::open(&lora.path).map_err(AgentError::weights("lora"))?;
            Lora::read(&name, &weights, lora.scale, peft_alpha(lora)).map_err(misfit("lora"))
        };
        self.loras.iter().map(read).collect()
    }

    /// The config of the base's codec.
    fn codec_config(&self) -> Result<AutoencoderKLConfig, AgentError> {
        self.config(&self.base("vae"))
    }

    /// Channels of a latent, and pixels a side that make one.
    pub(super) fn latent_shape(&self) -> Result<(usize, usize), AgentError> {
        let config = self.codec_config()?;
        let halvings = config.block_out_channels.len().saturating_sub(1);
        Ok((config.latent_channels, 1 << halvings.min(8)))
    }

    /// The codec of the base, or of the refiner. Load and use it in f32: bf16 is too coarse for
    /// the last bits of colours, and SDXL's overflows in f16.
    pub(super) fn codec(&self, refiner: bool) -> Result<Codec, AgentError> {
        let (component, place) = match refiner {
            true => ("refiner", self.refiner_or_base("vae")),
            false => ("base", self.base("vae")),
        };
        let config: AutoencoderKLConfig = self.config(&place)?;
        let codec = self.build((component, &place), &[], |vb| AutoencoderKL::load(vb, &config))?;
        Ok(TiledAutoencoder::new(codec, Tiling::default()))
    }

    /// SDXL's UNet with the adapter, and with the changes merged.
    pub(super) fn unet(&self) -> Result<AdaptedUNet, AgentError> {
        let (place, adapter_place) = (self.base("unet"), &self.index.components.ip_adapter);
        let config: UNet2DConditionModelConfig = self.config(&place)?;
        let weights = self.weights(("base", &place), &[], None)?;
        let adapter = self.weights(("ip_adapter", adapter_place), &[], None)?;
        let numbers = self.adapter_config(&adapter, &config)?;
        let vb = lora::merged(&weights, LoraPart::Unet, &self.loras()?, &Device::Cpu)
            .map_err(misfit("lora"))?;
        let adapter_vb = adapter.builder(DType::F32, &Device::Cpu);
        let unet = AdaptedUNet::load(vb, adapter_vb, &config, &numbers).map_err(misfit(&place))?;
        weights.finish(&[]).map_err(AgentError::weights(&place))?;
        adapter.finish(&[]).map_err(AgentError::weights(adapter_place))?;
        Ok(unet)
    }

    /// An adapter has no config: its numbers are the shape of its projection.
    fn adapter_config(
        &self,
        adapter: &Checkpoint,
        unet: &UNet2DConditionModelConfig,
    ) -> Result<ImageProjModelConfig, AgentError> {
        let projection = adapter.tensor("image_proj.proj.weight");
        let Some((rows, clip_embeddings_dim)) = projection.and_then(|t| t.dims2().ok()) else {
            let reason = "there is no matrix image_proj.proj.weight in it";
            return Err(self.store.bad(&self.index.components.ip_adapter, &reason));
        };
        Ok(ImageProjModelConfig {
            cross_attention_dim: unet.cross_attention_dim,
            clip_embeddings_dim,
            clip_extra_context_tokens: rows / unet.cross_attention_dim.max(1),
            raw_embed: adapter.names().iter().any(|name| name == "image_proj.raw_embed"),
        })
    }

    /// The refiner's UNet.
    pub(super) fn refiner(&self) -> Result<UNet2DConditionModel, AgentError> {
        let place = format!("{}/unet", self.index.components.refiner);
        let config: UNet2DConditionModelConfig = self.config(&place)?;
        self.build(("refiner", &place), &[], |vb| UNet2DConditionModel::load(vb, &config))
    }

    /// The noise schedule of the base, or of the refiner.
    pub(super) fn scheduler(&self, refiner: bool) -> Result<SchedulerConfig, AgentError> {
        let folder = match refiner {
            true => self.refiner_or_base("scheduler"),
            false => self.base("scheduler"),
        };
        self.store.json(&format!("{folder}/scheduler_config.json"))
    }
}

/// The α that peft writes beside its weights.
fn peft_alpha(lora: &LoraFile) -> Option<f64> {
    let text = std::fs::read(lora.path.with_file_name("adapter_config.json")).ok()?;
    serde_json::from_slice::<Value>(&text).ok()?["lora_alpha"].as_f64()
}
