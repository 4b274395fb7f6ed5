//! Autoencoder cases.

use any2pix_nn::golden::{GoldenCase, Outputs};
use candle_core::{DType, Device};

use super::finish;
use crate::{
    Autoencoder, AutoencoderKL, AutoencoderKLConfig, DiagonalGaussian, DiffusionError, parse_config,
};

pub(super) fn run(case: &GoldenCase) -> Result<Outputs, DiffusionError> {
    let config: AutoencoderKLConfig = parse_config("AutoencoderKL", &case.config)?;
    let checkpoint = case.weights()?;
    let vae = AutoencoderKL::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
    finish(&checkpoint, &[])?;
    let mut outputs = Outputs::new();
    let image = case.input("image")?;
    let moments = vae.moments(&image)?;
    let distribution = DiagonalGaussian::from_moments(&moments)?;
    let decoded_mean = vae.decode(&distribution.mean)?;
    let mut put = |name: &str, tensor| outputs.insert(name.to_string(), tensor);
    put("latent_scaled", vae.image_to_latents(&image, None)?);
    put("decoded_mean", decoded_mean);
    put("std", distribution.std()?);
    if let Some(noise) = case.input_maybe("noise") {
        put("sample", distribution.sample(&noise)?);
    }
    if let Some(latent) = case.input_maybe("latent") {
        put("decoded", vae.decode(&latent)?);
    }
    put("moments", moments);
    put("mean", distribution.mean);
    put("logvar", distribution.logvar);
    Ok(outputs)
}
