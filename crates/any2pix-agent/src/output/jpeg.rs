//! JPEG: one XMP segment and what the encoder writes of EXIF and profile.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use super::{Format, unencodable};
use crate::error::AgentError;

/// What a segment of XMP begins with.
const XMP_HEADER: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// The most that a segment holds beside its marker and its own length.
const MAX_SEGMENT: usize = 0xffff - 2;

/// Encodes `image`; XMP and EXIF must fit a segment each.
pub(super) fn encode(
    image: &RgbImage,
    quality: u8,
    xmp: &str,
    exif: Option<Vec<u8>>,
    icc: Option<&[u8]>,
) -> Result<Vec<u8>, AgentError> {
    let failed = |error: &dyn std::fmt::Display| unencodable(Format::Jpeg, error);
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).map_err(|e| failed(&e))?;
    }
    if let Some(icc) = icc {
        encoder.set_icc_profile(icc.to_vec()).map_err(|e| failed(&e))?;
    }
    let (width, height) = image.dimensions();
    let written = encoder.write_image(image.as_raw(), width, height, ExtendedColorType::Rgb8);
    written.map_err(|e| failed(&e))?;
    let at = after_application_segments(&bytes);
    let segment = xmp_segment(xmp)?;
    bytes.splice(at..at, segment);
    Ok(bytes)
}

/// Where the segments APP0 and APP1 (JFIF and EXIF, which stand first) end.
fn after_application_segments(bytes: &[u8]) -> usize {
    let mut at = 2;
    while let Some(&[0xff, 0xe0 | 0xe1, high, low]) = bytes.get(at..at + 4) {
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    at
}

fn xmp_segment(xmp: &str) -> Result<Vec<u8>, AgentError> {
    let contents = [XMP_HEADER, xmp.as_bytes()].concat();
    if contents.len() > MAX_SEGMENT {
        let reason = format!("its metadata take {} bytes of {MAX_SEGMENT}", contents.len());
        return Err(unencodable(Format::Jpeg, reason));
    }
    let length = (contents.len() + 2) as u16;
    Ok([&[0xff, 0xe1], &length.to_be_bytes()[..], &contents].concat())
}
