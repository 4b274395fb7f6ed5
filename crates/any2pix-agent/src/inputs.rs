//! The inputs of an edit: bytes to pictures and sounds, and those to embeddings.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ::image::{RgbaImage, imageops};
use any2pix_encoders::audio::{self, AudioLimits, Waveform};
use any2pix_encoders::image::{self, ImageLimits, Picture};
use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_llm::{MediaKind, Piece};
use candle_core::{DType, Tensor};

use crate::error::AgentError;
use crate::outcome::sha256;
use crate::progress::Stage;
use crate::request::{EditRequest, Instruction, Reference, Segment};
use crate::run::Run;

/// A decoded input.
#[derive(Clone, Debug)]
pub enum Media {
    /// A picture.
    Image(Picture),
    /// A sound.
    Audio(Waveform),
}

/// An input that the model has perceived.
#[derive(Clone, Debug)]
pub struct Input {
    /// What stands between the brackets.
    pub name: String,
    /// What it is.
    pub media: Arc<Media>,
    /// Its embedding.
    pub embedding: Vec<f32>,
}

impl Media {
    /// Memory that it takes, nearly.
    fn bytes(&self) -> usize {
        match self {
            Self::Image(picture) => {
                picture.rgb.len() + picture.rgba.as_ref().map_or(0, |rgba| rgba.len())
            }
            Self::Audio(sound) => sound.frames() * sound.channels.len() * size_of::<f32>(),
        }
    }
}

impl Input {
    /// The picture, if it is one.
    pub fn picture(&self) -> Option<&Picture> {
        match &*self.media {
            Media::Image(picture) => Some(picture),
            Media::Audio(_) => None,
        }
    }

    /// What the planner calls it.
    pub fn kind(&self) -> MediaKind {
        match &*self.media {
            Media::Image(_) => MediaKind::Image,
            Media::Audio(_) => MediaKind::Audio,
        }
    }

    /// What the user should know about the file.
    pub fn warnings(&self) -> &[String] {
        match &*self.media {
            Media::Image(picture) => &picture.warnings,
            Media::Audio(sound) => &sound.warnings,
        }
    }
}

/// True when bytes begin like a sound file; the extension says nothing.
pub(crate) fn is_sound(bytes: &[u8]) -> bool {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let wave = (starts(b"RIFF") || starts(b"RF64")) && bytes.get(8..12) == Some(b"WAVE");
    // An MPEG audio frame: eleven bits of synchronisation and a layer that exists.
    let mpeg = matches!(bytes, [0xff, second, ..] if second & 0xe0 == 0xe0 && second & 0x06 != 0);
    wave || starts(b"fLaC") || starts(b"OggS") || starts(b"ID3") || starts(b"FORM") || mpeg
}

/// Decodes one input.
pub fn decode(reference: &Reference) -> Result<Media, AgentError> {
    let name = match &reference.path {
        Some(path) => path.display().to_string(),
        None => reference.name.clone(),
    };
    let refused = |error| AgentError::Media { error: Box::new(error) };
    if is_sound(&reference.bytes) {
        let sound = audio::decode(&name, &reference.bytes, &AudioLimits::default());
        sound.map(Media::Audio).map_err(refused)
    } else {
        let picture = image::decode(&name, &reference.bytes, &ImageLimits::default());
        picture.map(Media::Image).map_err(refused)
    }
}

/// Why the file at `path` cannot be an input, as far as its beginning tells; `None` if it may be.
pub(crate) fn refusal(path: &Path) -> Option<String> {
    let look = || {
        let reference = Reference::open("", path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let looked = if is_sound(&reference.bytes) {
            audio::probe(&name, &reference.bytes, &AudioLimits::default())
        } else {
            image::probe(&name, &reference.bytes, &ImageLimits::default())
        };
        looked.map_err(|error| AgentError::Media { error: Box::new(error) })
    };
    look().err().map(|error| error.line())
}

/// The embedding of a decoded input.
pub fn embed(imagebind: &ImageBindModel, media: &Media) -> Result<Vec<f32>, AgentError> {
    let rows = match media {
        Media::Image(picture) => imagebind.encode_images(std::slice::from_ref(&picture.rgb)),
        Media::Audio(sound) => imagebind.encode_audio(std::slice::from_ref(sound)),
    };
    rows.and_then(|rows| vector(&rows)).map_err(AgentError::compute(Stage::Encode))
}

/// A medium that was perceived.
#[derive(Clone)]
struct Perceived {
    media: Arc<Media>,
    embedding: Vec<f32>,
}

/// What one encoder perceived lately, by the hash of the bytes: media that recur are decoded and
/// embedded once. What was not asked for the longest is forgotten first.
#[derive(Default)]
pub(crate) struct Memory(Mutex<VecDeque<(String, Perceived)>>);

/// Most bytes of decoded media that are remembered.
const MAX_REMEMBERED: usize = 64 << 20;

impl Memory {
    fn recall(&self, hash: &str) -> Option<Perceived> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|(known, _)| known == hash)?;
        let entry = known.remove(place)?;
        known.push_back(entry.clone());
        Some(entry.1)
    }

    fn remember(&self, hash: String, perceived: Perceived) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| *other != hash);
        known.push_back((hash, perceived));
        let size = |known: &VecDeque<(String, Perceived)>| -> usize {
            known.iter().map(|(_, perceived)| perceived.media.bytes()).sum()
        };
        while size(&known) > MAX_REMEMBERED {
            known.pop_front();
        }
    }
}

/// All inputs of a request, decoded and embedded, or remembered. What cannot be decoded is refused
/// before any weights are read.
pub(crate) fn perceive<M: std::ops::Deref<Target = ImageBindModel>>(
    request: &EditRequest,
    memory: &Memory,
    imagebind: impl FnOnce() -> Result<M, AgentError>,
    run: &mut Run,
) -> Result<Vec<Input>, AgentError> {
    let known = |reference: &Reference| {
        let hash = sha256(&reference.bytes);
        let media = match memory.recall(&hash) {
            Some(perceived) => Ok(perceived),
            None => Err(decode(reference)?),
        };
        Ok((hash, media))
    };
    let known = request.references.iter().map(known).collect::<Result<Vec<_>, AgentError>>()?;
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let imagebind = imagebind()?;
    let mut inputs = Vec::new();
    for (reference, (hash, known)) in request.references.iter().zip(known) {
        let Perceived { media, embedding } = match known {
            Ok(perceived) => perceived,
            Err(media) => {
                let embedding = embed(&imagebind, &media)?;
                let perceived = Perceived { media: Arc::new(media), embedding };
                memory.remember(hash, perceived.clone());
                perceived
            }
        };
        let input = Input { name: reference.name.clone(), media, embedding };
        for warning in input.warnings() {
            run.warn(format!("[{}]: {warning}", input.name));
        }
        inputs.push(input);
    }
    Ok(inputs)
}

/// An instruction and its inputs' embeddings as the planner takes them.
pub(crate) fn for_planner(
    instruction: &Instruction,
    inputs: &[Input],
) -> (Vec<Piece>, Vec<Vec<f32>>) {
    let piece = |segment: &Segment| match segment {
        Segment::Text(text) => Piece::Text(text.clone()),
        Segment::Reference(index) => Piece::Media(*index, inputs[*index].kind()),
    };
    let pieces = instruction.segments.iter().map(piece).collect();
    (pieces, inputs.iter().map(|input| input.embedding.clone()).collect())
}

/// All numbers of a tensor.
pub fn vector(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}

/// An embedding as a model takes it.
///
/// # Shapes
/// → `(1, e)`.
pub fn row(embedding: &[f32]) -> candle_core::Result<Tensor> {
    Tensor::from_slice(embedding, (1, embedding.len()), &candle_core::Device::Cpu)
}

/// A picture whose longer side is at most `side`.
pub fn shrunk(picture: &RgbaImage, side: u32) -> RgbaImage {
    let longer = picture.width().max(picture.height());
    if longer <= side {
        return picture.clone();
    }
    let length = |pixels: u32| (u64::from(pixels) * u64::from(side) / u64::from(longer)).max(1);
    imageops::thumbnail(picture, length(picture.width()) as u32, length(picture.height()) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_what_was_asked_for_last_and_no_more_than_it_may() {
        let memory = Memory::default();
        let picture = |side: u32| Perceived {
            media: Arc::new(Media::Image(Picture {
                rgb: ::image::RgbImage::new(side, side),
                rgba: None,
                warnings: Vec::new(),
            })),
            embedding: vec![side as f32],
        };
        // 2800² × 3 bytes are a little more than a third of what may be remembered.
        memory.remember("a".into(), picture(2800));
        memory.remember("b".into(), picture(2800));
        assert_eq!(memory.recall("a").unwrap().embedding, [2800.0]);
        memory.remember("c".into(), picture(2800));
        let known = ["a", "b", "c"].map(|hash| memory.recall(hash).is_some());
        assert_eq!(known, [true, false, true]);
        memory.remember("d".into(), picture(5000));
        assert!(["a", "c", "d"].iter().all(|hash| memory.recall(hash).is_none()));
    }

    #[test]
    fn sounds_are_told_by_their_first_bytes() {
        for sound in
            [&b"RIFF\0\0\0\0WAVEfmt "[..], b"fLaC\0", b"OggS\0", b"ID3\x04", b"\xff\xfb\x90"]
        {
            assert!(is_sound(sound), "{sound:?}");
        }
        for other in
            [&b"RIFF\0\0\0\0WEBP"[..], b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"", b"\xff"]
        {
            assert!(!is_sound(other), "{other:?}");
        }
    }
}
