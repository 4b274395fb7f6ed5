//! What ImageBind sees and hears: pictures as normalised squares, sounds as log-mel clips.

use candle_core::{Device, Result, Tensor};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::audio::Waveform;
use crate::clip_vision::{CLIP_MEAN, CLIP_STD, normalised};
use crate::fbank::Fbank;
use crate::resize::{Filter, center_crop, resize_short_side};

/// Short side to `side`, the middle square of it, normalised as CLIP does.
///
/// # Shapes
/// → `(3, side, side)`, f32.
pub fn vision_input(picture: &RgbImage, side: usize) -> Result<Tensor> {
    let side = side as u32;
    let resized = resize_short_side(picture, side, Filter::Bicubic);
    let square = center_crop(&resized, (side, side));
    normalised(&square, CLIP_MEAN, CLIP_STD)
}

/// Where the clips of a sound start, `T` seconds long, clips `d` seconds each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipSpacing {
    /// The last clip ends with the sound: starts `i·(T-d)/(n-1)`. What ImageBind pins.
    #[default]
    ToTheEnd,
    /// The last clip ends earlier: starts `i·(T-d)/n`. What pytorchvideo 0.1.5 does, which is
    /// what InstructAny2Pix's own requirements install.
    BeforeTheEnd,
}

/// How a sound becomes clips.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AudioTransform {
    /// Mel bins.
    pub num_mel_bins: usize,
    /// Frames of a clip.
    pub target_length: usize,
    /// In hertz.
    pub sample_rate: u32,
    /// Seconds.
    pub clip_duration: u32,
    /// How many clips.
    pub clips_per_video: usize,
    /// Subtracted from the log-mels.
    pub mean: f32,
    /// Divides them.
    pub std: f32,
    /// Where the clips start.
    pub clip_spacing: ClipSpacing,
}

impl Default for AudioTransform {
    fn default() -> Self {
        Self {
            num_mel_bins: 128,
            target_length: 204,
            sample_rate: 16_000,
            clip_duration: 2,
            clips_per_video: 3,
            mean: -4.268,
            std: 9.138,
            clip_spacing: ClipSpacing::default(),
        }
    }
}

impl AudioTransform {
    /// Where the clips of `samples` samples start and end.
    ///
    /// The reference computes with the exact fraction of a rounded double, so that a start may
    /// differ by one sample from the obvious integer division; this does the same.
    pub fn clips(&self, samples: usize) -> Vec<std::ops::Range<usize>> {
        const ONE: f64 = (1u64 << 52) as f64;
        let rate = i128::from(self.sample_rate);
        let seconds = samples as f64 / f64::from(self.sample_rate);
        let room = (seconds - f64::from(self.clip_duration)).max(0.0);
        let divisor = match self.clip_spacing {
            ClipSpacing::ToTheEnd => self.clips_per_video.saturating_sub(1).max(1),
            ClipSpacing::BeforeTheEnd => self.clips_per_video.max(1),
        };
        let length = (self.sample_rate * self.clip_duration) as usize;
        (0..self.clips_per_video)
            .map(|index| {
                let numerator = (room * ONE) as i128 * rate * index as i128;
                let start = (numerator / (divisor as i128 * ONE as i128)) as usize;
                start.min(samples)..(start + length).min(samples)
            })
            .collect()
    }

    /// The log-mel clips of a sound at any rate.
    ///
    /// The mean of each clip over all channels is subtracted in place, so that clips that
    /// overlap see it subtracted before; the spectrum is of the first channel. Both are the
    /// reference's.
    ///
    /// # Shapes
    /// → `(clips_per_video, 1, num_mel_bins, target_length)`, f32.
    pub fn apply(&self, waveform: &Waveform) -> Result<Tensor> {
        let mut channels = waveform.resampled(self.sample_rate).channels;
        let fbank = Fbank::new(self.sample_rate, self.num_mel_bins);
        let mut values = Vec::new();
        for clip in self.clips(channels.first().map_or(0, Vec::len)) {
            subtract_mean(&mut channels, clip.clone());
            let first = channels.first().map_or(&[][..], |c| &c[clip]);
            self.push_clip(&fbank, first, &mut values);
        }
        let shape = (self.clips_per_video, 1, self.num_mel_bins, self.target_length);
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    /// The log-mel of one clip that is at the right rate already: what training uses.
    ///
    /// # Shapes
    /// `samples` `(n)` → `(1, num_mel_bins, target_length)`, f32.
    pub fn clip(&self, fbank: &Fbank, samples: &[f32]) -> Result<Tensor> {
        let mut channels = [samples.to_vec()];
        subtract_mean(&mut channels, 0..samples.len());
        let mut values = Vec::new();
        self.push_clip(fbank, &channels[0], &mut values);
        Tensor::from_vec(values, (1, self.num_mel_bins, self.target_length), &Device::Cpu)
    }

    /// Pads with zeros, before normalising, or cuts to the target length.
    fn push_clip(&self, fbank: &Fbank, samples: &[f32], values: &mut Vec<f32>) {
        for row in fbank.compute(samples) {
            let padded = row.into_iter().chain(std::iter::repeat(0.0)).take(self.target_length);
            values.extend(padded.map(|v| (v - self.mean) / self.std));
        }
    }
}

fn subtract_mean(channels: &mut [Vec<f32>], clip: std::ops::Range<usize>) {
    let count = (clip.len() * channels.len()).max(1) as f64;
    let sum: f64 =
        channels.iter().flat_map(|c| &c[clip.clone()]).map(|&sample| f64::from(sample)).sum();
    let mean = (sum / count) as f32;
    for channel in channels.iter_mut() {
        for sample in &mut channel[clip.clone()] {
            *sample -= mean;
        }
    }
}
