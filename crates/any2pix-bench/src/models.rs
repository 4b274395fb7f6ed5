//! Whole models in their published sizes, and one edit by the model that this program carries.

use std::path::Path;

use any2pix_agent::request::Bindings;
use any2pix_agent::{EditRequest, EditSettings, Pipeline, Playroom, Silent};
use any2pix_diffusion::autoencoder::Autoencoder;
use any2pix_diffusion::autoencoder_kl::{AutoencoderKL, AutoencoderKLConfig};
use any2pix_diffusion::unet::{
    AddedConditions, Context, PerBlock, UNet2DConditionModel, UNet2DConditionModelConfig,
    UNetConditions,
};
use any2pix_encoders::imagebind::{ImageBindConfig, ImageBindModel};
use any2pix_nn::operations_so_far;
use any2pix_nn::ops::{Precision, PrecisionScope};
use candle_core::{Result, Tensor};
use image::{Rgb, RgbImage};

use crate::cases::numbers;
use crate::timing::{Bench, Failure, Outcome, Report, Work, peak_mb};
use crate::weights;

/// Side of the picture that is edited.
const SIDE: u32 = 512;
/// Text tokens of the CLIP encoders.
const TOKENS: usize = 77;

/// Reports a model in each precision: loaded, run, dropped.
fn model<M>(
    bench: &Bench<'_>,
    report: Report<'_>,
    shape: &str,
    load: impl Fn() -> std::result::Result<M, Failure>,
    forward: impl Fn(&M) -> Result<Tensor>,
) -> Outcome {
    for &precision in bench.precisions() {
        let _scope = PrecisionScope::new(precision);
        let model = load()?;
        let before = operations_so_far();
        forward(&model)?;
        let operations = (operations_so_far() - before) as f64;
        let seconds = bench.median(|| forward(&model).map(drop))?;
        let mut row = bench.row(shape.into(), precision, seconds, Work::Operations(operations));
        row.samples_per_s = Some(1.0 / seconds);
        row.peak_mb = peak_mb();
        if report(&row).is_break() {
            return Ok(std::ops::ControlFlow::Break(()));
        }
    }
    Ok(std::ops::ControlFlow::Continue(()))
}

/// SDXL's base, as published.
fn sdxl() -> UNet2DConditionModelConfig {
    let each = |values: &[usize]| PerBlock::Each(values.to_vec());
    let names = |values: [&str; 3]| values.map(String::from).to_vec();
    UNet2DConditionModelConfig {
        block_out_channels: vec![320, 640, 1280],
        down_block_types: names(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
        up_block_types: names(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
        attention_head_dim: each(&[5, 10, 20]),
        cross_attention_dim: 2048,
        transformer_layers_per_block: each(&[1, 2, 10]),
        use_linear_projection: true,
        addition_embed_type: Some("text_time".into()),
        addition_time_embed_dim: Some(256),
        projection_class_embeddings_input_dim: Some(2816),
        ..UNet2DConditionModelConfig::default()
    }
}

fn unet(bench: &Bench<'_>, report: Report<'_>, config: &UNet2DConditionModelConfig) -> Outcome {
    let sample = numbers(&[1, 4, 64, 64])?;
    let encoder_hidden_states = numbers(&[1, TOKENS, config.cross_attention_dim])?;
    let added = match config.has_text_time() {
        true => Some(AddedConditions {
            text_embeds: numbers(&[1, 1280])?,
            time_ids: (numbers(&[1, 6])?.abs()? * 512.0)?,
        }),
        false => None,
    };
    let context = Context { encoder_hidden_states, image_prompt: None, control: None };
    let conditions = UNetConditions { context, added };
    let load = || Ok(UNet2DConditionModel::load(weights::random(), config)?);
    model(bench, report, "1x4x64x64", load, |unet| unet.forward(&sample, &[500.0], &conditions))
}

pub(crate) fn unet_sd15(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    let config = UNet2DConditionModelConfig {
        cross_attention_dim: 768,
        ..UNet2DConditionModelConfig::default()
    };
    unet(bench, report, &config)
}

pub(crate) fn unet_sdxl(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    unet(bench, report, &sdxl())
}

pub(crate) fn vae_decode(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    let config = AutoencoderKLConfig {
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        ..AutoencoderKLConfig::default()
    };
    for (side, shape) in [(64, "1x4x64x64"), (128, "1x4x128x128")] {
        let latents = numbers(&[1, 4, side, side])?;
        let load = || Ok(AutoencoderKL::load(weights::random(), &config)?);
        if model(bench, &mut *report, shape, load, |vae| vae.decode(&latents))?.is_break() {
            return Ok(std::ops::ControlFlow::Break(()));
        }
    }
    Ok(std::ops::ControlFlow::Continue(()))
}

fn imagebind() -> std::result::Result<ImageBindModel, Failure> {
    Ok(ImageBindModel::load(weights::random(), &ImageBindConfig::default())?)
}

pub(crate) fn imagebind_image(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    let pictures = numbers(&[1, 3, 224, 224])?;
    model(bench, report, "1x3x224x224", imagebind, |model| model.vision.forward(&pictures))
}

pub(crate) fn imagebind_audio(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    let clips = numbers(&[1, 3, 1, 128, 204])?;
    model(bench, report, "1x3x1x128x204", imagebind, |model| model.audio.forward(&clips))
}

/// A meadow under a sky, drawn here so that nothing has to lie beside the program.
fn meadow() -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let grain = ((x * 7 + y * 13) % 11) as u8;
        let light = (y * 80 / SIDE) as u8;
        if y < SIDE / 2 {
            Rgb([120 + light, 170 + light, 230])
        } else {
            Rgb([60 + grain, 140 + grain, 50])
        }
    })
}

pub(crate) fn edit(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("meadow.png");
    meadow().save(&source)?;
    let instruction = format!("add a dog to [{}]", source.display());
    let edit = |pipeline: &Playroom| -> std::result::Result<(), Failure> {
        let mut settings = EditSettings::default();
        pipeline.components().index.settings.apply(&mut settings);
        let request = EditRequest::parse(&instruction, &Bindings::default(), settings)?;
        let outcome = pipeline.edit(&request, &mut Silent)?;
        Ok(outcome.save(Path::new(&dir.path().join("out.png")), std::slice::from_ref(&source))?)
    };
    let pipeline = Playroom::open("playroom", &[])?;
    let before = operations_so_far();
    edit(&pipeline)?;
    let operations = (operations_so_far() - before) as f64;
    let seconds = bench.median(|| edit(&pipeline))?;
    let shape = format!("{SIDE}x{SIDE}, model loaded");
    let mut row = bench.row(shape, Precision::F32, seconds, Work::Operations(operations));
    row.samples_per_s = Some(1.0 / seconds);
    row.peak_mb = peak_mb();
    Ok(report(&row))
}
