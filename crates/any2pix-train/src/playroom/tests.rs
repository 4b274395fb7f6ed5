//! A tiny world, made here, in which everything that samples promise is checked.

use std::collections::BTreeMap;
use std::path::Path;

use any2pix_nn::Generator;
use image::{Rgba, RgbaImage};

use super::catalogue::{Habitat, Licence};
use super::compose::{Manner, SQUARE, square_of};
use super::sample::{AnswerPiece, Kind, Media, Piece, Sample};
use super::scene::SCENE_SIDE;
use super::splits::Split;
use super::store::{
    Index, StoredAmbience, StoredBackground, StoredConcept, StoredFile, StoredMusic, VERSION,
};
use super::{World, audio, suite};

fn stored(file: String, package: &str) -> StoredFile {
    let source = file.clone();
    let (package, licence) = (package.to_owned(), Licence::Pd);
    StoredFile { file, package, source, licence, synthesised: false }
}

fn tone(dir: &Path, file: &str, step: f32) {
    let samples: Vec<f32> = (0..8000).map(|i| 0.5 * libm::sinf(i as f32 * step)).collect();
    audio::write_wav(&dir.join(file), &samples).unwrap();
}

/// Discs of twelve colours; every second one has sounds; the last one is unseen.
fn concept(dir: &Path, number: usize) -> StoredConcept {
    let sprites = (0..6)
        .map(|variant| {
            let file = format!("sprite-{number}-{variant}.png");
            let colour = [(number * 20) as u8, (variant * 40) as u8, 90, 255];
            RgbaImage::from_fn(60, 50 + variant, |x, y| {
                let inside = (x as i32 - 30).pow(2) + (y as i32 - 25).pow(2) < 600;
                Rgba(if inside { colour } else { [0; 4] })
            })
            .save(dir.join(&file))
            .unwrap();
            stored(file, "one")
        })
        .collect();
    let clips = (0..3 * (1 - number % 2))
        .map(|variant| {
            let file = format!("clip-{number}-{variant}.wav");
            tone(dir, &file, 0.1 + 0.01 * (number * 3 + variant) as f32);
            stored(file, if variant == 1 { "two" } else { "one" })
        })
        .collect();
    StoredConcept {
        name: format!("disc{number}"),
        plural: format!("discs{number}"),
        synonyms: vec![format!("round{number}")],
        habitat: [Habitat::Ground, Habitat::Air, Habitat::Water, Habitat::Surface][number % 4],
        size: [26, 60],
        unseen: number == 11,
        sprites,
        clips,
    }
}

fn world(dir: &Path) -> World {
    let backgrounds = (0..10)
        .map(|number: u8| {
            let file = format!("background-{number}.png");
            RgbaImage::from_fn(160, 140, |x, y| Rgba([x as u8, y as u8, number * 20, 255]))
                .save(dir.join(&file))
                .unwrap();
            StoredBackground {
                source: file.clone(),
                package: "one".to_owned(),
                licence: "public domain".to_owned(),
                label: format!("a plain {number}"),
                file,
            }
        })
        .collect();
    tone(dir, "rain.wav", 0.9);
    tone(dir, "music.wav", 0.05);
    let (file, look, source) = ("rain.wav".to_owned(), "rain".to_owned(), String::new());
    let ambience = vec![StoredAmbience { file, look, source }];
    let file = "music.wav".to_owned();
    let music = vec![StoredMusic { file, major: true, tempo: 120, loudness: 0.5 }];
    let concepts = (0..12).map(|number| concept(dir, number)).collect();
    Index { version: VERSION, concepts, backgrounds, ambience, music }.write(dir).unwrap();
    World::open(dir).unwrap()
}

fn check(sample: &Sample) {
    let named: Vec<usize> = sample
        .pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Media(index) => Some(*index),
            Piece::Text(_) => None,
        })
        .collect();
    assert_eq!(named, (0..sample.media.len()).collect::<Vec<_>>(), "in the order of appearance");
    assert_eq!(sample.base.is_none(), sample.kind == Kind::Generate);
    if let Some(base) = sample.base {
        let Media::Image { picture, concept: None } = &sample.media[base] else { panic!() };
        assert_eq!(picture.get_pixel(64, 64).0[..3], sample.source.get_pixel(64, 64).0);
    }
    let changed = sample.mask.pixels().filter(|pixel| pixel[0] == 255).count();
    assert!(changed > 0 || sample.operation == "recolour");
    for ((mask, before), after) in
        sample.mask.pixels().zip(sample.source.pixels()).zip(sample.target.pixels())
    {
        assert!(mask[0] == 255 || (0..3).all(|c| before[c].abs_diff(after[c]) <= 2));
    }
    for slot in sample.wanted.iter().chain(&sample.unwanted) {
        let bbox = slot.bbox;
        assert!(bbox.x + bbox.width <= 128 && bbox.y + bbox.height <= 128, "{bbox:?}");
        assert_eq!(slot.cutout.dimensions(), (bbox.width, bbox.height));
    }
    for slot in &sample.wanted {
        let is_it = |p: &super::Present| p.concept == slot.concept && p.bbox == slot.bbox;
        assert!(sample.objects_after.iter().any(is_it), "{sample:?}");
    }
    if let (Kind::Add, Some(place)) = (sample.kind, sample.place) {
        assert!(place.holds(&sample.wanted[0].bbox));
    }
    let answer = sample.assistant_text();
    let slots = answer.iter().filter(|piece| matches!(piece, AnswerPiece::Slot(_))).count();
    let removed = if sample.kind == Kind::Adjust { 0 } else { sample.unwanted.len() };
    let base = usize::from(sample.base.is_some());
    assert_eq!(slots, 1 + base + sample.wanted.len() + removed);
}

#[test]
fn samples_of_all_kinds_keep_what_they_promise() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    assert_eq!(world.concepts().len(), 11);
    assert_eq!(world.sprites("disc0", Split::HeldOut).len(), 1);
    assert_eq!(world.clips("disc0", Split::HeldOut)[0].file, "clip-0-1.wav");
    for kind in Kind::ALL {
        for seed in 0..25 {
            let split = if seed % 2 == 0 { Split::Train } else { Split::HeldOut };
            let sample = world.sample(&mut Generator::new(seed), split, Some(kind));
            check(&sample);
            let again = world.sample(&mut Generator::new(seed), split, Some(kind));
            assert_eq!(sample.instruction(), again.instruction());
            assert!(sample.target == again.target && sample.source == again.source);
        }
    }
}

#[test]
fn training_never_shows_what_is_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let mut generator = Generator::new(3);
    for _ in 0..200 {
        let sample = world.sample(&mut generator, Split::Train, None);
        assert!(sample.wanted.iter().all(|slot| slot.concept != "disc11"));
        for object in &sample.recipe.target.objects {
            assert!(!world.concepts[object.concept].sprites[object.sprite].held_out);
        }
        assert!(!world.backgrounds[sample.recipe.target.view.background].held_out);
    }
}

fn manner(varied: bool) -> Manner {
    Manner { words_only: true, varied, unpainted: false, drawings: vec![0; 11].into() }
}

#[test]
fn a_caption_names_its_drawings_from_left_to_right_and_is_always_the_same_picture() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let (mut pictures, mut together) = (BTreeMap::new(), 0);
    for seed in 0..60 {
        let mut generator = Generator::new(seed);
        let sample = world.sample_in(&manner(true), &mut generator, Split::Train, Kind::Generate);
        let named: Vec<&str> = sample.wanted.iter().map(|slot| slot.concept.as_str()).collect();
        let shown: Vec<&str> = sample.objects_after.iter().map(|o| o.concept.as_str()).collect();
        assert_eq!(named, shown);
        let corners = sample.wanted.iter().map(|slot| square_of(&slot.bbox).0);
        assert!(corners.zip([0, SCENE_SIDE - SQUARE]).all(|(left, right)| left == right));
        together = together.max(named.len());
        let behind = world.setting(&sample.recipe.target.view);
        let backdrop = world.backdrop(behind).unwrap();
        assert_eq!(*sample.recipe.target.view.picture, *backdrop);
        let before = pictures.insert(sample.caption, sample.target.clone());
        assert!(before.is_none_or(|before| before == sample.target));
    }
    assert_eq!(together, 2);
}

#[test]
fn only_training_varies_what_stands_in_a_scene() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let source = |varied: bool, split: Split, seed: u64| {
        world.sample_in(&manner(varied), &mut Generator::new(seed), split, Kind::Remove).source
    };
    let differs =
        |split| (0..4).any(|seed| source(true, split, seed) != source(false, split, seed));
    assert!(differs(Split::Train) && !differs(Split::HeldOut));
}

#[test]
fn a_suite_names_files_that_exist() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let out = dir.path().join("suite");
    suite::write(&world, &out, 20).unwrap();
    let text = std::fs::read_to_string(out.join("suite.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 20);
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["base", "target", "mask"] {
            assert!(row[key].as_str().is_none_or(|file| out.join(file).is_file()), "{line}");
        }
        let instruction = row["instruction"].as_str().unwrap();
        for reference in instruction.split('[').skip(1) {
            let file = reference.split(']').next().unwrap();
            assert!(out.join(file).is_file(), "{instruction}");
        }
    }
}
