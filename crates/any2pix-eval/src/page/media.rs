//! `Media`: every picture and sound of a page once, as data URIs, in the largest size that fits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use any2pix_encoders::audio::{self, AudioLimits};
use any2pix_encoders::image::{self as pictures, ImageLimits};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ExtendedColorType, imageops::FilterType};
use rayon::prelude::*;

use super::wave;

/// The longer side of a picture and its JPEG quality, the best first.
const SIZES: [(u32, u8); 6] = [(256, 80), (192, 75), (160, 70), (144, 68), (128, 65), (96, 60)];
const SPECTROGRAM_QUALITY: u8 = 60;
/// Largest file that is looked into.
const MOST_BYTES: u64 = 50_000_000;

/// A file as the page has it.
enum Coded {
    /// JPEG in each of [`SIZES`], and height over width.
    Picture(Vec<Vec<u8>>, f64),
    /// WAV, and JPEG of the spectrogram.
    Sound(Vec<u8>, Option<Vec<u8>>),
}

/// Where a file's media stand among [`Media::uris`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// A picture, with width over height.
    Picture {
        /// Its place.
        at: usize,
        /// Width over height.
        ratio: f64,
    },
    /// A sound, and its spectrogram.
    Sound {
        /// Its place.
        at: usize,
        /// Where it is drawn.
        spectrogram: Option<usize>,
    },
}

/// What was read of many files; the same content is there once.
#[derive(Default)]
pub(super) struct Media {
    /// Data URIs.
    pub(super) uris: Vec<String>,
    places: BTreeMap<PathBuf, Place>,
}

impl Media {
    /// Reads `files` and takes the largest pictures of which all together take `budget` bytes; the
    /// smallest when none does. Files that are not there or neither picture nor sound are left out.
    pub(super) fn read(mut files: Vec<PathBuf>, budget: usize) -> Self {
        files.sort();
        files.dedup();
        let coded: Vec<(PathBuf, Coded)> =
            files.into_par_iter().filter_map(|path| Some((path.clone(), code(&path)?))).collect();
        let mut media = Self::default();
        for size in 0..SIZES.len() {
            media = Self::of(&coded, size);
            // A comma and two quotes each.
            if media.uris.iter().map(|uri| uri.len() + 3).sum::<usize>() <= budget {
                break;
            }
        }
        media
    }

    fn of(coded: &[(PathBuf, Coded)], size: usize) -> Self {
        let mut media = Self::default();
        let mut known = BTreeMap::<&[u8], usize>::new();
        for (path, coded) in coded {
            let mut put = |kind: &str, bytes| {
                *known.entry(bytes).or_insert_with(|| {
                    media.uris.push(format!("data:{kind};base64,{}", STANDARD.encode(bytes)));
                    media.uris.len() - 1
                })
            };
            let place = match coded {
                Coded::Picture(sizes, ratio) => {
                    Place::Picture { at: put("image/jpeg", &sizes[size]), ratio: *ratio }
                }
                Coded::Sound(sound, drawing) => Place::Sound {
                    at: put("audio/wav", sound),
                    spectrogram: drawing.as_deref().map(|drawing| put("image/jpeg", drawing)),
                },
            };
            media.places.insert(path.clone(), place);
        }
        media
    }

    /// Where the media of a file are, when it could be read.
    pub(super) fn place(&self, path: &Path) -> Option<Place> {
        self.places.get(path).copied()
    }
}

fn code(path: &Path) -> Option<Coded> {
    if fs::metadata(path).ok()?.len() > MOST_BYTES {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let name = path.display().to_string();
    if let Ok(picture) = pictures::decode(&name, &bytes, &ImageLimits::default()) {
        let mut picture = DynamicImage::ImageRgb8(picture.rgb);
        let ratio = f64::from(picture.width()) / f64::from(picture.height().max(1));
        let mut sizes = Vec::with_capacity(SIZES.len());
        for (side, quality) in SIZES {
            // Small pictures are not blown up; each size is made from the one before.
            if picture.width().max(picture.height()) > side {
                picture = picture.resize(side, side, FilterType::CatmullRom);
            }
            sizes.push(jpeg(&picture, quality)?);
        }
        return Some(Coded::Picture(sizes, ratio));
    }
    let sound = audio::decode(&name, &bytes, &AudioLimits::default()).ok()?;
    let drawing = wave::spectrogram(&sound).map(DynamicImage::ImageLuma8);
    let drawing = drawing.and_then(|drawing| jpeg(&drawing, SPECTROGRAM_QUALITY));
    Some(Coded::Sound(wave::coded(&sound), drawing))
}

fn jpeg(picture: &DynamicImage, quality: u8) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    let kind = ExtendedColorType::from(picture.color());
    encoder.encode(picture.as_bytes(), picture.width(), picture.height(), kind).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    #[test]
    fn the_same_content_is_there_once_and_a_small_budget_makes_small_pictures() {
        let folder = std::env::temp_dir().join(format!("any2pix-media-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let picture = |seed: u32| {
            RgbImage::from_fn(300, 200, |x, y| {
                Rgb([(x * seed) as u8, (y * 3) as u8, (x ^ y) as u8])
            })
        };
        let paths = ["a.png", "b.png", "c.png", "no.png"].map(|name| folder.join(name));
        for (path, seed) in paths.iter().zip([1, 1, 7]) {
            picture(seed).save(path).unwrap();
        }
        let large = Media::read(paths.to_vec(), usize::MAX);
        assert_eq!(large.uris.len(), 2);
        assert_eq!(large.place(&paths[0]), large.place(&paths[1]));
        assert_eq!(large.place(&paths[0]), Some(Place::Picture { at: 0, ratio: 1.5 }));
        assert_eq!(large.place(&paths[3]), None);
        let all = |media: &Media| media.uris.iter().map(String::len).sum::<usize>();
        let budget = all(&large) / 2;
        let small = Media::read(paths.to_vec(), budget);
        assert!(all(&small) <= budget, "{} > {budget}", all(&small));
        assert_eq!(small.uris, Media::read(paths.to_vec(), budget).uris);
        fs::remove_dir_all(folder).unwrap();
    }
}
