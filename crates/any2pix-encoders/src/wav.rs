//! WAV files: the chunk walk and the sample formats, bounded by the bytes that are really there.
//!
//! Written out because recorders and streams lie in the header (sizes of 0 or 2³²-1), and what
//! they lie about is exactly what must not be believed.

use crate::audio::{AudioLimits, Waveform, check_format};
use crate::error::{MediaError, Stage};

/// How a sample is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Integer { bytes: usize },
    Float32,
    Float64,
    ALaw,
    MuLaw,
}

impl Encoding {
    fn bytes(self) -> usize {
        match self {
            Self::Integer { bytes } => bytes,
            Self::Float32 => 4,
            Self::Float64 => 8,
            Self::ALaw | Self::MuLaw => 1,
        }
    }

    fn sample(self, b: &[u8]) -> f32 {
        match (self, b) {
            // 8-bit WAV is unsigned, everything wider is signed.
            (Self::Integer { bytes: 1 }, &[a]) => (f32::from(a) - 128.0) / 128.0,
            (Self::Integer { .. }, &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (Self::Integer { .. }, &[a, b, c]) => {
                (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0
            }
            (Self::Integer { .. }, &[a, b, c, d]) => {
                (f64::from(i32::from_le_bytes([a, b, c, d])) / 2_147_483_648.0) as f32
            }
            (Self::Float32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::Float64, &[a, b, c, d, e, f, g, h]) => {
                f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
            }
            (Self::ALaw, &[a]) => a_law(a),
            (Self::MuLaw, &[a]) => mu_law(a),
            _ => 0.0,
        }
    }
}

/// G.711 A-law.
fn a_law(byte: u8) -> f32 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = (u32::from(byte >> 4 & 7), i32::from(byte & 15));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    (if byte & 0x80 != 0 { magnitude } else { -magnitude }) as f32 / 32_768.0
}

/// G.711 µ-law.
fn mu_law(byte: u8) -> f32 {
    let byte = !byte;
    let magnitude = ((i32::from(byte & 15) << 3) + 0x84) << u32::from(byte >> 4 & 7);
    let value = magnitude - 0x84;
    (if byte & 0x80 != 0 { -value } else { value }) as f32 / 32_768.0
}

struct Format {
    encoding: Encoding,
    channels: usize,
    rate: u32,
}

pub(crate) fn is_wav(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WAVE")
}

fn damaged(name: &str, reason: String) -> MediaError {
    let (path, format) = (name.to_string(), "WAV".to_string());
    MediaError::Damaged { path, stage: Stage::Audio, format, reason }
}

fn parse_format(name: &str, chunk: &[u8], limits: &AudioLimits) -> Result<Format, MediaError> {
    let Some(head) = chunk.get(..16) else {
        return Err(damaged(name, format!("its format chunk has {} bytes", chunk.len())));
    };
    let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let (channels, bits) = (usize::from(word(2)), word(14));
    let rate = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    // In an extensible header the real tag opens the sub-format GUID.
    let tag = match (word(0), chunk.get(24..26)) {
        (0xfffe, Some(&[low, high])) => u16::from_le_bytes([low, high]),
        (tag, _) => tag,
    };
    let encoding = match (tag, bits) {
        (1, 8 | 16 | 24 | 32) => Encoding::Integer { bytes: usize::from(bits / 8) },
        (3, 32) => Encoding::Float32,
        (3, 64) => Encoding::Float64,
        (6, 8) => Encoding::ALaw,
        (7, 8) => Encoding::MuLaw,
        (1 | 3 | 6 | 7, _) => {
            return Err(damaged(name, format!("{bits} bits a sample")));
        }
        (tag, _) => {
            let format = match tag {
                2 => "MS ADPCM".to_string(),
                0x11 => "IMA ADPCM".to_string(),
                0x50 | 0x55 => "MPEG in WAV".to_string(),
                _ => format!("WAV codec 0x{tag:04x}"),
            };
            return Err(MediaError::Unsupported {
                path: name.to_string(),
                stage: Stage::Audio,
                format,
                supported: crate::audio::SUPPORTED,
            });
        }
    };
    check_format(name, rate, channels, limits)?;
    if usize::from(word(12)) != channels * encoding.bytes() {
        return Err(damaged(name, format!("{} bytes a frame", word(12))));
    }
    Ok(Format { encoding, channels, rate })
}

/// Decodes a WAV file in memory.
pub(crate) fn decode(
    name: &str,
    bytes: &[u8],
    limits: &AudioLimits,
) -> Result<Waveform, MediaError> {
    let mut at = 12;
    let mut format = None;
    let mut warnings = Vec::new();
    while let (Some(kind), Some(size)) = (bytes.get(at..at + 4), bytes.get(at + 4..at + 8)) {
        let size = size.iter().rev().fold(0, |sum, &b| sum << 8 | usize::from(b));
        let rest = &bytes[at + 8..];
        if kind == b"fmt " {
            let chunk = rest.get(..size.min(rest.len())).unwrap_or_default();
            format = Some(parse_format(name, chunk, limits)?);
        } else if kind == b"data" {
            let Some(format) = format else {
                return Err(damaged(name, "its data come before their format".to_string()));
            };
            // A stream could not go back to fill its size in: 0xffffffff, or 0 with bytes behind.
            let data = match size {
                0xffff_ffff => rest,
                0 => return Err(silent_data(name)),
                _ if size > rest.len() => {
                    warnings.push(format!("{} of {size} bytes of sound are there", rest.len()));
                    rest
                }
                _ => &rest[..size],
            };
            return samples(name, data, &format, limits, warnings);
        }
        // Chunks are padded to an even size.
        at = match at.checked_add(8 + size + (size & 1)) {
            Some(next) => next,
            None => break,
        };
    }
    Err(silent_data(name))
}

fn silent_data(name: &str) -> MediaError {
    let reason = "it holds no audio samples".to_string();
    MediaError::Inaudible { path: name.to_string(), reason }
}

fn samples(
    name: &str,
    data: &[u8],
    format: &Format,
    limits: &AudioLimits,
    warnings: Vec<String>,
) -> Result<Waveform, MediaError> {
    let width = format.encoding.bytes();
    let frames = data.len() / (width * format.channels);
    crate::audio::check_duration(name, frames, format.channels, format.rate, limits)?;
    let mut channels = vec![Vec::with_capacity(frames); format.channels];
    for frame in data.chunks_exact(width * format.channels) {
        for (channel, sample) in channels.iter_mut().zip(frame.chunks_exact(width)) {
            channel.push(format.encoding.sample(sample));
        }
    }
    Ok(Waveform { channels, sample_rate: format.rate, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companded_bytes_follow_g711() {
        // Extremes and the smallest steps of the tables of ITU-T G.711.
        assert_eq!(mu_law(0x00), -32_124.0 / 32_768.0);
        assert_eq!(mu_law(0x80), 32_124.0 / 32_768.0);
        assert_eq!(mu_law(0xff), 0.0);
        assert_eq!(a_law(0xaa), 32_256.0 / 32_768.0);
        assert_eq!(a_law(0x2a), -32_256.0 / 32_768.0);
        assert_eq!(a_law(0xd5), 8.0 / 32_768.0);
    }
}
