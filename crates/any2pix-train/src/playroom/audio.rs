//! Sounds as they come out of packages: decoding, resampling to 16 kHz mono, trimming, WAV.

use std::io::Cursor;
use std::path::Path;

use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error as DecodeError;
use symphonia::core::formats::probe::Hint as FormatHint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::error::{PlayroomError, Result};

/// The rate of every sound in the Playroom.
pub const SAMPLE_RATE: u32 = 16_000;

/// Samples of one channel at their own rate.
pub struct Sound {
    /// Samples in `-1..1`.
    pub samples: Vec<f32>,
    /// Samples a second.
    pub rate: u32,
}

/// Decodes WAV, FLAC, OGG or MP3 `bytes` and mixes the channels into one.
pub fn decode(bytes: Vec<u8>, path: &Path) -> Result<Sound> {
    let wrong = PlayroomError::format::<DecodeError>;
    let mut hint = FormatHint::new();
    if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(if extension == "cat" { "wav" } else { extension });
    }
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let mut format = symphonia::default::get_probe()
        .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(wrong(path))?;
    let track = format
        .default_track(TrackType::Audio)
        .ok_or_else(|| PlayroomError::format(path)("no audio track"))?;
    let track_id = track.id;
    let parameters = track
        .codec_params
        .as_ref()
        .and_then(|parameters| parameters.audio())
        .ok_or_else(|| PlayroomError::format(path)("an unknown codec"))?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(wrong(path))?;
    let mut samples = Vec::new();
    let mut interleaved: Vec<f32> = Vec::new();
    let mut rate = 0;
    // Truncated last packets are common in old files: what was decoded until then is kept.
    while let Ok(Some(packet)) = format.next_packet() {
        if packet.track_id != track_id {
            continue;
        }
        let Ok(decoded) = decoder.decode(&packet) else { continue };
        rate = decoded.spec().rate();
        let channels = decoded.num_planes().max(1);
        decoded.copy_to_vec_interleaved(&mut interleaved);
        samples.extend(
            interleaved.chunks(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32),
        );
    }
    if rate == 0 {
        return Err(PlayroomError::format(path)("no samples"));
    }
    Ok(Sound { samples, rate })
}

/// Resamples with a Hann-windowed sinc that is cut at the lower of both Nyquist frequencies.
pub fn resample(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to || samples.is_empty() {
        return samples.to_vec();
    }
    const ZEROS: f64 = 12.0;
    let ratio = f64::from(to) / f64::from(from);
    let cutoff = ratio.min(1.0);
    let radius = ZEROS / cutoff;
    let length = (samples.len() as f64 * ratio).round() as usize;
    (0..length)
        .map(|position| {
            let centre = position as f64 / ratio;
            let first = (centre - radius).ceil().max(0.0) as usize;
            let last = ((centre + radius).floor() as usize).min(samples.len() - 1);
            let sum: f64 = (first..=last)
                .map(|i| {
                    let distance = i as f64 - centre;
                    f64::from(samples[i]) * sinc(distance * cutoff) * hann(distance / radius)
                })
                .sum();
            (sum * cutoff) as f32
        })
        .collect()
}

fn sinc(x: f64) -> f64 {
    let angle = std::f64::consts::PI * x;
    if angle.abs() < 1e-9 { 1.0 } else { libm::sin(angle) / angle }
}

fn hann(x: f64) -> f64 {
    if x.abs() >= 1.0 { 0.0 } else { 0.5 + 0.5 * libm::cos(std::f64::consts::PI * x) }
}

/// Cuts silence (50 dB below the peak) from both ends, then keeps at most `seconds`, faded out.
pub fn trim(samples: &[f32], seconds: f32) -> Vec<f32> {
    let peak = samples.iter().fold(0f32, |peak, sample| peak.max(sample.abs()));
    let audible = |sample: &f32| sample.abs() > peak * 0.003 && peak > 1e-4;
    let Some(first) = samples.iter().position(audible) else { return Vec::new() };
    let last = samples.iter().rposition(audible).unwrap_or(first);
    let longest = (seconds * SAMPLE_RATE as f32) as usize;
    let end = (last + 1).min(first + longest);
    let mut kept = samples[first..end].to_vec();
    let fade = (SAMPLE_RATE as usize / 50).min(kept.len() / 4);
    let length = kept.len();
    for (i, sample) in kept[length - fade..].iter_mut().enumerate() {
        *sample *= 1.0 - i as f32 / fade as f32;
    }
    kept
}

/// Scales so that the loudest sample is `peak`.
pub fn normalise(samples: &mut [f32], peak: f32) {
    let loudest = samples.iter().fold(0f32, |peak, sample| peak.max(sample.abs()));
    if loudest > 0.0 {
        samples.iter_mut().for_each(|sample| *sample *= peak / loudest);
    }
}

/// Writes 16 kHz mono 16-bit WAV.
pub fn write_wav(path: &Path, samples: &[f32]) -> Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).map_err(PlayroomError::format(path))?;
    for &sample in samples {
        let value = (sample.clamp(-1.0, 1.0) * 32767.0).round() as i16;
        writer.write_sample(value).map_err(PlayroomError::format(path))?;
    }
    writer.finalize().map_err(PlayroomError::format(path))
}

/// Reads what [`write_wav`] wrote.
pub fn read_wav(path: &Path) -> Result<Vec<f32>> {
    let mut reader = hound::WavReader::open(path).map_err(PlayroomError::format(path))?;
    reader
        .samples::<i16>()
        .map(|sample| sample.map(|value| f32::from(value) / 32767.0))
        .collect::<std::result::Result<_, _>>()
        .map_err(PlayroomError::format(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(frequency: f64, rate: u32, seconds: f64) -> Vec<f32> {
        (0..(f64::from(rate) * seconds) as usize)
            .map(|i| {
                let phase = std::f64::consts::TAU * frequency * i as f64 / f64::from(rate);
                libm::sin(phase) as f32
            })
            .collect()
    }

    #[test]
    fn resampling_keeps_tones_below_the_limit_and_drops_those_above() {
        let energy =
            |samples: &[f32]| samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32;
        let kept = resample(&tone(1000.0, 44_100, 0.2), 44_100, SAMPLE_RATE);
        assert_eq!(kept.len(), 3200);
        let expected = tone(1000.0, SAMPLE_RATE, 0.2);
        let worst = (400..2800).map(|i| (kept[i] - expected[i]).abs()).fold(0f32, f32::max);
        assert!(worst < 0.01, "{worst}");
        let dropped = resample(&tone(12_000.0, 44_100, 0.2), 44_100, SAMPLE_RATE);
        assert!(energy(&dropped[400..2800]) < 1e-4);
    }

    #[test]
    fn trimming_removes_silence_and_limits_the_length() {
        let mut samples = vec![0.0; 8000];
        samples.extend(tone(300.0, SAMPLE_RATE, 2.0));
        samples.extend(vec![0.0; 8000]);
        let kept = trim(&samples, 1.5);
        assert_eq!(kept.len(), 24_000);
        assert!(kept[..200].iter().any(|s| s.abs() > 0.1));
    }
}
