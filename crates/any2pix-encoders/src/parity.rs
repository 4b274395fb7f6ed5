//! Runs this crate's recorded golden cases: imagebind, clip_text, preprocess, tokenizers/clip.

use any2pix_nn::golden::{GoldenCase, Outputs};
use any2pix_nn::tap;
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::audio::{self, AudioLimits};
use crate::clip_text::{ClipTextConfig, ClipTextModel};
use crate::clip_tokenizer::{ClipTokenizer, Padding};
use crate::error::EncoderError;
use crate::image::{self as picture, ImageLimits};
use crate::imagebind::{self, AudioTransform, ClipSpacing, ImageBindConfig, ImageBindModel};
use crate::resize;

/// Runs `case` when it is one of this crate's.
pub fn run(case: &GoldenCase) -> Option<Result<Outputs, EncoderError>> {
    let has = |file: &str| case.dir.join(file).is_file();
    match case.meta.component.as_str() {
        "imagebind" if has("weights.safetensors") => Some(imagebind_model(case)),
        "imagebind" if has("in.png") => Some(imagebind_vision(case)),
        "imagebind" if has("in.wav") => Some(imagebind_audio(case)),
        "imagebind" => Some(imagebind_tokens(case)),
        "clip_text" => Some(clip_text(case)),
        "preprocess" => Some(resize_and_crop(case)),
        "tokenizers" if has("merges.txt") => Some(clip_tokens(case)),
        _ => None,
    }
}

fn config<T: DeserializeOwned>(
    case: &GoldenCase,
    component: &'static str,
) -> Result<T, EncoderError> {
    serde_json::from_value(case.config.clone())
        .map_err(|e| EncoderError::Config { component, reason: e.to_string() })
}

fn number(value: &Value, key: &str, otherwise: u64) -> usize {
    value.get(key).and_then(Value::as_u64).unwrap_or(otherwise) as usize
}

fn imagebind_model(case: &GoldenCase) -> Result<Outputs, EncoderError> {
    let checkpoint = case.weights()?;
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    let model = ImageBindModel::load(vb, &config::<ImageBindConfig>(case, "imagebind")?)?;
    checkpoint.finish(imagebind::IGNORED)?;
    let (embeds, taps) = tap::capture(|| -> candle_core::Result<Vec<(&str, Tensor)>> {
        let mut embeds = Vec::new();
        if let Some(pictures) = case.input_maybe("vision") {
            embeds.push(("vision_embeds", model.vision.forward(&pictures)?));
        }
        if let Some(sounds) = case.input_maybe("audio") {
            embeds.push(("audio_embeds", model.audio.forward(&sounds)?));
        }
        if let Some(ids) = case.input_maybe("text") {
            embeds.push(("text_embeds", model.text.forward(&ids)?));
        }
        Ok(embeds)
    });
    let embeds = embeds?.into_iter().map(|(name, tensor)| (name.to_string(), tensor));
    Ok(embeds.chain(taps).collect())
}

fn decode(case: &GoldenCase, file: &str) -> Result<RgbImage, EncoderError> {
    Ok(picture::open(case.dir.join(file), &ImageLimits::default())?.without_alpha())
}

fn imagebind_vision(case: &GoldenCase) -> Result<Outputs, EncoderError> {
    let side = number(&case.config, "image_size", 224);
    let input = imagebind::vision_input(&decode(case, "in.png")?, side)?;
    Ok(Outputs::from([("vision".to_string(), input.unsqueeze(0)?)]))
}

fn imagebind_audio(case: &GoldenCase) -> Result<Outputs, EncoderError> {
    let waveform = audio::open(case.dir.join("in.wav"), &AudioLimits::default())?;
    let to_the_end: AudioTransform = config(case, "imagebind")?;
    let before_the_end =
        AudioTransform { clip_spacing: ClipSpacing::BeforeTheEnd, ..to_the_end.clone() };
    let resampled = waveform.resampled(to_the_end.sample_rate);
    let shape = (resampled.channels.len(), resampled.frames());
    let samples = Tensor::from_vec(resampled.channels.concat(), shape, &Device::Cpu)?;
    Ok(Outputs::from([
        ("audio".to_string(), to_the_end.apply(&waveform)?.unsqueeze(0)?),
        ("audio_pypi015".to_string(), before_the_end.apply(&waveform)?.unsqueeze(0)?),
        ("resampled".to_string(), samples),
    ]))
}

fn texts(value: &Value, key: &'static str) -> Result<Vec<String>, EncoderError> {
    serde_json::from_value(value.get(key).cloned().unwrap_or_default())
        .map_err(|e| EncoderError::Config { component: "texts", reason: format!("{key}: {e}") })
}

fn token_rows(
    tokenizer: &ClipTokenizer,
    texts: &[String],
    padding: Padding,
) -> Result<Tensor, EncoderError> {
    let mut rows = Vec::new();
    for text in texts {
        let ids: Vec<i64> = tokenizer.encode(text, padding)?.into_iter().map(i64::from).collect();
        rows.push(Tensor::new(ids, &Device::Cpu)?);
    }
    Ok(Tensor::stack(&rows, 0)?)
}

fn imagebind_tokens(case: &GoldenCase) -> Result<Outputs, EncoderError> {
    let rows = token_rows(&ClipTokenizer::new()?, &texts(&case.config, "texts")?, Padding::Zero)?;
    Ok(Outputs::from([("tokens".to_string(), rows)]))
}

fn clip_tokens(case: &GoldenCase) -> Result<Outputs, EncoderError> {
    let path = case.dir.join("prompts.json");
    let bytes = std::fs::read(&path).map_err(|source| EncoderError::Unreadable { path, source })?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| EncoderError::Config { component: "prompts.json", reason: e.to_string() })?;
    let prompts = texts(&value, "prompts")?;
    let tokenizer = ClipTokenizer::open(case.dir.join("merges.txt"), 77)?;
    let mut outputs = Outputs::new();
    for (name, padding) in [("pad_eos", Padding::End), ("pad_excl", Padding::Exclamation)] {
        let rows = token_rows(&tokenizer, &prompts, padding)?;
        outputs.insert(format!("{name}_fast"), rows.clone());
        outputs.insert(name.to_string(), rows);
    }
    Ok(outputs)
}

fn clip_text(case: &GoldenCase) -> Result<Outputs, EncoderError> {
    let checkpoint = case.weights()?;
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    let model = ClipTextModel::load(vb, &config::<ClipTextConfig>(case, "clip_text")?)?;
    checkpoint.finish(&["text_model.embeddings.position_ids"])?;
    let output = model.forward(&case.input("input_ids")?)?;
    let mut outputs = Outputs::from([
        ("penultimate".to_string(), output.penultimate()?.clone()),
        ("last_hidden_state".to_string(), output.last_hidden_state),
        ("pooler_output".to_string(), output.pooler_output),
    ]);
    outputs.extend(output.text_embeds.map(|t| ("text_embeds".to_string(), t)));
    let hidden = output.hidden_states.into_iter().enumerate();
    outputs.extend(hidden.map(|(i, tensor)| (format!("hidden{i}"), tensor)));
    Ok(outputs)
}

/// 8-bit pixels as the cases store them.
///
/// # Shapes
/// → `(3, h, w)`, i64.
fn grey_levels(picture: &RgbImage) -> candle_core::Result<Tensor> {
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    let levels: Vec<i64> = picture.as_raw().iter().map(|&v| i64::from(v)).collect();
    Tensor::from_vec(levels, (h, w, 3), &Device::Cpu)?.permute((2, 0, 1))?.contiguous()
}

fn resize_and_crop(case: &GoldenCase) -> Result<Outputs, EncoderError> {
    let side = number(&case.config, "size", 1024) as u32;
    let width = number(&case.config, "icedit_width", 512) as u32;
    let mut outputs = Outputs::new();
    for (k, file) in texts(&case.config, "images")?.iter().enumerate() {
        let source = decode(case, file)?;
        let crop = resize::resize_and_crop(&source, (side, side));
        let last = resize::base_image(&source, (side, side));
        let icedit = resize::resize_to_width(&source, width);
        outputs.insert(format!("crop{k}"), grey_levels(&crop)?);
        outputs.insert(format!("final{k}"), grey_levels(&last)?);
        outputs.insert(format!("icedit{width}_{k}"), grey_levels(&icedit)?);
    }
    Ok(outputs)
}
