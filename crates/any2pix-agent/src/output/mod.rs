//! Pictures as files: formats, what stands in them beside the pixels, and reading that back.
//!
//! | | record (JSON) | parameters (A1111) | AI-edited mark, the source's XMP | EXIF | ICC profile |
//! |---|---|---|---|---|---|
//! | PNG | tEXt or iTXt `any2pix` | tEXt or iTXt `parameters` | iTXt | eXIf | iCCP |
//! | JPEG | XMP | EXIF UserComment | APP1 | APP1 | APP2 |
//! | WebP | XMP | EXIF UserComment | `XMP ` | `EXIF` | `ICCP` |

mod exif;
mod jpeg;
mod png;
mod webp;
mod xmp;

use std::path::Path;

use any2pix_encoders::metadata::Metadata;
use image::{DynamicImage, RgbImage};
use serde::{Deserialize, Serialize};

use crate::error::AgentError;

/// The longest record that is read back, in bytes; a written one is far from it.
const MAX_RECORD: usize = 1 << 20;
/// Quality of a JPEG for which nobody gave one.
pub const DEFAULT_QUALITY: u8 = 92;

/// A format of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lossless.
    #[default]
    Png,
    /// Lossy, without transparency.
    Jpeg,
    /// Lossless.
    WebP,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Png, Self::Jpeg, Self::WebP];

    /// What the name of a file promises.
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "webp" => Some(Self::WebP),
            _ => None,
        }
    }

    /// How the names of its files end.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }
}

/// How a picture becomes a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoding {
    /// The format.
    pub format: Format,
    /// Of a JPEG, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
    /// Leave out what the source's EXIF and XMP say.
    #[serde(default)]
    pub strip: bool,
}

impl Encoding {
    /// What the name of a file asks for; PNG if it asks for nothing.
    pub fn of_path(path: &Path) -> Self {
        Self { format: Format::of_path(path).unwrap_or_default(), ..Self::default() }.settled()
    }

    /// With the quality that is in force.
    #[must_use]
    pub fn settled(self) -> Self {
        match self.format {
            Format::Jpeg => Self { quality: self.quality.or(Some(DEFAULT_QUALITY)), ..self },
            Format::Png | Format::WebP => self,
        }
    }

    /// An error for a quality that is out of its range, or of a lossless format.
    pub fn validate(&self) -> Result<(), AgentError> {
        let Some(quality) = self.quality else { return Ok(()) };
        let reason = match self.format {
            Format::Jpeg if (1..=100).contains(&quality) => return Ok(()),
            Format::Jpeg => "must be 1 to 100".to_string(),
            lossless => format!("is for JPEG; {} is lossless here", lossless.name()),
        };
        Err(AgentError::Setting { name: "--quality", value: quality.to_string(), reason })
    }
}

/// What a file says beside its pixels.
pub(crate) struct Account<'a> {
    /// How the picture came to be: JSON.
    pub(crate) record: &'a str,
    /// The same for image viewers and web interfaces, in their format of lines.
    pub(crate) parameters: &'a str,
    /// What the source's file said.
    pub(crate) source: &'a Metadata,
    /// Whether there is a source: an edit is a composite, other pictures are made by a model.
    pub(crate) is_edit: bool,
}

/// The file's bytes: the same for the same picture and account.
pub(crate) fn encode(
    image: &DynamicImage,
    encoding: Encoding,
    account: &Account,
) -> Result<Vec<u8>, AgentError> {
    encoding.validate()?;
    let encoding = encoding.settled();
    let size = (image.width(), image.height());
    let kept = |text: &Option<Vec<u8>>| text.clone().filter(|_| !encoding.strip);
    let exif = |comment: Option<&str>| exif::rewrite(kept(&account.source.exif), size, comment);
    let source_xmp = account.source.xmp.as_deref().filter(|_| !encoding.strip);
    let xmp = |record: Option<&str>| xmp::packet(source_xmp, account.is_edit, record);
    let icc = account.source.icc.as_deref();
    match encoding.format {
        Format::Png => {
            let texts = [
                (png::PARAMETERS, account.parameters),
                (png::ANY2PIX, account.record),
                (png::XMP, &xmp(None)),
            ];
            png::encode(image, &texts, exif(None), icc)
        }
        Format::Jpeg => {
            let quality = encoding.quality.unwrap_or(DEFAULT_QUALITY);
            let exif = exif(Some(account.parameters));
            jpeg::encode(&flat(image), quality, &xmp(Some(account.record)), exif, icc)
        }
        Format::WebP => {
            let exif = exif(Some(account.parameters));
            webp::encode(image, &xmp(Some(account.record)), exif, icc)
        }
    }
}

/// The pixels alone, as a PNG.
pub(crate) fn pixels(image: &DynamicImage) -> Result<Vec<u8>, AgentError> {
    png::encode(image, &[], None, None)
}

/// The picture on white, where it is transparent.
fn flat(image: &DynamicImage) -> RgbImage {
    match image.color().has_alpha() {
        true => any2pix_encoders::image::composite(&image.to_rgba8(), [255; 3]),
        false => image.to_rgb8(),
    }
}

/// The record in the bytes of a file, if it has one.
pub(crate) fn record(bytes: &[u8]) -> Option<String> {
    let text = match image::guess_format(bytes).ok()? {
        image::ImageFormat::Png => png::text(bytes, png::ANY2PIX, MAX_RECORD)?,
        _ => xmp::record(&Metadata::read(bytes).xmp?)?,
    };
    Some(text).filter(|text| text.len() <= MAX_RECORD)
}

/// An error about a picture that a format cannot hold.
fn unencodable(format: Format, reason: impl std::fmt::Display) -> AgentError {
    AgentError::Unencodable { format: format.name(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
