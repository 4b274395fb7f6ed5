//! PNG: texts before the pixels, among them an A1111 `parameters` chunk and an `any2pix` JSON chunk.

use std::borrow::Cow;
use std::io::{Cursor, Write};

use image::DynamicImage;
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Info, Limits};

use super::{Format, unencodable};
use crate::error::AgentError;

/// The keyword that other programs look for.
pub(super) const PARAMETERS: &str = "parameters";
/// The keyword of our JSON.
pub(super) const ANY2PIX: &str = "any2pix";
/// The keyword of XMP.
pub(super) const XMP: &str = "XML:com.adobe.xmp";
/// What the decoder may hold while it looks for texts.
const MAX_ALLOC: usize = 32_000_000;

/// Encodes `image` as RGB or, where it has alpha, RGBA; `texts` are keywords and texts.
pub(super) fn encode(
    image: &DynamicImage,
    texts: &[(&str, &str)],
    exif: Option<Vec<u8>>,
    icc: Option<&[u8]>,
) -> Result<Vec<u8>, AgentError> {
    let mut bytes = Vec::new();
    let written = write(&mut bytes, image, texts, exif, icc);
    written.map(|()| bytes).map_err(|error| unencodable(Format::Png, error))
}

fn write(
    bytes: &mut Vec<u8>,
    image: &DynamicImage,
    texts: &[(&str, &str)],
    exif: Option<Vec<u8>>,
    icc: Option<&[u8]>,
) -> Result<(), EncodingError> {
    let has_alpha = image.color().has_alpha();
    let mut info = Info::with_size(image.width(), image.height());
    info.exif_metadata = exif.map(Cow::Owned);
    info.icc_profile = icc.map(Cow::Borrowed);
    let mut encoder = Encoder::with_info(bytes, info)?;
    encoder.set_color(if has_alpha { ColorType::Rgba } else { ColorType::Rgb });
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    for (keyword, text) in texts {
        add_text(&mut encoder, keyword, text)?;
    }
    let mut writer = encoder.write_header()?;
    if has_alpha {
        writer.write_image_data(image.to_rgba8().as_raw())?;
    } else {
        writer.write_image_data(image.to_rgb8().as_raw())?;
    }
    writer.finish()
}

/// tEXt holds Latin-1 only, and is what most readers look at; anything else goes into iTXt, and
/// XMP is looked for only there.
fn add_text<W: Write>(
    encoder: &mut Encoder<'_, W>,
    keyword: &str,
    text: &str,
) -> Result<(), EncodingError> {
    if text.is_ascii() && keyword != XMP {
        encoder.add_text_chunk(keyword.to_string(), text.to_string())
    } else {
        encoder.add_itxt_chunk(keyword.to_string(), text.to_string())
    }
}

/// The text under `keyword` in a PNG file, if it has one of at most `most` bytes.
pub(super) fn text(bytes: &[u8], keyword: &str, most: usize) -> Option<String> {
    let limits = Limits { bytes: MAX_ALLOC };
    let reader = png::Decoder::new_with_limits(Cursor::new(bytes), limits).read_info().ok()?;
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
    if let Some(chunk) = latin {
        return Some(chunk.text.clone());
    }
    let mut utf8 = info.utf8_text.iter().find(|chunk| chunk.keyword == keyword)?.clone();
    utf8.decompress_text_with_limit(most).ok()?;
    utf8.get_text().ok()
}
