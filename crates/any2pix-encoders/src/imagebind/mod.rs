//! ImageBindModel: pictures, sounds and text in one space.

mod audio;
mod preprocess;
mod stem;
mod text;
mod transformer;
mod vision;

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use image::RgbImage;
use serde::{Deserialize, Serialize};

pub use audio::AudioTower;
pub use preprocess::{AudioTransform, ClipSpacing, vision_input};
pub use text::TextTower;
pub use vision::VisionTower;

use crate::audio::Waveform;

/// Logit scales are clipped here, as CLIP's.
const MAX_LOGIT_SCALE: f64 = 100.0;

/// Tensors of published checkpoints that this model does not read: other senses, and the causal
/// mask, which is a constant.
pub const IGNORED: &[&str] = &[
    "modality_preprocessors.depth.",
    "modality_preprocessors.thermal.",
    "modality_preprocessors.imu.",
    "modality_preprocessors.text.mask",
    "modality_trunks.depth.",
    "modality_trunks.thermal.",
    "modality_trunks.imu.",
    "modality_heads.depth.",
    "modality_heads.thermal.",
    "modality_heads.imu.",
    "modality_postprocessors.depth.",
    "modality_postprocessors.thermal.",
    "modality_postprocessors.imu.",
];

/// What of a trunk's tokens the head reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The class token, as published.
    #[default]
    Cls,
    /// The mean of all tokens.
    Mean,
}

impl Pooling {
    /// # Shapes
    /// `(b, n, dim)` → `(b, dim)`.
    fn of(self, hidden: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cls => hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous(),
            Self::Mean => hidden.mean(1),
        }
    }
}

/// Sizes of an [`ImageBindModel`]; what a file leaves out is ImageBind-huge's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageBindConfig {
    /// Side of the square picture.
    pub vision_image_size: usize,
    /// Frames, height and width of a patch.
    pub kernel_size: [usize; 3],
    /// How often the picture is repeated in time.
    pub video_frames: usize,
    /// Width of the vision tower.
    pub vision_embed_dim: usize,
    /// Its blocks.
    pub vision_num_blocks: usize,
    /// Its heads.
    pub vision_num_heads: usize,
    /// Channels of a stem of small convolutions in place of one convolution as large as a patch:
    /// of 4×4 pixels, then each at half the resolution of the one before. Empty in published
    /// models.
    pub vision_stem_channels: Vec<usize>,
    /// The same for sounds.
    pub audio_stem_channels: Vec<usize>,
    /// What of a picture's or sound's tokens becomes its embedding.
    pub pooling: Pooling,
    /// Side of an audio patch.
    pub audio_kernel_size: usize,
    /// Step between audio patches.
    pub audio_stride: usize,
    /// Mel bins.
    pub audio_num_mel_bins: usize,
    /// Frames of a clip.
    pub audio_target_len: usize,
    /// Width of the audio tower.
    pub audio_embed_dim: usize,
    /// Its blocks.
    pub audio_num_blocks: usize,
    /// Its heads.
    pub audio_num_heads: usize,
    /// How many clips of a sound are heard.
    pub audio_clips: usize,
    /// Where they start.
    pub audio_clip_spacing: ClipSpacing,
    /// Token ids.
    pub text_vocab_size: usize,
    /// Longest text, in tokens.
    pub text_context_length: usize,
    /// Width of the text tower.
    pub text_embed_dim: usize,
    /// Its blocks.
    pub text_num_blocks: usize,
    /// Its heads.
    pub text_num_heads: usize,
    /// Width of the common space.
    pub out_embed_dim: usize,
    /// Length of [`ImageBindModel::encode_images`]' vectors and of the others'.
    pub embedding_norm: f64,
}

impl Default for ImageBindConfig {
    fn default() -> Self {
        Self {
            vision_image_size: 224,
            kernel_size: [2, 14, 14],
            video_frames: 2,
            vision_embed_dim: 1280,
            vision_num_blocks: 32,
            vision_num_heads: 16,
            vision_stem_channels: Vec::new(),
            audio_stem_channels: Vec::new(),
            pooling: Pooling::default(),
            audio_kernel_size: 16,
            audio_stride: 10,
            audio_num_mel_bins: 128,
            audio_target_len: 204,
            audio_embed_dim: 768,
            audio_num_blocks: 12,
            audio_num_heads: 12,
            audio_clips: 3,
            audio_clip_spacing: ClipSpacing::default(),
            text_vocab_size: 49_408,
            text_context_length: 77,
            text_embed_dim: 1024,
            text_num_blocks: 24,
            text_num_heads: 16,
            out_embed_dim: 1024,
            embedding_norm: 20.0,
        }
    }
}

impl ImageBindConfig {
    /// How sounds become this model's clips.
    pub fn audio_transform(&self) -> AudioTransform {
        AudioTransform {
            num_mel_bins: self.audio_num_mel_bins,
            target_length: self.audio_target_len,
            clips_per_video: self.audio_clips,
            clip_spacing: self.audio_clip_spacing,
            ..AudioTransform::default()
        }
    }
}

/// The three towers.
#[derive(Clone, Debug)]
pub struct ImageBindModel {
    /// Pictures.
    pub vision: VisionTower,
    /// Sounds.
    pub audio: AudioTower,
    /// Text.
    pub text: TextTower,
    config: ImageBindConfig,
}

impl ImageBindModel {
    /// Builds the model; see [`IGNORED`] for what else published files hold.
    pub fn load(vb: VarBuilder, config: &ImageBindConfig) -> Result<Self> {
        Ok(Self {
            vision: VisionTower::load(vb.clone(), config)?,
            audio: AudioTower::load(vb.clone(), config)?,
            text: TextTower::load(vb, config)?,
            config: config.clone(),
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &ImageBindConfig {
        &self.config
    }

    /// # Shapes
    /// `n` pictures of any size → `(n, out_embed_dim)`, each row `embedding_norm` long.
    pub fn encode_images(&self, pictures: &[RgbImage]) -> Result<Tensor> {
        let side = self.config.vision_image_size;
        let inputs =
            pictures.iter().map(|p| vision_input(p, side)).collect::<Result<Vec<Tensor>>>()?;
        if inputs.is_empty() {
            return self.nothing();
        }
        self.to_norm(&self.vision.forward(&Tensor::stack(&inputs, 0)?)?)
    }

    /// # Shapes
    /// `n` sounds of any rate and length → `(n, out_embed_dim)`, each row `embedding_norm` long.
    pub fn encode_audio(&self, sounds: &[Waveform]) -> Result<Tensor> {
        let transform = self.config.audio_transform();
        let inputs = sounds.iter().map(|s| transform.apply(s)).collect::<Result<Vec<Tensor>>>()?;
        if inputs.is_empty() {
            return self.nothing();
        }
        self.to_norm(&self.audio.forward(&Tensor::stack(&inputs, 0)?)?)
    }

    /// The id that ends a text: the largest there is, since the tower reads at the largest.
    pub fn end_of_text(&self) -> u32 {
        (self.config.text_vocab_size as u32).saturating_sub(1)
    }

    /// Rows as the text tower takes them: closed with [`Self::end_of_text`] where they are not,
    /// cut in front of it to the context length, padded with 0.
    ///
    /// # Shapes
    /// `n` rows of token ids → `(n, longest)`, u32.
    pub fn text_input(&self, rows: &[Vec<u32>]) -> Result<Tensor> {
        let end = self.end_of_text();
        let closed = |row: &Vec<u32>| row.len() + usize::from(row.last() != Some(&end));
        let longest = rows.iter().map(closed).max().unwrap_or(0);
        let length = longest.clamp(1, self.config.text_context_length.max(1));
        let mut flat = Vec::with_capacity(rows.len() * length);
        for row in rows {
            let start = flat.len();
            flat.extend(row.iter().filter(|&&id| id != end).take(length - 1));
            flat.push(end);
            flat.resize(start + length, 0);
        }
        Tensor::from_vec(flat, (rows.len(), length), &Device::Cpu)
    }

    /// # Shapes
    /// `n` rows of token ids, as [`Self::text_input`] takes them → `(n, out_embed_dim)`, each row
    /// `embedding_norm` long.
    pub fn encode_text(&self, rows: &[Vec<u32>]) -> Result<Tensor> {
        if rows.is_empty() {
            return self.nothing();
        }
        self.to_norm(&self.text.forward(&self.text_input(rows)?)?)
    }

    fn nothing(&self) -> Result<Tensor> {
        Tensor::zeros((0, self.config.out_embed_dim), candle_core::DType::F32, &Device::Cpu)
    }

    fn to_norm(&self, embeddings: &Tensor) -> Result<Tensor> {
        transformer::normalize(embeddings)? * self.config.embedding_norm
    }
}
