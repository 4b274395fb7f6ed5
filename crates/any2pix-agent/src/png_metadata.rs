//! PNG with the edit written into it: an A1111 `parameters` chunk and an `any2pix` JSON chunk.

use image::DynamicImage;
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError};
use serde_json::Value;

/// The keyword that other programs look for.
pub const PARAMETERS: &str = "parameters";
/// The keyword of our JSON.
pub const ANY2PIX: &str = "any2pix";

/// Encodes `image` (as RGB or, where it has alpha, RGBA) with both chunks before the pixels.
pub fn encode(
    image: &DynamicImage,
    parameters: &str,
    document: &Value,
) -> Result<Vec<u8>, EncodingError> {
    let has_alpha = image.color().has_alpha();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(if has_alpha { ColorType::Rgba } else { ColorType::Rgb });
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    add_text(&mut encoder, PARAMETERS, parameters)?;
    add_text(&mut encoder, ANY2PIX, &document.to_string())?;
    let mut writer = encoder.write_header()?;
    if has_alpha {
        writer.write_image_data(image.to_rgba8().as_raw())?;
    } else {
        writer.write_image_data(image.to_rgb8().as_raw())?;
    }
    writer.finish()?;
    Ok(bytes)
}

/// tEXt holds Latin-1 only, and is what most readers look at; anything else goes into iTXt.
fn add_text<W: std::io::Write>(
    encoder: &mut Encoder<'_, W>,
    keyword: &str,
    text: &str,
) -> Result<(), EncodingError> {
    if text.is_ascii() {
        encoder.add_text_chunk(keyword.to_string(), text.to_string())
    } else {
        encoder.add_itxt_chunk(keyword.to_string(), text.to_string())
    }
}

/// The text under `keyword` in a PNG file, if it has one.
pub fn text(bytes: &[u8], keyword: &str) -> Option<String> {
    let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().ok()?;
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
    if let Some(chunk) = latin {
        return Some(chunk.text.clone());
    }
    let utf8 = info.utf8_text.iter().find(|chunk| chunk.keyword == keyword)?;
    utf8.get_text().ok()
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, Rgba, RgbaImage};
    use serde_json::json;

    use super::*;

    #[test]
    fn pixels_and_texts_come_back() {
        let rgb = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8, y as u8, 200]));
        let rgba = RgbaImage::from_fn(3, 5, |x, y| Rgba([x as u8, 9, 7, y as u8]));
        let document = json!({"instruction": "ein Hündchen \u{1f436}", "seed": 7});
        for image in [DynamicImage::from(rgb), DynamicImage::from(rgba)] {
            let bytes = encode(&image, "add a dog\nSteps: 20", &document).unwrap();
            assert_eq!(image::load_from_memory(&bytes).unwrap(), image);
            assert_eq!(text(&bytes, PARAMETERS).unwrap(), "add a dog\nSteps: 20");
            assert_eq!(text(&bytes, ANY2PIX).unwrap(), document.to_string());
            assert_eq!(text(&bytes, "other"), None);
        }
    }
}
