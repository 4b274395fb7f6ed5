//! Sounds: from bytes to finite samples at their own rate, and from there to 16 kHz.

use std::io::Cursor;
use std::path::Path;

use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Fault;
use symphonia::core::formats::probe::Hint as Probe;
use symphonia::core::formats::{FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;

use crate::error::{MediaError, Stage};
use crate::file::read_bounded;
use crate::resample::resample;
use crate::{sniff, wav};

/// Formats that are read, for messages.
pub const SUPPORTED: &str = "WAV (PCM, float, A-law, mu-law), MP3, FLAC, OGG Vorbis";

/// What a sound may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AudioLimits {
    /// Of the file.
    pub max_bytes: u64,
    /// Decoded length.
    pub max_seconds: f64,
    /// The shortest that can be heard at all.
    pub min_seconds: f64,
    /// Channels.
    pub max_channels: usize,
    /// Lowest sample rate, in hertz.
    pub min_rate: u32,
    /// Highest sample rate, in hertz.
    pub max_rate: u32,
    /// Samples in all channels together.
    pub max_samples: usize,
}

impl Default for AudioLimits {
    fn default() -> Self {
        Self {
            max_bytes: 25_000_000,
            max_seconds: 600.0,
            min_seconds: 0.025,
            max_channels: 8,
            min_rate: 4_000,
            max_rate: 384_000,
            max_samples: 64_000_000,
        }
    }
}

/// A decoded sound.
#[derive(Clone, Debug)]
pub struct Waveform {
    /// One vector a channel, all equally long, in ±1.
    pub channels: Vec<Vec<f32>>,
    /// In hertz.
    pub sample_rate: u32,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

impl Waveform {
    /// How many samples each channel has.
    pub fn frames(&self) -> usize {
        self.channels.first().map_or(0, Vec::len)
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.frames() as f64 / f64::from(self.sample_rate)
    }

    /// The same sound at `rate`, every channel on its own.
    pub fn resampled(&self, rate: u32) -> Self {
        if rate == self.sample_rate {
            return self.clone();
        }
        let convert = |samples: &Vec<f32>| resample(samples, self.sample_rate, rate);
        Self {
            channels: self.channels.iter().map(convert).collect(),
            sample_rate: rate,
            warnings: self.warnings.clone(),
        }
    }

    /// The mean of all channels.
    pub fn mono(&self) -> Vec<f32> {
        let scale = 1.0 / self.channels.len().max(1) as f32;
        (0..self.frames())
            .map(|i| self.channels.iter().map(|channel| channel[i]).sum::<f32>() * scale)
            .collect()
    }
}

/// Reads and decodes the sound at `path`.
pub fn open(path: impl AsRef<Path>, limits: &AudioLimits) -> Result<Waveform, MediaError> {
    let path = path.as_ref();
    decode(&path.display().to_string(), &read_bounded(path, limits.max_bytes)?, limits)
}

/// Decodes the sound in `bytes`; `name` names it in errors.
pub fn decode(name: &str, bytes: &[u8], limits: &AudioLimits) -> Result<Waveform, MediaError> {
    if bytes.is_empty() {
        let (path, reason) = (name.to_string(), "the file is empty".to_string());
        return Err(MediaError::NotMedia { path, stage: Stage::Audio, reason });
    }
    if let Some(format) = sniff::foreign(bytes) {
        return Err(unsupported(name, format));
    }
    let waveform = if wav::is_wav(bytes) {
        wav::decode(name, bytes, limits)?
    } else {
        decode_compressed(name, bytes, limits)?
    };
    audible(name, waveform, limits)
}

/// Checks what the beginning of the sound in `bytes` says: its container and its codec; of a WAV,
/// which is not compressed, everything.
pub fn probe(name: &str, bytes: &[u8], limits: &AudioLimits) -> Result<(), MediaError> {
    if wav::is_wav(bytes) || bytes.is_empty() || sniff::foreign(bytes).is_some() {
        return decode(name, bytes, limits).map(drop);
    }
    guarded(name, bytes, || open_stream(name, bytes).map(drop))
}

fn unsupported(name: &str, format: &str) -> MediaError {
    MediaError::Unsupported {
        path: name.to_string(),
        stage: Stage::Audio,
        format: format.to_string(),
        supported: SUPPORTED,
    }
}

fn limit(name: &str, reason: String, limit: String, hint: &'static str) -> MediaError {
    MediaError::Limit { path: name.to_string(), stage: Stage::Audio, reason, limit, hint }
}

/// Refuses rates and channel counts out of bounds.
pub(crate) fn check_format(
    name: &str,
    rate: u32,
    channels: usize,
    limits: &AudioLimits,
) -> Result<(), MediaError> {
    if rate < limits.min_rate || rate > limits.max_rate {
        let bound = format!("{} to {} Hz", limits.min_rate, limits.max_rate);
        return Err(limit(name, format!("a sample rate of {rate} Hz"), bound, "resample it"));
    }
    if channels == 0 || channels > limits.max_channels {
        let bound = format!("1 to {}", limits.max_channels);
        return Err(limit(name, format!("{channels} channels"), bound, "mix it down to stereo"));
    }
    Ok(())
}

/// Refuses lengths out of bounds; called while decoding, with what there is so far.
pub(crate) fn check_duration(
    name: &str,
    frames: usize,
    channels: usize,
    rate: u32,
    limits: &AudioLimits,
) -> Result<(), MediaError> {
    let seconds = frames as f64 / f64::from(rate);
    if seconds > limits.max_seconds {
        let bound = format!("{} s", limits.max_seconds);
        let reason = format!("it lasts more than {} s", limits.max_seconds);
        return Err(limit(name, reason, bound, "cut out the part that matters"));
    }
    if frames.saturating_mul(channels) > limits.max_samples {
        let reason = format!("it decodes to more than {} samples", limits.max_samples);
        let bound = limits.max_samples.to_string();
        return Err(limit(name, reason, bound, "cut it, or lower its rate"));
    }
    Ok(())
}

/// Refuses what nobody can hear, and samples that are no numbers; clips what is far too loud.
fn audible(
    name: &str,
    mut waveform: Waveform,
    limits: &AudioLimits,
) -> Result<Waveform, MediaError> {
    let inaudible = |reason: String| Err(MediaError::Inaudible { path: name.to_string(), reason });
    if waveform.frames() == 0 {
        return inaudible("it holds no audio samples".to_string());
    }
    if waveform.seconds() < limits.min_seconds {
        let (have, need) = (waveform.seconds() * 1e3, limits.min_seconds * 1e3);
        return inaudible(format!("it lasts {have:.1} ms, shorter than {need} ms"));
    }
    let mut peak = 0.0f32;
    for channel in &waveform.channels {
        if let Some(at) = channel.iter().position(|sample| !sample.is_finite()) {
            let seconds = at as f64 / f64::from(waveform.sample_rate);
            return Err(MediaError::Damaged {
                path: name.to_string(),
                stage: Stage::Audio,
                format: "sound".to_string(),
                reason: format!("a non-finite sample at {seconds:.3} s"),
            });
        }
        peak = channel.iter().fold(peak, |peak, sample| peak.max(sample.abs()));
    }
    // Half of the last bit of 24-bit audio.
    if peak < 6e-8 {
        return inaudible("it is silent from beginning to end".to_string());
    }
    // Floats may pass 1 by a little and stay meaningful; this is a broken scale.
    if peak > 16.0 {
        waveform.warnings.push(format!("samples up to {peak:.0} were clipped to 1"));
        for sample in waveform.channels.iter_mut().flatten() {
            *sample = sample.clamp(-1.0, 1.0);
        }
    }
    Ok(waveform)
}

/// A sound that is being decoded.
struct Stream {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// What the container says, when it does.
    frames: Option<u64>,
    label: &'static str,
}

fn label(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'f', b'L', b'a', b'C', ..] => "FLAC",
        [b'O', b'g', b'g', b'S', ..] => "OGG",
        _ => "MP3",
    }
}

fn open_stream(name: &str, bytes: &[u8]) -> Result<Stream, MediaError> {
    let not_a_sound = || MediaError::NotMedia {
        path: name.to_string(),
        stage: Stage::Audio,
        reason: format!("not a sound: {}", sniff::describe(bytes)),
    };
    if bytes.starts_with(b"OggS") && bytes.windows(8).take(256).any(|w| w == b"OpusHead") {
        return Err(unsupported(name, "Opus"));
    }
    if image::guess_format(bytes).is_ok() {
        return Err(not_a_sound());
    }
    let source = MediaSourceStream::new(Box::new(Cursor::new(bytes.to_vec())), Default::default());
    let format = symphonia::default::get_probe()
        .probe(&Probe::new(), source, Default::default(), Default::default())
        .map_err(|_| not_a_sound())?;
    let track = format.default_track(TrackType::Audio).ok_or_else(not_a_sound)?;
    let parameters = track.codec_params.as_ref().and_then(|p| p.audio()).ok_or_else(not_a_sound)?;
    let decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(|_| unsupported(name, "(its codec)"))?;
    let (track, frames) = (track.id, track.num_frames);
    Ok(Stream { format, decoder, track, frames, label: label(bytes) })
}

fn decode_compressed(
    name: &str,
    bytes: &[u8],
    limits: &AudioLimits,
) -> Result<Waveform, MediaError> {
    guarded(name, bytes, || {
        let mut stream = open_stream(name, bytes)?;
        read_stream(name, &mut stream, limits)
    })
}

/// The decoders are fuzzed and still panic now and then; that must stay one file's problem.
fn guarded<T>(
    name: &str,
    bytes: &[u8],
    decode: impl FnOnce() -> Result<T, MediaError>,
) -> Result<T, MediaError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(MediaError::Damaged {
            path: name.to_string(),
            stage: Stage::Audio,
            format: label(bytes).to_string(),
            reason: "its decoder gave up".to_string(),
        })
    })
}

fn read_stream(
    name: &str,
    stream: &mut Stream,
    limits: &AudioLimits,
) -> Result<Waveform, MediaError> {
    let mut waveform = Waveform { channels: Vec::new(), sample_rate: 0, warnings: Vec::new() };
    let (mut planes, mut bad_packets) = (Vec::<Vec<f32>>::new(), 0usize);
    let truncated = |detail: String| MediaError::Truncated {
        path: name.to_string(),
        stage: Stage::Audio,
        format: stream.label.to_string(),
        detail,
    };
    loop {
        let packet = match stream.format.next_packet() {
            Ok(Some(packet)) => packet,
            // A chained stream starts anew: the first link is the sound.
            Ok(None) | Err(Fault::ResetRequired) => break,
            Err(Fault::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                if stream.label == "MP3" {
                    break; // has no end mark; the frame count below tells
                }
                return Err(truncated("the data ends early".to_string()));
            }
            Err(error) => return Err(damaged(name, stream.label, &error)),
        };
        if packet.track_id != stream.track {
            continue;
        }
        let buffer = match stream.decoder.decode(&packet) {
            Ok(buffer) => buffer,
            Err(Fault::DecodeError(_)) => {
                bad_packets += 1;
                continue;
            }
            Err(error) => return Err(damaged(name, stream.label, &error)),
        };
        let (rate, count) = (buffer.spec().rate(), buffer.num_planes());
        if waveform.channels.is_empty() {
            check_format(name, rate, count, limits)?;
            waveform.sample_rate = rate;
            waveform.channels = vec![Vec::new(); count];
        } else if rate != waveform.sample_rate || count != waveform.channels.len() {
            waveform.warnings.push("its format changes midway: only its start was used".into());
            break;
        }
        buffer.copy_to_vecs_planar(&mut planes);
        for (channel, plane) in waveform.channels.iter_mut().zip(&planes) {
            channel.extend_from_slice(plane);
        }
        check_duration(name, waveform.frames(), count, rate, limits)?;
    }
    if bad_packets > 0 {
        waveform.warnings.push(format!("{bad_packets} damaged packets were skipped"));
    }
    // An encoder's delay makes the count off by a few thousand samples, a cut by much more.
    if let Some(expected) = stream.frames
        && (waveform.frames() as f64) < expected as f64 * 0.98 - 4_096.0
    {
        let detail = format!("{} of {expected} samples are there", waveform.frames());
        if stream.label != "MP3" {
            return Err(truncated(detail));
        }
        waveform.warnings.push(format!("truncated MP3: {detail}"));
    }
    Ok(waveform)
}

fn damaged(name: &str, label: &str, error: &Fault) -> MediaError {
    MediaError::Damaged {
        path: name.to_string(),
        stage: Stage::Audio,
        format: label.to_string(),
        reason: crate::image::one_line(error),
    }
}
