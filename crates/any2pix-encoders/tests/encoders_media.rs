//! Pictures and sounds as people and attackers bring them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::io::Cursor;

use any2pix_encoders::audio::{self, AudioLimits, Waveform};
use any2pix_encoders::image::{self as picture, ImageLimits, Picture};
use any2pix_encoders::{MediaError, audio::SUPPORTED};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

fn scene() -> RgbImage {
    RgbImage::from_fn(64, 40, |x, y| Rgb([x as u8 * 4, y as u8 * 6, (x * y) as u8]))
}

fn encoded(picture: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn see(bytes: &[u8]) -> Result<Picture, MediaError> {
    picture::decode("in", bytes, &ImageLimits::default())
}

fn refusal(bytes: &[u8]) -> String {
    let Err(error) = see(bytes) else { panic!("{} bytes were accepted", bytes.len()) };
    let error = error.to_string();
    assert!(!error.contains('\n') && error.starts_with("in: "), "{error}");
    error
}

#[test]
fn every_format_gives_its_pixels_whatever_its_name() {
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let seen = see(&encoded(scene().into(), format)).unwrap();
        assert_eq!(seen.rgb, scene(), "{format:?}");
        assert!(seen.rgba.is_none() && seen.warnings.is_empty(), "{format:?}");
    }
    assert!(see(&encoded(scene().into(), ImageFormat::Jpeg)).is_ok());
    assert!(see(&encoded(scene().into(), ImageFormat::Gif)).is_ok());
}

#[test]
fn deep_and_grey_pictures_become_eight_bit_rgb() {
    let deep = DynamicImage::ImageRgb8(scene()).into_rgb16();
    assert_eq!(see(&encoded(deep.into(), ImageFormat::Png)).unwrap().rgb, scene());
    let grey = DynamicImage::ImageRgb8(scene()).into_luma8();
    let seen = see(&encoded(grey.clone().into(), ImageFormat::Png)).unwrap();
    assert!(seen.rgb.pixels().zip(grey.pixels()).all(|(a, b)| a.0 == [b.0[0]; 3]));
}

#[test]
fn transparency_is_laid_on_white_and_kept() {
    let half = RgbaImage::from_fn(32, 32, |x, _| Rgba([200, 0, 0, if x < 16 { 0 } else { 128 }]));
    let seen = see(&encoded(half.clone().into(), ImageFormat::Png)).unwrap();
    assert_eq!(seen.rgb.get_pixel(0, 0).0, [255, 255, 255]);
    assert_eq!(seen.rgb.get_pixel(31, 0).0, [227, 127, 127]);
    assert_eq!(seen.rgba.as_ref(), Some(&half));
    assert_eq!(seen.alpha().unwrap().get_pixel(31, 0).0, [128]);
    assert_eq!(seen.without_alpha().get_pixel(0, 0).0, [200, 0, 0]);
    let clear = RgbaImage::from_pixel(32, 32, Rgba([9, 9, 9, 0]));
    let seen = see(&encoded(clear.into(), ImageFormat::Png)).unwrap();
    assert!(seen.warnings[0].contains("transparent"), "{:?}", seen.warnings);
}

/// A JPEG with an EXIF segment that says `orientation`.
fn turned(orientation: u8) -> Vec<u8> {
    let jpeg = encoded(scene().into(), ImageFormat::Jpeg);
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1];
    bytes.extend((exif.len() as u16 + 2).to_be_bytes());
    bytes.extend(exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn exif_orientation_is_applied_and_nonsense_ignored() {
    let upright = see(&turned(1)).unwrap().rgb;
    let expected = DynamicImage::ImageRgb8(upright.clone());
    assert_eq!(see(&turned(3)).unwrap().rgb, expected.rotate180().into_rgb8());
    assert_eq!(see(&turned(6)).unwrap().rgb, expected.rotate90().into_rgb8());
    assert_eq!(see(&turned(8)).unwrap().rgb, expected.rotate270().into_rgb8());
    assert_eq!(see(&turned(5)).unwrap().rgb, expected.fliph().rotate270().into_rgb8());
    assert_eq!(see(&turned(9)).unwrap().rgb, upright);
}

#[test]
fn a_cut_file_is_called_truncated_at_every_cut() {
    for (format, name) in [
        (ImageFormat::Png, "PNG"),
        (ImageFormat::Jpeg, "JPEG"),
        (ImageFormat::WebP, "WebP"),
        (ImageFormat::Gif, "GIF"),
    ] {
        let bytes = encoded(scene().into(), format);
        for part in [20, 40, 50, 60, 75, 90] {
            let error = refusal(&bytes[..bytes.len() * part / 100]);
            assert!(error.contains(&format!("truncated {name}")), "{name} {part}%: {error}");
        }
    }
}

#[test]
fn a_jpeg_that_lacks_only_its_end_mark_is_taken_with_a_warning() {
    let bytes = encoded(scene().into(), ImageFormat::Jpeg);
    let seen = see(&bytes[..bytes.len() - 2]).unwrap();
    assert_eq!(seen.rgb, see(&bytes).unwrap().rgb);
    assert!(seen.warnings[0].contains("EOI"), "{:?}", seen.warnings);
    let lenient = ImageLimits { allow_truncated: true, ..ImageLimits::default() };
    assert!(picture::decode("in", &bytes[..bytes.len() / 2], &lenient).is_ok());
}

/// A PNG header that claims `width`×`height`, without data.
fn claim(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(scene().into(), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    bytes
}

#[test]
fn sizes_out_of_bounds_are_refused_from_the_header() {
    for (size, word) in [
        ((65_535, 65_535), "megapixels"),
        ((u32::MAX >> 1, u32::MAX >> 1), "megapixels"),
        ((20_000, 4_000), "a side"),
        ((16_000, 64), "aspect"),
        ((1, 1), "too small"),
        ((400, 8), "too small"),
    ] {
        let error = refusal(&claim(size.0, size.1));
        assert!(error.contains(word) && error.contains(&size.0.to_string()), "{error}");
    }
}

#[test]
fn what_is_no_picture_is_named() {
    assert!(refusal(b"").contains("empty"));
    assert!(refusal(b"dear diary, today").contains("text"));
    assert!(refusal(b"%PDF-1.7 ...").contains("unsupported format PDF"));
    assert!(refusal(b"\0\0\0\x18ftypheic\0\0\0\0").contains("HEIC"));
    assert!(refusal(b"<?xml version='1.0'?><svg/>").contains("SVG"));
    assert!(refusal(b"fLaC\0\0\0\x22").contains("sound"));
}

#[test]
fn flipped_bits_never_panic() {
    let mut generator = any2pix_nn::Generator::new(5);
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let bytes = encoded(scene().into(), format);
        for _ in 0..60 {
            let mut bent = bytes.clone();
            let at = generator.below(bent.len());
            bent[at] ^= 1 << generator.below(8);
            drop(see(&bent));
        }
    }
}

/// A WAV file with the given header fields.
fn wav(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8], size: u32) -> Vec<u8> {
    let frame = channels.wrapping_mul(bits / 8);
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    bytes.extend(tag.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(u32::from(frame)).to_le_bytes());
    bytes.extend(frame.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(size.to_le_bytes());
    bytes.extend(data);
    bytes
}

fn hear(bytes: &[u8]) -> Result<Waveform, MediaError> {
    audio::decode("in", bytes, &AudioLimits::default())
}

fn tone() -> Vec<u8> {
    (0..8_000i32).flat_map(|i| ((i * 7919 % 20_011 - 10_000) as i16).to_le_bytes()).collect()
}

#[test]
fn sample_formats_agree() {
    let data = tone();
    let reference = hear(&wav(1, 1, 16_000, 16, &data, data.len() as u32)).unwrap();
    assert_eq!(reference.frames(), 8_000);
    let wider = |convert: &dyn Fn(f32) -> Vec<u8>| -> Vec<u8> {
        reference.channels[0].iter().flat_map(|&s| convert(s)).collect()
    };
    let as_24 = wider(&|s| ((s * 8_388_608.0) as i32).to_le_bytes()[..3].to_vec());
    let as_32 = wider(&|s| ((s * 2_147_483_648.0) as i32).to_le_bytes().to_vec());
    let as_f32 = wider(&|s| s.to_le_bytes().to_vec());
    let as_f64 = wider(&|s| f64::from(s).to_le_bytes().to_vec());
    for (tag, bits, data) in [(1, 24, as_24), (1, 32, as_32), (3, 32, as_f32), (3, 64, as_f64)] {
        let heard = hear(&wav(tag, 1, 16_000, bits, &data, data.len() as u32)).unwrap();
        assert_eq!(heard.channels, reference.channels, "{tag} {bits}");
    }
}

#[test]
fn streamed_and_lying_headers_are_read_to_the_real_end() {
    let data = tone();
    let streamed = hear(&wav(1, 1, 16_000, 16, &data, u32::MAX)).unwrap();
    assert!(streamed.warnings.is_empty());
    let lying = hear(&wav(1, 1, 16_000, 16, &data, u32::MAX - 1)).unwrap();
    assert_eq!((lying.frames(), lying.warnings.len()), (8_000, 1));
}

#[test]
fn sounds_out_of_bounds_are_refused_in_one_line() {
    let data = tone();
    let size = data.len() as u32;
    let nan: Vec<u8> = f32::NAN.to_le_bytes().repeat(8_000);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (wav(1, 1, 0, 16, &data, size), "0 Hz"),
        (wav(1, 1, 3_999, 16, &data, size), "3999 Hz"),
        (wav(1, 1, u32::MAX, 16, &data, size), "4294967295 Hz"),
        (wav(1, 0, 16_000, 16, &data, size), "0 channels"),
        (wav(1, 9, 16_000, 16, &data, size), "9 channels"),
        (wav(1, 65_535, 16_000, 16, &data, size), "65535 channels"),
        (wav(1, 1, 16_000, 7, &data, size), "7 bits"),
        (wav(2, 1, 16_000, 4, &data, size), "MS ADPCM"),
        (wav(1, 1, 16_000, 16, &data, 0), "no audio samples"),
        (wav(1, 1, 16_000, 16, &[0; 8_000], 8_000), "silent"),
        (wav(1, 1, 16_000, 16, &data[..20], 20), "shorter than"),
        (wav(3, 1, 16_000, 32, &nan, 32_000), "non-finite"),
        (b"OggS....OpusHead".to_vec(), "Opus"),
        (b"dear diary".to_vec(), "text"),
        (Vec::new(), "empty"),
    ];
    for (bytes, word) in cases {
        let error = hear(&bytes).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
    }
    let short = AudioLimits { max_seconds: 0.1, ..AudioLimits::default() };
    let error = audio::decode("in", &wav(1, 1, 16_000, 16, &data, size), &short).unwrap_err();
    assert!(error.to_string().contains("0.1 s"), "{error}");
    assert!(SUPPORTED.contains("FLAC"));
}

#[test]
fn broken_scales_are_clipped_with_a_warning() {
    let data: Vec<u8> = [1e30f32, -1e30, 0.5, 0.25].map(f32::to_le_bytes).concat().repeat(1_000);
    let heard = hear(&wav(3, 1, 16_000, 32, &data, data.len() as u32)).unwrap();
    assert_eq!(heard.channels[0][..3], [1.0, -1.0, 0.5]);
    assert_eq!(heard.warnings.len(), 1);
}

/// Two sines, 440 Hz left and 880 Hz right, 0.3 s at 22050 Hz, from other people's encoders.
const TONES: [(&str, &[u8]); 3] = [
    ("flac", include_bytes!("media/tone.flac")),
    ("ogg", include_bytes!("media/tone.ogg")),
    ("mp3", include_bytes!("media/tone.mp3")),
];

/// How often a second a channel crosses zero upwards, in its middle.
fn pitch(samples: &[f32], rate: u32) -> f32 {
    let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
    let crossings = middle.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    crossings as f32 * rate as f32 / middle.len() as f32
}

#[test]
fn compressed_sounds_keep_channels_rate_and_pitch() {
    for (name, bytes) in TONES {
        let heard = hear(bytes).unwrap();
        assert_eq!((heard.channels.len(), heard.sample_rate), (2, 22_050), "{name}");
        assert!((0.29..0.42).contains(&heard.seconds()), "{name}: {}", heard.seconds());
        for (channel, expected) in heard.channels.iter().zip([440.0, 880.0]) {
            let found = pitch(channel, heard.sample_rate);
            assert!((found - expected).abs() < 15.0, "{name}: {found} Hz, not {expected}");
        }
    }
}

#[test]
fn cut_or_damaged_compressed_sounds_are_refused_or_heard_but_never_panic() {
    for (name, bytes) in TONES {
        for part in 1..16 {
            let cut = &bytes[..bytes.len() * part / 16];
            if let Err(error) = hear(cut) {
                assert!(!error.to_string().contains('\n'), "{name}: {error}");
            }
            let mut damaged = bytes.to_vec();
            let at = bytes.len() * part / 16;
            damaged[at] ^= 0xff;
            let _ = hear(&damaged);
        }
    }
}

#[test]
fn a_picture_in_printing_colours_is_seen_in_its_own() {
    let seen = see(include_bytes!("media/cmyk.jpg")).unwrap();
    assert_eq!(seen.rgb.dimensions(), (48, 32));
    let ([r, _, b], [r2, _, b2]) = (seen.rgb.get_pixel(24, 1).0, seen.rgb.get_pixel(24, 30).0);
    assert!(r > 150 && b < 100 && r2 < 100 && b2 > 150, "{r} {b} {r2} {b2}");
}
