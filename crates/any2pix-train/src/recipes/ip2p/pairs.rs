//! `Pairs`: where pictures before and after come from, each with its instruction.

use std::collections::BTreeMap;
use std::path::Path;

use any2pix_nn::Generator;
use candle_core::{Device, Tensor};
use image::{GrayImage, Rgb, RgbImage};

use super::folder::Folder;
use super::watch::Looked;
use super::{Words, drawings};
use crate::Result;
use crate::playroom::recipe::difference;
use crate::playroom::splits::Split;
use crate::playroom::{Kind, Manner, World};
use crate::recipes::component;
use crate::recipes::pictures::to_tensor;

/// How often each kind of edit is drawn, against the others.
pub(super) type Kinds = BTreeMap<Kind, f32>;

/// One of the kinds, as often as it is said; adding when nothing is said.
pub(super) fn draw_kind(kinds: &Kinds, generator: &mut Generator) -> Kind {
    let mut left = generator.uniform() * kinds.values().sum::<f32>();
    let mut last = Kind::Add;
    for (kind, weight) in kinds {
        last = *kind;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// A picture before and after; without one before, the text is a caption of the one after.
pub(super) struct Pair {
    pub(super) source: Option<RgbImage>,
    pub(super) target: RgbImage,
    pub(super) text: String,
    /// Where the text says something of the picture.
    pub(super) looked: Looked,
}

/// Pairs as tensors.
pub(super) struct Batch {
    /// `(b, 3, h, w)` in `[-1, 1]`; grey where there is none.
    pub(super) source: Tensor,
    /// Which have a source.
    pub(super) has_source: Vec<bool>,
    /// The same.
    pub(super) target: Tensor,
    /// Where they differ, `(b, 1, h, w)`, 0 or 1; nowhere without a source.
    pub(super) changed: Tensor,
    pub(super) texts: Vec<String>,
    /// Where the texts say something of the pictures.
    pub(super) looked: Vec<Looked>,
}

impl Batch {
    pub(super) fn new(pairs: Vec<Pair>) -> Result<Self> {
        let (mut changed, mut sources) = (Vec::new(), Vec::new());
        for Pair { source, target, .. } in &pairs {
            let (w, h) = (target.width() as usize, target.height() as usize);
            let mask = match source {
                Some(source) => difference(source, target),
                None => GrayImage::new(target.width(), target.height()),
            };
            let mask: Vec<f32> = mask.pixels().map(|p| f32::from(u8::from(p[0] > 0))).collect();
            changed.push(Tensor::from_vec(mask, (1, h, w), &Device::Cpu)?);
            let grey = || RgbImage::from_pixel(w as u32, h as u32, Rgb([127; 3]));
            sources.push(source.clone().unwrap_or_else(grey));
        }
        Ok(Self {
            source: to_tensor(&sources)?,
            has_source: pairs.iter().map(|pair| pair.source.is_some()).collect(),
            target: to_tensor(pairs.iter().map(|pair| &pair.target))?,
            changed: Tensor::stack(&changed, 0)?,
            texts: pairs.iter().map(|pair| pair.text.clone()).collect(),
            looked: pairs.into_iter().map(|pair| pair.looked).collect(),
        })
    }
}

/// A source of pairs.
pub(super) enum Pairs {
    /// Composed on the fly.
    World(Box<Composed>),
    /// Files in the layout of the published data.
    Folder(Folder),
}

/// Pairs of the Playroom.
pub(super) struct Composed {
    world: World,
    manner: Manner,
    kinds: Kinds,
    words: Words,
}

impl Pairs {
    /// What `data` holds: the published layout if it has its list, else a Playroom.
    pub(super) fn open(data: &Path, model: &Path, kinds: Kinds, side: u32) -> Result<Self> {
        if Folder::is_one(data) {
            return Ok(Self::Folder(Folder::open(data, side)?));
        }
        let world = World::open(data).map_err(component::misfit)?;
        let drawings = drawings::typical(&world, &component::imagebind(model)?)?;
        let manner =
            Manner { words_only: true, varied: true, unpainted: false, drawings: drawings.into() };
        Ok(Self::World(Box::new(Composed { world, manner, kinds, words: Words::read()? })))
    }

    /// One pair of this split.
    pub(super) fn draw(&self, split: Split, generator: &mut Generator) -> Result<Pair> {
        match self {
            Self::Folder(folder) => folder.draw(split, generator),
            Self::World(composed) => {
                let Composed { world, manner, kinds, words } = &**composed;
                let kind = draw_kind(kinds, generator);
                let sample = world.sample_in(manner, generator, split, kind);
                let text = words.of(&sample);
                let looked = Looked::of(&sample);
                Ok(Pair { source: Some(sample.source), target: sample.target, text, looked })
            }
        }
    }

    /// A picture and its caption, where whole pictures can be told in words.
    pub(super) fn caption(&self, split: Split, generator: &mut Generator) -> Option<Pair> {
        let Self::World(composed) = self else { return None };
        let Composed { world, manner, .. } = &**composed;
        let sample = world.sample_in(manner, generator, split, Kind::Generate);
        let looked = Looked::of(&sample);
        Some(Pair { source: None, target: sample.target, text: sample.caption, looked })
    }
}
