//! Stage `vae`: the patch codec, started as the principal components of patches.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use any2pix_diffusion::patch_codec::patchify;
use any2pix_diffusion::{Autoencoder, PatchCodec, PatchCodecConfig};
use any2pix_nn::{Generator, Parameters};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::Deserialize;

use super::component;
use super::pictures::{contact_sheet, psnr, to_pictures, to_tensor};
use super::windows::any_view;
use crate::playroom::World;
use crate::playroom::splits::Split;
use crate::prefetch::Prefetch;
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss};

/// Numbers under `[recipe]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VaeSettings {
    /// Weight of the divergence from the standard normal.
    kl_weight: f64,
    /// Pictures that the principal components are taken from.
    pca_scenes: usize,
}

/// Log variance of a fresh encoder: little noise beside unit-variance means.
const FRESH_LOGVAR: f32 = -5.0;
/// Pictures that `evaluate` looks at.
const HELD_OUT: usize = 48;

/// The stage.
pub struct VaeRecipe {
    parameters: Parameters,
    codec: PatchCodec,
    settings: VaeSettings,
    batches: Prefetch<Vec<RgbImage>>,
    world: Arc<World>,
}

impl VaeRecipe {
    /// Opens the world and starts the codec as principal components.
    pub fn open(context: &StageContext) -> Result<Self> {
        let settings: VaeSettings = context.settings.recipe()?;
        let world = Arc::new(World::open(&context.data).map_err(component::misfit)?);
        let config: PatchCodecConfig = component::config(&context.model, "vae")?;
        let seed = context.settings.seed;
        let parameters = Parameters::new(seed);
        let codec = PatchCodec::load(parameters.builder(&Device::Cpu), &config)
            .map_err(component::misfit)?;
        let mut generator = Generator::new(seed).fork("principal components");
        let scenes: Vec<RgbImage> = (0..settings.pca_scenes)
            .map(|_| any_view(&world, Split::Train, &mut generator))
            .collect();
        let fresh = principal_components(&to_tensor(&scenes)?, config.latent_channels)?;
        parameters.assign(&fresh)?;
        let (batch, shared) = (context.settings.batch, world.clone());
        let batches = Prefetch::new(seed, 1, 4, move |_, generator| {
            Ok((0..batch).map(|_| any_view(&shared, Split::Train, generator)).collect())
        });
        Ok(Self { parameters, codec, settings, batches, world })
    }

    fn held_out(&self, count: usize, generator: &mut Generator) -> Result<Tensor> {
        let pictures: Vec<RgbImage> =
            (0..count).map(|_| any_view(&self.world, Split::HeldOut, generator)).collect();
        to_tensor(&pictures)
    }

    fn round_trip(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok(self.codec.decode(&self.codec.encode(pictures)?.mean)?.clamp(-1.0, 1.0)?.detach())
    }
}

impl Recipe for VaeRecipe {
    fn name(&self) -> &str {
        "vae"
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, step: u64, generator: &mut Generator) -> Result<StepLoss> {
        let pictures = to_tensor(&self.batches.batch(step)?)?;
        let samples = pictures.dim(0)?;
        let distribution = self.codec.encode(&pictures)?;
        let noise = generator.randn_like(&distribution.mean)?;
        let decoded = self.codec.decode(&distribution.sample(&noise)?)?;
        let difference = (decoded - &pictures)?;
        let (l1, l2) = (difference.abs()?.mean_all()?, difference.sqr()?.mean_all()?);
        let edges = gradient_l1(&difference)?;
        let kl = distribution.kl()?;
        let error = f64::from(l2.to_scalar::<f32>()?);
        let variance = distribution.mean.sqr()?.mean_all()?.to_scalar::<f32>()?;
        let loss = (((l1 + edges)? + (l2 * 0.5)?)? + (kl * self.settings.kl_weight)?)?;
        Ok(StepLoss::new(loss, samples)
            .log("psnr", psnr(error))
            .log("latent_variance", f64::from(variance)))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let mut error = 0.0;
        for _ in 0..HELD_OUT / 8 {
            let pictures = self.held_out(8, generator)?;
            let difference = (self.round_trip(&pictures)? - pictures)?;
            error += f64::from(difference.sqr()?.mean_all()?.to_scalar::<f32>()?);
        }
        Ok(vec![("held_out_psnr".into(), psnr(error / (HELD_OUT / 8) as f64))])
    }

    fn sample(&mut self, dir: &Path, generator: &mut Generator) -> Result<()> {
        let pictures = self.held_out(8, generator)?;
        let rows = [to_pictures(&pictures)?, to_pictures(&self.round_trip(&pictures)?)?];
        contact_sheet(&rows, &dir.join("round_trip.png"))
    }

    fn export(&self, dir: &Path) -> Result<()> {
        component::export(dir, "vae", &self.parameters)
    }
}

/// Mean absolute difference of neighbouring values, at three scales.
///
/// # Shapes
/// `difference` `(b, 3, h, w)` → a scalar.
fn gradient_l1(difference: &Tensor) -> candle_core::Result<Tensor> {
    let mut total = Tensor::zeros((), DType::F32, difference.device())?;
    let mut level = difference.clone();
    for _ in 0..3 {
        let (_, _, h, w) = level.dims4()?;
        let down = (level.narrow(2, 1, h - 1)? - level.narrow(2, 0, h - 1)?)?;
        let across = (level.narrow(3, 1, w - 1)? - level.narrow(3, 0, w - 1)?)?;
        total = ((total + down.abs()?.mean_all()?)? + across.abs()?.mean_all()?)?;
        let (b, c) = (level.dim(0)?, level.dim(1)?);
        level = level.reshape((b, c, h / 2, 2, w / 2, 2))?.mean((3, 5))?;
    }
    Ok(total)
}

/// The codec's linear layers as the whitened principal components of 8×8 patches.
///
/// # Shapes
/// `pictures` `(n, 3, h, w)` in `[-1, 1]`.
fn principal_components(
    pictures: &Tensor,
    channels: usize,
) -> candle_core::Result<HashMap<String, Tensor>> {
    let device = pictures.device();
    let patches = patchify(&pictures.permute((0, 2, 3, 1))?.contiguous()?, 8)?;
    let patches = patches.flatten_to(2)?; // (patches, 192)
    let (count, size) = patches.dims2()?;
    let mean = patches.mean_keepdim(0)?;
    let centred = patches.broadcast_sub(&mean)?.to_dtype(DType::F64)?;
    let covariance = (centred.t()?.matmul(&centred)? / count as f64)?;
    let (values, vectors) = leading_eigenvectors(&covariance.to_vec2::<f64>()?, channels);
    let mean = mean.flatten_all()?.to_vec1::<f32>()?;
    let (mut encoder, mut encoder_bias) = (Vec::new(), Vec::new());
    let mut decoder = vec![0f32; size * channels];
    for (channel, (value, vector)) in values.iter().zip(&vectors).enumerate() {
        let deviation = value.max(1e-9).sqrt();
        let row: Vec<f32> = vector.iter().map(|v| (v / deviation) as f32).collect();
        encoder_bias.push(-row.iter().zip(&mean).map(|(a, b)| a * b).sum::<f32>());
        encoder.extend(row);
        for (pixel, v) in vector.iter().enumerate() {
            decoder[pixel * channels + channel] = (v * deviation) as f32;
        }
    }
    encoder.resize(2 * channels * size, 0.0);
    encoder_bias.resize(2 * channels, FRESH_LOGVAR);
    Ok(HashMap::from([
        ("encoder.linear.weight".into(), Tensor::from_vec(encoder, (2 * channels, size), device)?),
        ("encoder.linear.bias".into(), Tensor::from_vec(encoder_bias, 2 * channels, device)?),
        ("decoder.linear.weight".into(), Tensor::from_vec(decoder, (size, channels), device)?),
        ("decoder.linear.bias".into(), Tensor::from_vec(mean, size, device)?),
    ]))
}

/// The largest eigenvalues of a symmetric matrix, and their vectors, by orthogonal iteration.
fn leading_eigenvectors(matrix: &[Vec<f64>], count: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    const ITERATIONS: usize = 150;
    let size = matrix.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let mut generator = Generator::new(0);
    let mut vectors: Vec<Vec<f64>> =
        (0..count).map(|_| (0..size).map(|_| f64::from(generator.normal())).collect()).collect();
    let mut values = vec![0.0; count];
    for _ in 0..ITERATIONS {
        let mut next: Vec<Vec<f64>> =
            vectors.iter().map(|v| matrix.iter().map(|row| dot(row, v)).collect()).collect();
        for (i, value) in values.iter_mut().enumerate() {
            let (done, rest) = next.split_at_mut(i);
            let vector = &mut rest[0];
            for earlier in done.iter() {
                let shared = dot(earlier, vector);
                vector.iter_mut().zip(earlier).for_each(|(v, e)| *v -= shared * e);
            }
            *value = dot(vector, vector).sqrt();
            let length = value.max(1e-30);
            vector.iter_mut().for_each(|v| *v /= length);
        }
        vectors = next;
    }
    (values, vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_components_of_what_they_were_taken_from_give_it_back() {
        // pictures that are a flat colour plus one ramp need four components
        let mut generator = Generator::new(2);
        let pictures: Vec<RgbImage> = (0..12)
            .map(|_| {
                let colour: [f32; 3] = std::array::from_fn(|_| generator.uniform_in(60.0, 180.0));
                let slope = generator.uniform_in(-8.0, 8.0);
                RgbImage::from_fn(8, 8, |x, _| {
                    image::Rgb(colour.map(|c| (c + slope * (x as f32 - 3.5)).round() as u8))
                })
            })
            .collect();
        let config = PatchCodecConfig {
            latent_channels: 4,
            block_out_channels: [8, 8],
            layers_per_block: 1,
            norm_num_groups: 4,
            scaling_factor: 1.0,
        };
        let parameters = Parameters::new(1);
        let codec = PatchCodec::load(parameters.builder(&Device::Cpu), &config).unwrap();
        let batch = to_tensor(&pictures).unwrap();
        assert!(parameters.assign(&principal_components(&batch, 4).unwrap()).unwrap().is_empty());
        let latents = codec.encode(&batch).unwrap().mean;
        let error = (codec.decode(&latents).unwrap() - &batch).unwrap().abs().unwrap();
        let worst = error.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 0.02, "{worst}");
        let variance = latents.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }
}
