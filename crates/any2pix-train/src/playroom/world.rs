//! `World`: the prepared store in memory, and what can be drawn from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use any2pix_nn::Generator;
use image::{GrayImage, RgbaImage};
use rayon::prelude::*;

use super::catalogue::Habitat;
use super::compose::{Manner, SQUARE};
use super::error::{PlayroomError, Result};
use super::instruction::Templates;
use super::sample::{Kind, Sample};
use super::scene::{SCENE_SIDE, View};
use super::splits::{Split, Splits};
use super::store::{Index, StoredAmbience, StoredConcept, StoredFile, StoredMusic};
use super::{audio, augment, compose, raster};

/// A cut-out of a concept.
#[derive(Clone, Debug)]
pub struct Sprite {
    /// Its pixels, at most 160 on the longer side.
    pub picture: Arc<RgbaImage>,
    /// Its path in the store.
    pub file: String,
    /// Whether training does not see it.
    pub held_out: bool,
    /// Whether its licence allows to ship it (public domain, CC0, MIT, Apache, CC-BY).
    pub may_ship: bool,
}

/// A sound of a concept.
#[derive(Clone, Debug)]
pub struct Clip {
    /// 16 kHz mono.
    pub samples: Arc<Vec<f32>>,
    /// Its path in the store.
    pub file: String,
    /// Whether training does not hear it.
    pub held_out: bool,
}

/// A kind of thing with its cut-outs and sounds.
#[derive(Clone, Debug)]
pub struct ConceptEntry {
    /// Its name.
    pub name: String,
    /// Its plural.
    pub plural: String,
    /// What else people call it.
    pub synonyms: Vec<String>,
    /// Where it is usually found.
    pub habitat: Habitat,
    /// Smallest and largest usual size, pixels of 128.
    pub size: [u32; 2],
    /// Whether only evaluation shows it.
    pub unseen: bool,
    /// Cut-outs.
    pub sprites: Vec<Sprite>,
    /// Sounds.
    pub clips: Vec<Clip>,
}

/// A picture to compose scenes on.
#[derive(Clone, Debug)]
pub struct BackgroundEntry {
    /// Its pixels, opaque.
    pub picture: Arc<RgbaImage>,
    /// What it shows: "a beach".
    pub label: String,
    /// Whether training does not see it.
    pub held_out: bool,
}

/// Music with what is true of it.
#[derive(Clone, Debug)]
pub struct MusicEntry {
    /// 16 kHz mono.
    pub samples: Arc<Vec<f32>>,
    /// Major (true) or minor.
    pub major: bool,
    /// Beats a minute.
    pub tempo: u32,
    /// From 0 (soft) to 1 (loud).
    pub loudness: f32,
}

/// The Playroom in memory.
pub struct World {
    /// Concepts of training, then unseen ones.
    pub(super) concepts: Vec<ConceptEntry>,
    pub(super) backgrounds: Vec<BackgroundEntry>,
    /// For each setting that training shows, one of its backgrounds and its backdrop.
    pub(super) backdrops: Vec<(usize, Arc<RgbaImage>)>,
    pub(super) ambience: Vec<(String, Arc<Vec<f32>>)>,
    pub(super) music: Vec<MusicEntry>,
    pub(super) templates: Templates,
    by_name: BTreeMap<String, usize>,
    dir: PathBuf,
}

impl World {
    /// Reads the store that `any2pix data playroom` prepared in `dir`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let index = Index::read(dir)?;
        let splits = Splits::of(&index);
        let concepts: Vec<ConceptEntry> = index
            .concepts
            .par_iter()
            .map(|concept| read_concept(dir, concept, &splits))
            .collect::<Result<_>>()?;
        let backgrounds: Vec<BackgroundEntry> = index
            .backgrounds
            .par_iter()
            .map(|background| {
                Ok(BackgroundEntry {
                    picture: Arc::new(raster::decode(&dir.join(&background.file))?),
                    label: background.label.clone(),
                    held_out: splits.backgrounds.contains(&background.file),
                })
            })
            .collect::<Result<_>>()?;
        let by_name = concepts.iter().enumerate().map(|(i, c)| (c.name.clone(), i)).collect();
        let world = Self {
            ambience: read_ambience(dir, &index.ambience)?,
            music: read_music(dir, &index.music)?,
            templates: Templates::load(),
            dir: dir.to_owned(),
            backdrops: backdrops(&backgrounds),
            concepts,
            backgrounds,
            by_name,
        };
        world.check()?;
        Ok(world)
    }

    fn check(&self) -> Result<()> {
        let empty = |what| Err(PlayroomError::Empty { path: self.dir.clone(), what });
        for split in [Split::Train, Split::HeldOut] {
            let held_out = split == Split::HeldOut;
            if !self.backgrounds.iter().any(|background| background.held_out == held_out) {
                return empty("backgrounds");
            }
        }
        if self.training().filter(|c| c.sprites.iter().any(|s| !s.held_out)).count() < 8 {
            return empty("concepts with cut-outs");
        }
        if !self.training().any(|c| c.clips.iter().any(|clip| !clip.held_out)) {
            return empty("sounds");
        }
        if self.music.is_empty() || self.ambience.is_empty() {
            return empty("music");
        }
        Ok(())
    }

    fn training(&self) -> impl Iterator<Item = &ConceptEntry> {
        self.concepts.iter().filter(|concept| !concept.unseen)
    }

    /// Names of the concepts of training, in the order of their ids.
    pub fn concepts(&self) -> Vec<&str> {
        self.training().map(|concept| concept.name.as_str()).collect()
    }

    /// Names of the concepts that only evaluation shows.
    pub fn unseen_concepts(&self) -> Vec<&str> {
        self.concepts.iter().filter(|c| c.unseen).map(|c| c.name.as_str()).collect()
    }

    /// The concept called `name`.
    pub fn concept(&self, name: &str) -> Option<&ConceptEntry> {
        self.by_name.get(name).and_then(|&index| self.concepts.get(index))
    }

    /// The id of the concept called `name`: its position in [`World::concepts`].
    pub fn concept_id(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Cut-outs of a concept in this split: all of an unseen concept's are held out.
    pub fn sprites(&self, concept: &str, split: Split) -> Vec<&Sprite> {
        let held_out = split == Split::HeldOut;
        self.concept(concept).map_or_else(Vec::new, |entry| {
            entry.sprites.iter().filter(|s| (s.held_out || entry.unseen) == held_out).collect()
        })
    }

    /// Sounds of a concept in this split.
    pub fn clips(&self, concept: &str, split: Split) -> Vec<&Clip> {
        let held_out = split == Split::HeldOut;
        self.concept(concept).map_or_else(Vec::new, |entry| {
            entry.clips.iter().filter(|clip| clip.held_out == held_out).collect()
        })
    }

    /// A perturbed clip of a concept of this split, one to two seconds at 16 kHz.
    pub fn augmented_clip(
        &self,
        concept: &str,
        split: Split,
        generator: &mut Generator,
    ) -> Option<Vec<f32>> {
        let clips = self.clips(concept, split);
        let clip = *generator.choose(&clips)?;
        Some(self.perturb(&clip.samples, generator))
    }

    /// A perturbed copy of `clip`, perhaps with weather behind it.
    pub fn perturb(&self, clip: &[f32], generator: &mut Generator) -> Vec<f32> {
        let noise = generator.choose(&self.ambience).map(|(_, samples)| samples.as_slice());
        augment::augment(clip, noise, generator)
    }

    /// A picture of a concept as somebody might show it: a cut-out of this split, bare, on one
    /// colour, on a checker, or in a small photo.
    pub fn reference_picture(
        &self,
        concept: &str,
        split: Split,
        generator: &mut Generator,
    ) -> Option<RgbaImage> {
        Some(self.portrait(concept, split, generator)?.0)
    }

    /// A reference picture and the opacity of the cut-out in it.
    pub fn portrait(
        &self,
        concept: &str,
        split: Split,
        generator: &mut Generator,
    ) -> Option<(RgbaImage, GrayImage)> {
        let sprites = self.sprites(concept, split);
        let sprite = generator.choose(&sprites)?.picture.clone();
        Some(self.portrait_of(&sprite, split, generator))
    }

    /// A reference picture that shows a cut-out, and the opacity of the cut-out in it.
    pub fn portrait_of(
        &self,
        sprite: &Arc<RgbaImage>,
        split: Split,
        generator: &mut Generator,
    ) -> (RgbaImage, GrayImage) {
        compose::portrait(self, generator, split, sprite)
    }

    /// What the backgrounds show, each once, in order.
    pub fn settings(&self) -> Vec<&str> {
        let labels = self.backgrounds.iter().map(|background| background.label.as_str());
        labels.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// What is behind the things of a scene.
    pub fn setting(&self, view: &View) -> &str {
        self.backgrounds.get(view.background).map_or("", |background| &background.label)
    }

    /// A setting in a few soft colours, as [`Manner::drawings`] has it behind them: `None` where
    /// training shows no picture of it.
    pub fn backdrop(&self, setting: &str) -> Option<&RgbaImage> {
        let is_it = |index: &usize| self.backgrounds[*index].label == setting;
        self.backdrops.iter().find(|(index, _)| is_it(index)).map(|(_, picture)| &**picture)
    }

    /// A cut-out of a concept of training as [`Manner::drawings`] puts it down, in its square; clear
    /// where there is no such cut-out.
    pub fn drawn(&self, concept: usize, sprite: usize) -> RgbaImage {
        let entry = self.concepts.get(concept);
        let cut_out = entry.and_then(|entry| Some((entry.sprites.get(sprite)?, entry.size[1])));
        cut_out.map_or_else(
            || RgbaImage::new(SQUARE, SQUARE),
            |(sprite, largest)| compose::drawn(&sprite.picture, largest),
        )
    }

    /// One edit of this split, of `kind` or of any kind; the same for the same generator.
    pub fn sample(&self, generator: &mut Generator, split: Split, kind: Option<Kind>) -> Sample {
        compose::sample(self, generator, split, kind, &Manner::default())
    }

    /// One edit of this split and kind, told and composed in a manner.
    pub fn sample_in(
        &self,
        manner: &Manner,
        generator: &mut Generator,
        split: Split,
        kind: Kind,
    ) -> Sample {
        compose::sample(self, generator, split, Some(kind), manner)
    }

    /// `count` texts that the planner reads and writes, for the tokenizer: instructions (with
    /// references as `[1]`), answers without their control tokens, captions and names.
    pub fn text_corpus(&self, generator: &mut Generator, count: usize) -> Vec<String> {
        compose::text_corpus(self, generator, count)
    }
}

/// Colours of a backdrop, in each direction.
const COLOURS: u32 = 8;

/// The mean colours of what training shows of each setting, drawn out softly.
fn backdrops(backgrounds: &[BackgroundEntry]) -> Vec<(usize, Arc<RgbaImage>)> {
    let mut settings: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, background) in backgrounds.iter().enumerate().filter(|(_, b)| !b.held_out) {
        settings.entry(&background.label).or_default().push(index);
    }
    let backdrop = |indices: &Vec<usize>| {
        let few: Vec<RgbaImage> = indices.iter().map(|&i| colours(&backgrounds[i])).collect();
        let mean = |x, y, c: usize| {
            let sum: u32 = few.iter().map(|picture| u32::from(picture.get_pixel(x, y)[c])).sum();
            (sum / few.len() as u32) as u8
        };
        let mean = RgbaImage::from_fn(COLOURS, COLOURS, |x, y| {
            image::Rgba(std::array::from_fn(|c| mean(x, y, c)))
        });
        (indices[0], Arc::new(raster::resize(&mean, SCENE_SIDE, SCENE_SIDE)))
    };
    settings.values().map(backdrop).collect()
}

/// The middle of a background in [`COLOURS`]² pixels.
fn colours(background: &BackgroundEntry) -> RgbaImage {
    let (width, height) = background.picture.dimensions();
    let side = width.min(height);
    let part = [(width - side) / 2, (height - side) / 2, side, side];
    raster::resize_part(&background.picture, part, COLOURS, COLOURS)
}

fn read_concept(dir: &Path, concept: &StoredConcept, splits: &Splits) -> Result<ConceptEntry> {
    let sprite = |file: &StoredFile| {
        Ok(Sprite {
            picture: Arc::new(raster::decode(&dir.join(&file.file))?),
            held_out: splits.sprites.contains(&file.file),
            may_ship: file.licence.may_ship(),
            file: file.file.clone(),
        })
    };
    let clip = |file: &StoredFile| {
        Ok(Clip {
            samples: Arc::new(audio::read_wav(&dir.join(&file.file))?),
            held_out: splits.clips.contains(&file.file),
            file: file.file.clone(),
        })
    };
    Ok(ConceptEntry {
        sprites: concept.sprites.iter().map(sprite).collect::<Result<_>>()?,
        clips: concept.clips.iter().map(clip).collect::<Result<_>>()?,
        name: concept.name.clone(),
        plural: concept.plural.clone(),
        synonyms: concept.synonyms.clone(),
        habitat: concept.habitat,
        size: concept.size,
        unseen: concept.unseen,
    })
}

fn read_ambience(dir: &Path, stored: &[StoredAmbience]) -> Result<Vec<(String, Arc<Vec<f32>>)>> {
    stored
        .iter()
        .map(|sound| Ok((sound.look.clone(), Arc::new(audio::read_wav(&dir.join(&sound.file))?))))
        .collect()
}

fn read_music(dir: &Path, stored: &[StoredMusic]) -> Result<Vec<MusicEntry>> {
    stored
        .iter()
        .map(|piece| {
            Ok(MusicEntry {
                samples: Arc::new(audio::read_wav(&dir.join(&piece.file))?),
                major: piece.major,
                tempo: piece.tempo,
                loudness: piece.loudness,
            })
        })
        .collect()
}
