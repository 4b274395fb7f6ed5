//! What the published full-size pipelines share: how parts are found and read, how texts and
//! latents are turned.

use any2pix_diffusion::Autoencoder;
use any2pix_encoders::clip_text::{ClipTextModel, ClipTextOutput};
use any2pix_encoders::clip_tokenizer::{ClipTokenizer, Padding};
use any2pix_nn::ops::{self, Precision};
use any2pix_nn::{Checkpoint, Hint};
use candle_core::{D, Device, Tensor};
use serde_json::Value;

use crate::error::AgentError;
use crate::outcome::resident_memory;
use crate::planes::Pixels;
use crate::progress::Stage;
use crate::store::ModelStore;

/// Tensors of published text encoders that are constants.
pub(crate) const TEXT_CONSTANTS: &[&str] = &["text_model.embeddings.position_ids"];
/// The vocabulary in a folder of a tokenizer; without one, the published.
const MERGES: &str = "merges.txt";

/// How weights may be called in a part's folder, the first that is there.
const WEIGHTS: [&str; 14] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.fp16.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "model.bin",
    "model.gguf",
    "model.pth",
];

/// A text encoder with its tokenizer.
pub(crate) struct TextEncoder {
    pub(crate) model: ClipTextModel,
    pub(crate) tokenizer: ClipTokenizer,
}

/// Lays `over` on `under`, key by key.
pub(crate) fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// The weights at `place`: the file itself, or what a folder there holds.
pub(crate) fn weights(store: &ModelStore, place: &str) -> Option<String> {
    if store.has_file(place) {
        return Some(place.to_string());
    }
    WEIGHTS.iter().map(|name| format!("{place}/{name}")).find(|path| store.has_file(path))
}

/// An error if the weights at `path` would take more memory than is allowed: `bits` a number, those
/// of the precision in force if it is not given. What is `ignored` is not loaded.
pub(crate) fn admit(
    max_memory: Option<u64>,
    path: &str,
    checkpoint: &Checkpoint,
    ignored: &[&str],
    bits: Option<f64>,
) -> Result<(), AgentError> {
    let Some(most) = max_memory else { return Ok(()) };
    let read = checkpoint.entries().into_iter();
    let read = read.filter(|entry| !ignored.iter().any(|i| entry.name.starts_with(i)));
    let numbers: usize = read.map(|entry| entry.shape.iter().product::<usize>()).sum();
    let bits = bits.unwrap_or(match ops::precision() {
        Precision::F32 => 32.0,
        Precision::Bf16 => 16.0,
    });
    let needed = resident_memory().unwrap_or(0) + (numbers as f64 * bits / 8.0) as u64;
    if needed <= most {
        return Ok(());
    }
    let [needed, most] = [needed, most].map(|bytes| bytes >> 20);
    Err(AgentError::TooLarge { component: path.to_string(), needed, most })
}

/// An error about a part's weights.
pub(crate) fn misfit<E: Hint + Send + Sync + 'static>(component: &str) -> impl Fn(E) -> AgentError {
    move |error| AgentError::Weights { component: component.to_string(), error: Box::new(error) }
}

/// The tokenizer in `folder`, whose texts have `context` ids.
pub(crate) fn clip_tokenizer(
    store: &ModelStore,
    folder: &str,
    context: usize,
) -> Result<ClipTokenizer, AgentError> {
    let tokenizer = match store.find(&format!("{folder}/{MERGES}"))? {
        Some(merges) => ClipTokenizer::from_merges(&String::from_utf8_lossy(&merges), context),
        None => ClipTokenizer::new(),
    };
    tokenizer.map_err(misfit(folder))
}

/// All texts through one encoder.
pub(crate) fn read(
    encoder: &TextEncoder,
    texts: &[&str],
    padding: Padding,
) -> Result<ClipTextOutput, AgentError> {
    let compute = AgentError::compute(Stage::Prompt);
    let mut rows = Vec::new();
    for text in texts {
        let ids = encoder.tokenizer.encode(text, padding);
        let ids = ids.map_err(|error| AgentError::Planning { error: Box::new(error) })?;
        rows.push(Tensor::new(ids, &Device::Cpu).map_err(&compute)?);
    }
    Tensor::stack(&rows, 0).and_then(|ids| encoder.model.forward(&ids)).map_err(compute)
}

/// The latents, unless they are worthless.
pub(crate) fn finite(latents: Tensor, stage: Stage) -> Result<Tensor, AgentError> {
    let largest = latents.abs().and_then(|t| t.flatten_all()?.max(D::Minus1)?.to_scalar::<f32>());
    match largest.map_err(AgentError::compute(stage))?.is_finite() {
        true => Ok(latents),
        false => Err(AgentError::NotFinite { stage }),
    }
}

/// The colours of latents, unless they are worthless.
pub(crate) fn to_pixels(
    codec: &(impl Autoencoder + ?Sized),
    latents: &Tensor,
    stage: Stage,
) -> Result<Pixels, AgentError> {
    let pixels = codec.latents_to_image(latents).and_then(|image| Pixels::from_tensor(&image));
    let pixels = pixels.map_err(AgentError::compute(stage))?;
    match pixels.is_finite() {
        true => Ok(pixels),
        false => Err(AgentError::NotFinite { stage }),
    }
}
