//! WebP, lossless.

use image::DynamicImage;
use image_webp::{ColorType, WebPEncoder};

use super::{Format, unencodable};
use crate::error::AgentError;

/// The format's own bound of a side.
const MAX_SIDE: u32 = 16_383;

/// Encodes `image` as RGB or, where it has alpha, RGBA.
pub(super) fn encode(
    image: &DynamicImage,
    xmp: &str,
    exif: Option<Vec<u8>>,
    icc: Option<&[u8]>,
) -> Result<Vec<u8>, AgentError> {
    let (width, height) = (image.width(), image.height());
    if width.max(height) > MAX_SIDE {
        let reason = format!("{width}x{height} pixels; {MAX_SIDE} a side is its bound");
        return Err(unencodable(Format::WebP, reason));
    }
    let mut bytes = Vec::new();
    let mut encoder = WebPEncoder::new(&mut bytes);
    encoder.set_xmp_metadata(xmp.as_bytes().to_vec());
    encoder.set_exif_metadata(exif.unwrap_or_default());
    encoder.set_icc_profile(icc.unwrap_or_default().to_vec());
    let written = match image.color().has_alpha() {
        true => encoder.encode(image.to_rgba8().as_raw(), width, height, ColorType::Rgba8),
        false => encoder.encode(image.to_rgb8().as_raw(), width, height, ColorType::Rgb8),
    };
    written.map(|()| bytes).map_err(|error| unencodable(Format::WebP, error))
}
