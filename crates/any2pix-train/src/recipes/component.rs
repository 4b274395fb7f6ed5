//! Components in the model directory: their configs, and the weights of earlier stages.

use std::path::Path;

use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_llm::Tokenizer;
use any2pix_nn::{Checkpoint, Parameters};
use candle_core::{DType, Device};
use serde::de::DeserializeOwned;

use crate::{Result, TrainError, export};

/// `<model>/<component>/config.json`.
pub fn config<T: DeserializeOwned>(model: &Path, component: &str) -> Result<T> {
    json(&model.join(component).join("config.json"))
}

/// A JSON file.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(TrainError::io(path))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| TrainError::Config { path: path.to_path_buf(), reason: e.to_string() })
}

/// The weights that an earlier stage left.
pub fn weights(model: &Path, component: &str) -> Result<Checkpoint> {
    let path = model.join(component).join("model.safetensors");
    if !path.exists() {
        return Err(TrainError::Data {
            what: format!("{}: is not there", path.display()),
            hint: format!("`any2pix train {component}` makes it; stages build on each other"),
        });
    }
    Ok(Checkpoint::open(path)?)
}

/// The encoder as its stage left it.
pub fn imagebind(model: &Path) -> Result<ImageBindModel> {
    let checkpoint = weights(model, "imagebind")?;
    let config = config(model, "imagebind")?;
    let imagebind = ImageBindModel::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
    checkpoint.finish(&[])?;
    Ok(imagebind)
}

/// The tokenizer that the text tower reads with.
pub fn tokenizer(model: &Path) -> Result<Tokenizer> {
    let path = model.join("llm").join("tokenizer.json");
    let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
    Tokenizer::from_json(&bytes, None).map_err(misfit)
}

/// A part of the model directory that does not fit the others.
pub fn misfit(error: impl std::fmt::Display) -> TrainError {
    TrainError::Data {
        what: error.to_string(),
        hint: "do the files of the model directory belong together?".into(),
    }
}

/// Writes trained weights beside the config that they were built from, which stays as it is.
pub fn export(model: &Path, component: &str, parameters: &Parameters) -> Result<()> {
    let config: serde_json::Value = config(model, component)?;
    export::component(model, component, &config, parameters.tensors(), DType::F16)
}
