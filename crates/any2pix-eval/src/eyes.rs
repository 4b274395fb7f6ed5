//! `Eyes`: the judge, trained apart from what it judges, and the embedded model's encoder.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use any2pix_agent::Reference;
use any2pix_agent::components::Components;
use any2pix_agent::inputs::{self, Media};
use any2pix_agent::outcome::{sha256, sha256_of_file};
use any2pix_encoders::{ImageBindModel, JudgeConfig, ObjectClassifier};
use any2pix_nn::Checkpoint;
use candle_core::{D, DType, Device};
use image::RgbImage;

use crate::perception::Perception;
use crate::{EvalError, Result};

/// A judge that names crops, and an encoder that embeds pictures, words and sounds.
pub struct Eyes {
    judge: ObjectClassifier,
    encoder: Arc<ImageBindModel>,
    components: Arc<Components>,
    fingerprint: String,
}

impl Eyes {
    /// The judge in the folder `judge` (`config.json`, `model.safetensors`), and the encoder of
    /// `components`: the same for all models that are compared.
    pub fn open(judge: &Path, components: Arc<Components>) -> Result<Self> {
        let path = judge.join("config.json");
        let text = fs::read_to_string(&path).map_err(EvalError::io(&path))?;
        let config: JudgeConfig =
            serde_json::from_str(&text).map_err(|e| EvalError::malformed(&path, e))?;
        let weights = judge.join("model.safetensors");
        let hash = sha256_of_file(&weights).map_err(EvalError::io(&weights))?;
        let checkpoint = Checkpoint::open(weights)?;
        let judge = ObjectClassifier::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
        checkpoint.finish(&[])?;
        let encoder = components.imagebind()?;
        let fingerprint = sha256(
            format!("{} {hash} {}", sha256(text.as_bytes()), components.encoder_hash()?).as_bytes(),
        );
        Ok(Self { judge, encoder, components, fingerprint })
    }

    /// SHA-256 over everything that they judge by.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl Perception for Eyes {
    fn name(&self, crops: &[RgbImage]) -> Result<Vec<Option<String>>> {
        if crops.is_empty() {
            return Ok(Vec::new());
        }
        let best = self.judge.look(crops)?.logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let concepts = &self.judge.config().concepts;
        Ok(best.into_iter().map(|class| concepts.get(class as usize).cloned()).collect())
    }

    fn knows(&self, concept: &str) -> bool {
        self.judge.config().concepts.iter().any(|known| known == concept)
    }

    fn recognise(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>> {
        Ok(self.judge.look(pictures)?.likeness.to_vec2()?)
    }

    fn embed(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>> {
        Ok(self.encoder.encode_images(pictures)?.to_vec2()?)
    }

    fn embed_text(&self, text: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.components.spoken(&[text])?.to_vec2()?.into_iter().next())
    }

    fn hear(&self, file: &Path) -> Result<Option<Vec<f32>>> {
        let bytes = fs::read(file).map_err(EvalError::io(file))?;
        let name = file.display().to_string();
        let reference = Reference { name, path: None, bytes: bytes.into() };
        let media = inputs::decode(&reference)?;
        let is_sound = matches!(media, Media::Audio(_));
        Ok(is_sound.then(|| inputs::embed(&self.encoder, &media)).transpose()?)
    }
}
