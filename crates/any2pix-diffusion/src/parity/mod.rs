//! Golden cases of this crate's components, run on our classes.

mod instruct_pix2pix;
mod pipelines;
mod prior;
mod schedulers;
mod unet;
mod vae;

use any2pix_nn::golden::{GoldenCase, Outputs};
use any2pix_nn::{Checkpoint, CheckpointError};
use candle_core::{DType, Tensor};
use serde_json::Value;

use crate::DiffusionError;

/// What a text encoder says of a batch of token ids.
pub struct TextStates {
    /// State before the last layer `(b, n, d)`, as SDXL takes it.
    pub penultimate: Tensor,
    /// State after the final norm `(b, n, d)`.
    pub last: Tensor,
    /// Projected state of the end token `(b, p)`, when there is a projection.
    pub text_embeds: Option<Tensor>,
}

/// Runs a CLIP text model; this crate has none, so whoever has both passes it in.
///
/// Arguments: the weights (names from `text_model.` on), the config, the ids `(b, n)`.
pub type TextEncoder<'a> =
    &'a dyn Fn(&Checkpoint, &Value, &Tensor) -> Result<TextStates, candle_core::Error>;

/// Runs `case`; `None` when it is not a component of this crate.
pub fn run(case: &GoldenCase, text: TextEncoder) -> Option<Result<Outputs, DiffusionError>> {
    match (case.meta.component.as_str(), case.meta.case.as_str()) {
        ("schedulers", _) => schedulers::run(case),
        ("vae", "bfl_ae") => None,
        ("vae", _) => Some(vae::run(case)),
        ("sdxl_unet", "image_proj_modes") => Some(unet::image_proj(case)),
        ("sdxl_unet", _) => Some(unet::run(case)),
        ("prior", _) => Some(prior::run(case, text)),
        ("pipelines", _) if case.input_maybe("clip_image_embeds").is_some() => {
            Some(pipelines::any2pix_sdxl(case, text))
        }
        ("pipelines", "sdxl_refiner_img2img") => Some(pipelines::sdxl_refiner(case, text)),
        ("pipelines", "instruct_pix2pix") => Some(instruct_pix2pix::diffusers(case, text)),
        ("pipelines", "ip2p_original_ckpt") => Some(instruct_pix2pix::original(case, text)),
        _ => None,
    }
}

fn scalar(case: &GoldenCase, name: &str) -> candle_core::Result<f64> {
    case.input(name)?.to_dtype(DType::F64)?.flatten_all()?.get(0)?.to_scalar::<f64>()
}

fn count(case: &GoldenCase, name: &str) -> candle_core::Result<usize> {
    Ok(scalar(case, name)? as usize)
}

/// Intermediates under the names that the goldens give them.
fn inner(taps: Vec<(String, Tensor)>) -> Outputs {
    taps.into_iter().map(|(name, tensor)| (format!("inter.{name}"), tensor)).collect()
}

fn finish(checkpoint: &Checkpoint, ignored: &[&str]) -> Result<(), CheckpointError> {
    checkpoint.finish(ignored)
}
