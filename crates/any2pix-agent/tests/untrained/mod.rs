//! Untrained weights in files, for models that are run as a whole.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail loudly")]

use std::collections::HashMap;
use std::path::Path;

use any2pix_nn::{Generator, Parameters};
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::Value;

/// A config of a class.
pub(crate) fn from<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// A file, in folders that may not be there yet.
pub(crate) fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Weights as initialised, in the file at `path`; layers that start at zero are drawn too, since
/// they would hide everything before them.
pub(crate) fn weights(path: &Path, seed: u64, load: impl Fn(VarBuilder)) {
    let parameters = Parameters::new(seed);
    load(parameters.builder(&Device::Cpu));
    let fresh = |name: &String, tensor: &Tensor| {
        let largest = tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        match name.ends_with(".weight") && largest.to_scalar::<f32>().unwrap() == 0.0 {
            true => {
                let mut generator = Generator::new(seed).fork(name);
                (generator.randn(tensor.shape(), &Device::Cpu).unwrap() * 0.2).unwrap()
            }
            false => tensor.clone(),
        }
    };
    let tensors = parameters.tensors();
    let tensors: HashMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| (name.clone(), fresh(name, tensor))).collect();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// A diffusers folder: a config, and weights as initialised.
pub(crate) fn folder(dir: &Path, file: &str, config: &Value, load: impl Fn(VarBuilder)) {
    write(&dir.join("config.json"), config.to_string().as_bytes());
    weights(&dir.join(file), 7, load);
}
