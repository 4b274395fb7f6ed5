//! From catalogued recordings and soundfont instruments to 16 kHz mono clips of at most 6 s.

use std::path::Path;

use any2pix_nn::Generator;

use super::audio;
use super::catalogue::{Catalogue, Concept, Licence, SourceFile};
use super::error::{PlayroomError, Result};
use super::packages::{Packages, create_dir};
use super::sprites::slug;
use super::store::{StoredAmbience, StoredFile, StoredMusic};
use super::synth::{self, Mood, Orchestra};

/// Longest clip, seconds.
const LONGEST: f32 = 6.0;
/// Clips shorter than this after trimming say nothing.
const SHORTEST: f32 = 0.05;
const PEAK: f32 = 0.8;
const PHRASES_A_PROGRAM: usize = 4;
const FONT_PACKAGE: &str = "fluid-soundfont-gm";
const FONT_FILE: &str = "usr/share/sounds/sf2/FluidR3_GM.sf2";

/// Sounds of weather that ask for a look: (look, package, file).
const AMBIENCE: &[(&str, &str, &str)] = &[
    ("storm", "openttd-opensfx", "usr/share/games/openttd/baseset/opensfx/opensfx.cat#52"),
    ("storm", "openttd-opensfx", "usr/share/games/openttd/baseset/opensfx/opensfx.cat#57"),
    (
        "night",
        "tuxpaint-stamps-default",
        "usr/share/tuxpaint/stamps/animals/insects/grasshopper.ogg",
    ),
    ("night", "scratch", "usr/share/scratch/Media/Sounds/Animal/Crickets.wav"),
];

/// The soundfont of the recipe.
pub fn orchestra(packages: &Packages) -> Result<Orchestra> {
    Orchestra::open(&packages.file(FONT_PACKAGE, FONT_FILE))
}

/// Writes the clips of `concept` under `dir/sounds/<concept>/`.
pub fn prepare(
    dir: &Path,
    packages: &Packages,
    orchestra: &Orchestra,
    catalogue: &Catalogue,
    concept: &Concept,
) -> Result<Vec<StoredFile>> {
    let folder = format!("sounds/{}", slug(&concept.name));
    let mut stored = Vec::new();
    if concept.sounds.is_empty() && concept.programs.is_empty() {
        return Ok(stored);
    }
    create_dir(&dir.join(&folder))?;
    for (number, source) in concept.sounds.iter().enumerate() {
        if catalogue.is_rejected(&concept.name, &source.package, &source.file) {
            continue;
        }
        let samples = clip(packages, &source.package, &source.file)?;
        if samples.is_empty() {
            continue;
        }
        let file = format!("{folder}/{number:02}.wav");
        audio::write_wav(&dir.join(&file), &samples)?;
        stored.push(stored_clip(file, source, false));
    }
    if concept.name == "dog" {
        stored.extend(prepare_barks(dir, &folder)?);
    }
    for &program in &concept.programs {
        let mut generator = Generator::new(u64::from(program)).fork("phrases");
        for number in 0..PHRASES_A_PROGRAM {
            let mut samples = audio::trim(&orchestra.phrase(program, &mut generator)?, LONGEST);
            audio::normalise(&mut samples, PEAK);
            let file = format!("{folder}/gm{program:03}-{number}.wav");
            audio::write_wav(&dir.join(&file), &samples)?;
            let source = SourceFile {
                package: FONT_PACKAGE.to_owned(),
                file: format!("{FONT_FILE}#{program}"),
                licence: Licence::Permissive,
            };
            stored.push(stored_clip(file, &source, true));
        }
    }
    Ok(stored)
}

/// Barks made here, beside the recorded ones, since the examples need one that may be passed on.
fn prepare_barks(dir: &Path, folder: &str) -> Result<Vec<StoredFile>> {
    let mut generator = Generator::new(1).fork("barks");
    let source = SourceFile {
        package: "any2pix".to_owned(),
        file: "synthesised bark".to_owned(),
        licence: Licence::Permissive,
    };
    (0..6)
        .map(|number| {
            let file = format!("{folder}/bark-{number}.wav");
            audio::write_wav(&dir.join(&file), &synth::barks(&mut generator))?;
            Ok(stored_clip(file, &source, true))
        })
        .collect()
}

fn stored_clip(file: String, source: &SourceFile, synthesised: bool) -> StoredFile {
    StoredFile {
        file,
        package: source.package.clone(),
        source: source.file.clone(),
        licence: source.licence,
        synthesised,
    }
}

/// Decodes a recording; empty when nothing audible is in it.
fn clip(packages: &Packages, package: &str, file: &str) -> Result<Vec<f32>> {
    let path = packages.file(package, file);
    let mut bytes = std::fs::read(&path).map_err(PlayroomError::io(&path))?;
    if let Some((_, entry)) = file.split_once('#') {
        bytes = archive_entry(&bytes, entry)
            .ok_or_else(|| PlayroomError::format(&path)(format!("no entry {entry}")))?;
    }
    let samples = audio::decode(&bytes, &path)?;
    let mut samples = audio::trim(&samples, LONGEST);
    if (samples.len() as f32) < SHORTEST * audio::SAMPLE_RATE as f32 {
        return Ok(Vec::new());
    }
    audio::normalise(&mut samples, PEAK);
    Ok(samples)
}

/// Entry `number` of a sound archive: a table of (offset, size), each sound with its name before.
fn archive_entry(bytes: &[u8], number: &str) -> Option<Vec<u8>> {
    let number: usize = number.parse().ok()?;
    let word =
        |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    // The highest bit of the first offset tells the newer layout of the same table.
    let offset = word(number * 8)? & 0x7fff_ffff;
    let size = word(number * 8 + 4)?;
    let start = offset + 1 + usize::from(*bytes.get(offset)?);
    Some(bytes.get(start..start + size)?.to_vec())
}

/// Writes sounds of weather under `dir/ambience/`.
pub fn prepare_ambience(dir: &Path, packages: &Packages) -> Result<Vec<StoredAmbience>> {
    create_dir(&dir.join("ambience"))?;
    let mut stored = Vec::new();
    for (number, &(look, package, file)) in AMBIENCE.iter().enumerate() {
        let samples = clip(packages, package, file)?;
        let name = format!("ambience/{number:02}-{look}.wav");
        audio::write_wav(&dir.join(&name), &samples)?;
        let source = format!("{package}:{file}");
        stored.push(StoredAmbience { file: name, look: look.to_owned(), source });
    }
    let mut generator = Generator::new(1).fork("rain");
    for number in 0..6 {
        let name = format!("ambience/rain{number}.wav");
        audio::write_wav(&dir.join(&name), &synth::rain(3.0, &mut generator))?;
        let source = "synthesised".to_owned();
        stored.push(StoredAmbience { file: name, look: "rain".to_owned(), source });
    }
    Ok(stored)
}

/// Writes music of known mode, tempo and loudness under `dir/music/`.
pub fn prepare_music(dir: &Path, orchestra: &Orchestra) -> Result<Vec<StoredMusic>> {
    create_dir(&dir.join("music"))?;
    let mut generator = Generator::new(1).fork("music");
    let mut stored = Vec::new();
    for number in 0..48 {
        let mood = Mood {
            major: number % 2 == 0,
            tempo: [56, 72, 92, 116, 144, 168][(number / 2) % 6],
            loudness: [0.1, 0.4, 0.7, 1.0][number / 12],
        };
        let samples = orchestra.music(mood, &mut generator)?;
        let file = format!("music/{number:02}.wav");
        audio::write_wav(&dir.join(&file), &samples)?;
        let Mood { major, tempo, loudness } = mood;
        stored.push(StoredMusic { file, major, tempo, loudness });
    }
    Ok(stored)
}
