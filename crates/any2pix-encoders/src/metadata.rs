//! What a picture's file says beside its pixels: EXIF, colour profile, XMP.

use std::io::Cursor;

use image::{ImageDecoder, ImageReader, Limits};

/// Larger EXIF is nobody's camera's.
const MAX_EXIF: usize = 1 << 20;
/// Larger than the largest profiles of printers.
const MAX_ICC: usize = 4 << 20;
/// What is read of XMP.
const MAX_XMP: usize = 1 << 20;
/// What the decoders may hold while they look.
const MAX_ALLOC: u64 = 32_000_000;

/// What a picture's file says beside its pixels. What is damaged or larger than anyone needs is
/// left out: a picture is not refused for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// EXIF, from its TIFF header on.
    pub exif: Option<Vec<u8>>,
    /// The profile of its RGB. Decoding converts nothing, so it holds for the pixels.
    pub icc: Option<Vec<u8>>,
    /// The XMP packet.
    pub xmp: Option<String>,
}

impl Metadata {
    /// Looks into `bytes`; no pixels are decoded.
    pub fn read(bytes: &[u8]) -> Self {
        let Ok(mut reader) = ImageReader::new(Cursor::new(bytes)).with_guessed_format() else {
            return Self::default();
        };
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_ALLOC);
        reader.limits(limits);
        let Ok(mut decoder) = reader.into_decoder() else { return Self::default() };
        let bounded = |bytes: Option<Vec<u8>>, most: usize| bytes.filter(|b| b.len() <= most);
        let exif = bounded(decoder.exif_metadata().ok().flatten(), MAX_EXIF);
        let icc = bounded(decoder.icc_profile().ok().flatten(), MAX_ICC);
        let xmp = bounded(decoder.xmp_metadata().ok().flatten(), MAX_XMP);
        Self {
            exif: exif.map(without_prefix),
            icc: icc.filter(|profile| is_rgb_profile(profile)),
            xmp: xmp.and_then(|packet| String::from_utf8(packet).ok()),
        }
    }
}

/// Some writers of WebP keep JPEG's marker before the TIFF header.
fn without_prefix(exif: Vec<u8>) -> Vec<u8> {
    exif.strip_prefix(b"Exif\0\0").map(<[u8]>::to_vec).unwrap_or(exif)
}

/// Whether `profile` has an ICC header that is true to its length and describes RGB: pixels that
/// were CMYK or grey are RGB once they are decoded, and their profile no longer fits.
fn is_rgb_profile(profile: &[u8]) -> bool {
    let size = profile.get(..4).and_then(|size| size.try_into().ok()).map(u32::from_be_bytes);
    size.is_some_and(|size| size as usize == profile.len())
        && profile.get(16..20) == Some(b"RGB ")
        && profile.get(36..40) == Some(b"acsp")
}

#[cfg(test)]
mod tests {
    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;

    fn profile(space: &[u8; 4]) -> Vec<u8> {
        let mut profile = vec![0; 132];
        profile[..4].copy_from_slice(&132u32.to_be_bytes());
        profile[16..20].copy_from_slice(space);
        profile[36..40].copy_from_slice(b"acsp");
        profile
    }

    fn with<E: ImageEncoder>(mut encoder: E, exif: &[u8], icc: &[u8]) {
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        encoder.set_icc_profile(icc.to_vec()).unwrap();
        encoder.write_image(&[9; 48], 4, 4, ExtendedColorType::Rgb8).unwrap();
    }

    #[test]
    fn every_container_gives_what_it_holds() {
        let (exif, icc) = (b"MM\0\x2a\0\0\0\x08\0\0\0\0\0\0", profile(b"RGB "));
        let mut files = [Vec::new(), Vec::new(), Vec::new()];
        let [png, jpeg, webp] = &mut files;
        with(PngEncoder::new(png), exif, &icc);
        with(JpegEncoder::new(jpeg), exif, &icc);
        with(WebPEncoder::new_lossless(webp), exif, &icc);
        let expected = Metadata { exif: Some(exif.to_vec()), icc: Some(icc), xmp: None };
        for file in &files {
            assert_eq!(Metadata::read(file), expected);
            for end in 0..file.len().min(200) {
                Metadata::read(&file[..end]); // never a panic
            }
        }
    }

    #[test]
    fn a_profile_of_other_pixels_is_left_out() {
        for space in [b"CMYK", b"GRAY"] {
            assert!(!is_rgb_profile(&profile(space)));
        }
        assert!(!is_rgb_profile(&profile(b"RGB ")[..100]));
        assert!(!is_rgb_profile(b""));
    }
}
