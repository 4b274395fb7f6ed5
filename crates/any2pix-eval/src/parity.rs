//! Runs this crate's recorded golden cases: the published metrics.

use any2pix_encoders::aesthetic::{self, AestheticConfig, AestheticPredictor};
use any2pix_encoders::clip::{self, ClipConfig, ClipModel};
use any2pix_encoders::clip_vision::{CLIP_MEAN, CLIP_STD};
use any2pix_encoders::dino::{self, Dino, DinoConfig};
use any2pix_encoders::image::{self as picture, ImageLimits};
use any2pix_encoders::resize::{self, Filter};
use any2pix_nn::golden::{GoldenCase, Outputs};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::de::DeserializeOwned;

use crate::metrics::retrieval::cosine;
use crate::metrics::{pixels, similarity, unfiltered};
use crate::{EvalError, Result};

/// Runs `case` when it is one of this crate's.
pub fn run(case: &GoldenCase) -> Option<Result<Outputs>> {
    let meta = &case.meta;
    match (meta.component.as_str(), meta.case.as_str()) {
        ("metrics", "pixel") => Some(pixel(case)),
        ("metrics", "clip") => Some(clip(case)),
        ("metrics", "dino") => Some(dino(case)),
        ("metrics", "aesthetic") => Some(aesthetic(case)),
        _ => None,
    }
}

fn config<T: DeserializeOwned>(case: &GoldenCase) -> Result<T> {
    serde_json::from_value(case.config.clone())
        .map_err(|e| EvalError::malformed(case.dir.join("config.json"), e))
}

fn decode(case: &GoldenCase, file: &str) -> Result<RgbImage> {
    let path = case.dir.join(file);
    let refused = |e| EvalError::malformed(&path, e);
    Ok(picture::open(&path, &ImageLimits::default()).map_err(refused)?.without_alpha())
}

fn outputs<const N: usize>(named: [(&str, Tensor); N]) -> Outputs {
    named.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
}

/// One number, as the cases record most of theirs.
///
/// # Shapes
/// → `(1)`.
fn one(value: f64) -> candle_core::Result<Tensor> {
    Tensor::new(&[value], &Device::Cpu)
}

fn pixel(case: &GoldenCase) -> Result<Outputs> {
    let reference = decode(case, "reference.png")?;
    let generated = decode(case, "generated.png")?;
    let resized = resize::resize(&generated, reference.dimensions(), Filter::Bicubic);
    let mut found = Outputs::new();
    if let Some((l1, l2)) = pixels::distances(&resized, &reference, pixels::Where::Everywhere) {
        found.insert("l1".to_string(), one(l1)?.squeeze(0)?);
        found.insert("l2".to_string(), one(l2)?.squeeze(0)?);
    }
    let (width, height) = (resized.width() as usize, resized.height() as usize);
    let levels = Tensor::from_vec(resized.into_raw(), (height, width, 3), &Device::Cpu)?;
    let fractions = (levels.permute((2, 0, 1))?.to_dtype(DType::F64)? / 255.0)?;
    found.insert("resized".to_string(), fractions);
    Ok(found)
}

/// What ClipSimilarity of InstructPix2Pix embeds of a recorded picture.
///
/// # Shapes
/// `image` `(1, 3, h, w)`, 0 to 1 → `(projection_dim)`.
fn unfiltered_features(
    model: &ClipModel,
    image: &Tensor,
    side: usize,
) -> candle_core::Result<Vec<f32>> {
    let small = unfiltered::resized(&image.squeeze(0)?, side)?;
    let input = unfiltered::normalised(&small, CLIP_MEAN, CLIP_STD)?;
    model.image_features(&input.unsqueeze(0)?)?.squeeze(0)?.to_vec1()
}

fn clip(case: &GoldenCase) -> Result<Outputs> {
    let checkpoint = case.weights()?;
    let config: ClipConfig = config(case)?;
    let model = ClipModel::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
    checkpoint.finish(clip::IGNORED)?;
    let vision = model.vision(&case.input("pixel_values")?)?;
    let image_features = model.image_features(&case.input("pixel_values")?)?;
    let text_features = model.text_features(&case.input("input_ids")?)?;
    let (images, texts) = (image_features.to_vec2::<f32>()?, text_features.to_vec2::<f32>()?);
    let ([before, after], [source, target]) = (images.as_slice(), texts.as_slice()) else {
        return Err(EvalError::malformed(&case.dir, "two pictures and two texts are compared"));
    };
    let side = config.vision_config.image_size;
    let seen = |name: &str| unfiltered_features(&model, &case.input(name)?, side);
    let (plain_before, plain_after) = (seen("image_before")?, seen("image_after")?);
    let scale = model.logit_scale()?;
    let scores = [before, after].map(|image| similarity::pick_score(scale, target, image));
    let (image_embeds, text_embeds) = (clip::unit(&image_features)?, clip::unit(&text_features)?);
    let logits = (image_embeds.matmul(&text_embeds.t()?)? * f64::from(scale))?;
    let direction = |images: [&[f32]; 2]| one(similarity::directional(images, [source, target]));
    let mut found = outputs([
        ("image_features", image_features),
        ("text_features", text_features),
        ("image_embeds_norm", image_embeds),
        ("text_embeds_norm", text_embeds),
        ("logits_per_image", logits),
        ("clip_i", one(cosine(before, after))?),
        ("clip_t_before", one(cosine(before, source))?),
        ("clip_t_after", one(cosine(after, target))?),
        ("clip_score_torchmetrics_after", one(similarity::clip_score(after, target))?),
        ("directional", direction([before, after])?),
        ("ip2p_sim_0", one(cosine(&plain_before, source))?),
        ("ip2p_sim_1", one(cosine(&plain_after, target))?),
        ("ip2p_sim_direction", direction([&plain_before, &plain_after])?),
        ("ip2p_sim_image", one(cosine(&plain_before, &plain_after))?),
        ("pickscore_scores", Tensor::new(&scores, &Device::Cpu)?),
        ("pickscore_probs", Tensor::new(similarity::preferences(&scores), &Device::Cpu)?),
    ]);
    let states = &vision.hidden_states;
    if let Some(penultimate) = states.len().checked_sub(2).and_then(|at| states.get(at)) {
        found.insert("vision_penultimate".to_string(), penultimate.clone());
    }
    found.insert("vision_last_hidden".to_string(), vision.last_hidden_state);
    Ok(found)
}

fn dino(case: &GoldenCase) -> Result<Outputs> {
    let checkpoint = case.weights()?;
    let model =
        Dino::load(checkpoint.builder(DType::F32, &Device::Cpu), &config::<DinoConfig>(case)?)?;
    checkpoint.finish(dino::IGNORED)?;
    let pair = [case.input("pixel_values_before")?, case.input("pixel_values_after")?];
    let hidden = model.forward(&Tensor::stack(&pair, 0)?)?;
    let cls = hidden.narrow(1, 0, 1)?.squeeze(1)?;
    let rows = cls.to_vec2::<f32>()?;
    let likeness = match rows.as_slice() {
        [before, after] => cosine(before, after),
        _ => f64::NAN,
    };
    let last_hidden = hidden.narrow(0, 0, 1)?;
    Ok(outputs([("cls", cls), ("last_hidden", last_hidden), ("sim", one(likeness)?)]))
}

fn aesthetic(case: &GoldenCase) -> Result<Outputs> {
    let checkpoint = case.weights()?;
    let config: AestheticConfig = config(case)?;
    let model = AestheticPredictor::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
    checkpoint.finish(&[])?;
    let normalized = aesthetic::normalised(&case.input("clip_embedding")?)?;
    let score = model.forward(&normalized)?;
    Ok(outputs([("normalized", normalized), ("score", score)]))
}
