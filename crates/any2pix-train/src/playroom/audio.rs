//! Sounds as they come out of packages: decoded to 16 kHz mono, trimmed, kept as WAV.

use std::path::Path;

use any2pix_encoders::audio::AudioLimits;
use any2pix_encoders::resample::resample;

use super::error::{PlayroomError, Result};

/// The rate of every sound in the Playroom.
pub const SAMPLE_RATE: u32 = 16_000;

/// Decodes WAV, FLAC, OGG or MP3 `bytes` to 16 kHz mono; `path` names them in errors.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Vec<f32>> {
    let name = path.display().to_string();
    let wave = any2pix_encoders::audio::decode(&name, bytes, &AudioLimits::default())
        .map_err(PlayroomError::format(path))?;
    Ok(resample(&wave.mono(), wave.sample_rate, SAMPLE_RATE))
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
    fn trimming_removes_silence_and_limits_the_length() {
        let mut samples = vec![0.0; 8000];
        samples.extend(tone(300.0, SAMPLE_RATE, 2.0));
        samples.extend(vec![0.0; 8000]);
        let kept = trim(&samples, 1.5);
        assert_eq!(kept.len(), 24_000);
        assert!(kept[..200].iter().any(|s| s.abs() > 0.1));
    }
}
