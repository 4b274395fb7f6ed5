//! `Eyes`: the judge, trained apart from what it judges, and the model's own encoder.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::{ImageBindModel, JudgeConfig, ObjectClassifier};
use any2pix_nn::Checkpoint;
use candle_core::{D, DType, Device};
use image::RgbImage;

use crate::perception::Perception;
use crate::{EvalError, Result};

/// A judge that names crops, and an encoder that embeds pictures.
pub struct Eyes {
    judge: ObjectClassifier,
    encoder: Arc<ImageBindModel>,
}

impl Eyes {
    /// The judge in the folder `judge` (`config.json`, `model.safetensors`).
    pub fn open(judge: &Path, encoder: Arc<ImageBindModel>) -> Result<Self> {
        let path = judge.join("config.json");
        let text = fs::read_to_string(&path).map_err(EvalError::io(&path))?;
        let config: JudgeConfig =
            serde_json::from_str(&text).map_err(|e| EvalError::malformed(&path, e))?;
        let checkpoint = Checkpoint::open(judge.join("model.safetensors"))?;
        let judge = ObjectClassifier::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
        checkpoint.finish(&[])?;
        Ok(Self { judge, encoder })
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
}
