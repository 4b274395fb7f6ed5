//! Pictures: from bytes to upright 8-bit RGB, with every bound checked before memory is taken.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::error::{MediaError, Stage};
use crate::file::read_bounded;
use crate::sniff;

pub use image::{GrayImage, RgbImage, RgbaImage};

/// Formats that are read, for messages.
pub const SUPPORTED: &str = "PNG, JPEG, WebP, GIF, BMP, TIFF";

/// What a picture may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageLimits {
    /// Of the file.
    pub max_bytes: u64,
    /// Width times height.
    pub max_pixels: u64,
    /// The longer side.
    pub max_side: u32,
    /// The shorter side.
    pub min_side: u32,
    /// Longer over shorter side.
    pub max_aspect: u32,
    /// Bytes that the decoder may hold.
    pub max_alloc: u64,
    /// Accept a JPEG whose end is missing, with a warning.
    pub allow_truncated: bool,
    /// What shows through transparent pixels. White: paper, and what cut-outs are drawn on.
    pub background: [u8; 3],
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            max_bytes: 50_000_000,
            max_pixels: 100_000_000,
            max_side: 16_384,
            min_side: 16,
            max_aspect: 32,
            max_alloc: 800_000_000,
            allow_truncated: false,
            background: [255, 255, 255],
        }
    }
}

/// A decoded picture, upright.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Composited on [`ImageLimits::background`] where it was transparent.
    pub rgb: RgbImage,
    /// The uncomposited pixels with their alpha, when any of them is not opaque.
    pub rgba: Option<RgbaImage>,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

impl Picture {
    /// Opacity, when any pixel is not opaque.
    pub fn alpha(&self) -> Option<GrayImage> {
        let rgba = self.rgba.as_ref()?;
        let alpha = rgba.pixels().map(|p| p.0[3]).collect();
        GrayImage::from_raw(rgba.width(), rgba.height(), alpha)
    }

    /// The colours with the alpha dropped instead of composited (Pillow's `convert("RGB")`).
    pub fn without_alpha(&self) -> RgbImage {
        match &self.rgba {
            Some(rgba) => DynamicImage::ImageRgba8(rgba.clone()).into_rgb8(),
            None => self.rgb.clone(),
        }
    }
}

/// Reads and decodes the picture at `path`.
pub fn open(path: impl AsRef<Path>, limits: &ImageLimits) -> Result<Picture, MediaError> {
    let path = path.as_ref();
    decode(&path.display().to_string(), &read_bounded(path, limits.max_bytes)?, limits)
}

/// Decodes the picture in `bytes`; `name` names it in errors.
pub fn decode(name: &str, bytes: &[u8], limits: &ImageLimits) -> Result<Picture, MediaError> {
    let file = ImageFile::new(name, bytes)?;
    let (mut decoder, mut warnings) = file.open(limits)?;
    let orientation = decoder.orientation();
    let mut pixels = DynamicImage::from_decoder(decoder).map_err(|e| file.failure(limits, &e))?;
    match orientation {
        Ok(orientation) => pixels.apply_orientation(orientation),
        Err(error) => warnings.push(format!("its orientation is unreadable: {error}")),
    }
    Ok(finished(pixels, limits.background, warnings))
}

/// Checks all of the picture in `bytes` but its pixels: format, size, and that its end is there.
pub fn probe(name: &str, bytes: &[u8], limits: &ImageLimits) -> Result<(), MediaError> {
    ImageFile::new(name, bytes)?.open(limits).map(drop)
}

/// A picture's bytes, and what they look like.
struct ImageFile<'a> {
    name: &'a str,
    bytes: &'a [u8],
    format: ImageFormat,
    /// What of the end is missing.
    missing: Option<String>,
}

impl<'a> ImageFile<'a> {
    fn new(name: &'a str, bytes: &'a [u8]) -> Result<Self, MediaError> {
        let format = format_of(name, bytes)?;
        Ok(Self { name, bytes, format, missing: sniff::missing_end(format, bytes) })
    }

    /// A decoder whose header is read and within the limits, and what the user should know.
    fn open(
        &self,
        limits: &ImageLimits,
    ) -> Result<(impl ImageDecoder + 'a, Vec<String>), MediaError> {
        let Self { name, bytes, format, .. } = *self;
        let mut warnings = sniff::warnings(format, bytes);
        if let Some(size) = sniff::png_size(bytes) {
            // The PNG decoder inflates metadata before it tells the size.
            check_size(name, size, limits)?;
        }
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        let mut bounds = Limits::no_limits();
        bounds.max_alloc = Some(allocation(bytes, limits));
        reader.limits(bounds);
        let decoder = reader.into_decoder().map_err(|error| self.failure(limits, &error))?;
        check_size(name, decoder.dimensions(), limits)?;
        if decoder.total_bytes() > limits.max_alloc {
            let reason = format!("{} bytes of pixels", decoder.total_bytes());
            return Err(limit(name, reason, limits.max_alloc.to_string(), "save it with 8 bits"));
        }
        if let Some(detail) = &self.missing {
            let is_used = limits.allow_truncated || sniff::scan_is_whole(bytes);
            if format != ImageFormat::Jpeg || !is_used {
                return Err(self.truncated(detail));
            }
            warnings.push(format!("{detail}: what is there was used"));
        }
        Ok((decoder, warnings))
    }

    /// What an error of the decoder means.
    fn failure(&self, limits: &ImageLimits, error: &ImageError) -> MediaError {
        match &self.missing {
            Some(detail) => self.truncated(detail),
            None => refusal(self.name, label(self.format), limits, error),
        }
    }

    fn truncated(&self, detail: &str) -> MediaError {
        MediaError::Truncated {
            path: self.name.to_string(),
            stage: Stage::Image,
            format: label(self.format).to_string(),
            detail: detail.to_string(),
        }
    }
}

/// PNG metadata may inflate without end; beyond its pixels a PNG gets 32 MB.
fn allocation(bytes: &[u8], limits: &ImageLimits) -> u64 {
    match sniff::png_size(bytes) {
        Some((w, h)) => (u64::from(w) * u64::from(h) * 8 + 32_000_000).min(limits.max_alloc),
        None => limits.max_alloc,
    }
}

fn finished(pixels: DynamicImage, background: [u8; 3], mut warnings: Vec<String>) -> Picture {
    if !pixels.color().has_alpha() {
        return Picture { rgb: pixels.into_rgb8(), rgba: None, warnings };
    }
    let rgba = pixels.into_rgba8();
    if rgba.pixels().all(|p| p.0[3] == 255) {
        return Picture { rgb: DynamicImage::ImageRgba8(rgba).into_rgb8(), rgba: None, warnings };
    }
    if rgba.pixels().all(|p| p.0[3] == 0) {
        warnings.push("every pixel is transparent".to_string());
    }
    Picture { rgb: composite(&rgba, background), rgba: Some(rgba), warnings }
}

/// Lays `rgba` on one colour, rounding to nearest.
pub fn composite(rgba: &RgbaImage, background: [u8; 3]) -> RgbImage {
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (out, pixel) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(pixel.0[3]);
        for ((out, &over), under) in out.0.iter_mut().zip(&pixel.0[..3]).zip(background) {
            let sum = u32::from(over) * alpha + u32::from(under) * (255 - alpha);
            *out = ((sum + 127) / 255) as u8;
        }
    }
    rgb
}

fn format_of(name: &str, bytes: &[u8]) -> Result<ImageFormat, MediaError> {
    let not_an_image = |reason: String| {
        Err(MediaError::NotMedia { path: name.to_string(), stage: Stage::Image, reason })
    };
    if bytes.is_empty() {
        return not_an_image("the file is empty".to_string());
    }
    if let Some(format) = sniff::foreign(bytes) {
        return Err(MediaError::Unsupported {
            path: name.to_string(),
            stage: Stage::Image,
            format: format.to_string(),
            supported: SUPPORTED,
        });
    }
    match image::guess_format(bytes) {
        Ok(format) if format.reading_enabled() => Ok(format),
        Ok(format) => Err(MediaError::Unsupported {
            path: name.to_string(),
            stage: Stage::Image,
            format: label(format).to_string(),
            supported: SUPPORTED,
        }),
        Err(_) => not_an_image(format!("not an image: {}", sniff::describe(bytes))),
    }
}

fn label(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Ico => "ICO",
        ImageFormat::Avif => "AVIF",
        ImageFormat::Pnm => "PNM",
        ImageFormat::Tga => "TGA",
        ImageFormat::Dds => "DDS",
        ImageFormat::Hdr => "HDR",
        ImageFormat::OpenExr => "OpenEXR",
        ImageFormat::Farbfeld => "farbfeld",
        ImageFormat::Qoi => "QOI",
        _ => "of another kind",
    }
}

fn limit(name: &str, reason: String, limit: String, hint: &'static str) -> MediaError {
    MediaError::Limit { path: name.to_string(), stage: Stage::Image, reason, limit, hint }
}

fn check_size(
    name: &str,
    (width, height): (u32, u32),
    limits: &ImageLimits,
) -> Result<(), MediaError> {
    let (long, short) = (width.max(height), width.min(height));
    let pixels = u64::from(width) * u64::from(height);
    let size = format!("{width}x{height} pixels");
    if short < limits.min_side {
        let side = format!("at least {0}x{0}", limits.min_side);
        return Err(limit(name, format!("{size} is too small"), side, "give a larger picture"));
    }
    if pixels > limits.max_pixels {
        let bound = format!("{} megapixels", limits.max_pixels / 1_000_000);
        return Err(limit(name, format!("{size} is too large"), bound, "scale the picture down"));
    }
    if long > limits.max_side {
        let bound = format!("{} a side", limits.max_side);
        return Err(limit(name, format!("{size} is too long"), bound, "scale the picture down"));
    }
    if u64::from(long) > u64::from(short) * u64::from(limits.max_aspect) {
        let reason = format!("{size}: the aspect ratio is too extreme");
        return Err(limit(name, reason, format!("{}:1", limits.max_aspect), "crop the picture"));
    }
    Ok(())
}

fn refusal(name: &str, label: &str, limits: &ImageLimits, error: &ImageError) -> MediaError {
    let (path, format, stage) = (name.to_string(), label.to_string(), Stage::Image);
    let reason = one_line(error);
    match error {
        ImageError::Limits(_) => limit(
            name,
            format!("decoding it takes too much memory ({reason})"),
            format!("{} MB", limits.max_alloc / 1_000_000),
            "save it without metadata, or smaller",
        ),
        ImageError::Unsupported(_) => {
            MediaError::Unsupported { path, stage, format: reason, supported: SUPPORTED }
        }
        _ if sniff::is_unexpected_end(error) => {
            let detail = "the data ends early".to_string();
            MediaError::Truncated { path, stage, format, detail }
        }
        _ => MediaError::Damaged { path, stage, format, reason },
    }
}

/// Decoders put line breaks and control characters of the file into their messages.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let text: String =
        error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    text.trim().to_string()
}
