//! `Published`: figures under the names of published comparisons, by the weights they are made
//! with. Without its weights a figure is absent, and what stands in its place is why.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use any2pix_agent::outcome::{sha256, sha256_of_file};
use any2pix_encoders::EncoderError;
use any2pix_encoders::aesthetic::{self, AestheticConfig, AestheticPredictor};
use any2pix_encoders::clip::{self, ClipConfig, ClipModel};
use any2pix_encoders::clip_tokenizer::{ClipTokenizer, Padding};
use any2pix_encoders::clip_vision::ClipImageProcessor;
use any2pix_encoders::dino::{self, Dino, DinoConfig};
use any2pix_encoders::lpips::{self, Lpips, LpipsConfig};
use any2pix_encoders::resize::{self, Filter};
use any2pix_nn::ops::{Precision, PrecisionScope};
use any2pix_nn::{Checkpoint, CheckpointError};
use candle_core::{DType, Device, Tensor};
use image::{GrayImage, RgbImage};
use serde::de::DeserializeOwned;

use crate::item::Figures;
use crate::metrics::lpips::Map;
use crate::metrics::pixels::Where;
use crate::metrics::{retrieval::cosine, similarity, unfiltered};
use crate::report::Absent;
use crate::{EvalError, Result};

/// Files that hold a published model's weights, the one that is read first.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "sac+logos+ava1-l14-linearMSE.pth",
];

const BASE: &str = "clip-vit-base-patch32";
const LARGE: &str = "clip-vit-large-patch14";
const DINO: &str = "dino-vits16";
const AESTHETIC: &str = "aesthetic";
const PICKSCORE: &str = "pickscore";
const LPIPS: &str = "lpips";
/// What LPIPS is made of: torchvision's network, and the authors' weights of its layers.
const ALEXNET: &str = "alexnet-owt-7be5be79.pth";
const LINEAR: &str = "alex.pth";

/// Every figure with the folders that it needs, and whether it reads captions: of the target, of
/// the source too.
const FIGURES: [(&str, &[&str], Captions); 14] = [
    ("lpips", &[LPIPS], Captions::None),
    ("lpips_inside", &[LPIPS], Captions::None),
    ("lpips_outside", &[LPIPS], Captions::None),
    ("clip_i", &[BASE], Captions::None),
    ("clip_t", &[BASE], Captions::Target),
    ("dino", &[DINO], Captions::None),
    ("dino_sub", &[DINO], Captions::None),
    ("dino_ref", &[DINO], Captions::None),
    ("clip_sim_image", &[LARGE], Captions::None),
    ("clip_sim_0", &[LARGE], Captions::Both),
    ("clip_sim_1", &[LARGE], Captions::Target),
    ("clip_sim_direction", &[LARGE], Captions::Both),
    ("aesthetic", &[LARGE, AESTHETIC], Captions::None),
    ("pickscore", &[PICKSCORE], Captions::Target),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Captions {
    None,
    Target,
    Both,
}

/// What one edit is judged by.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// What was edited.
    pub source: Option<&'a RgbImage>,
    /// What the result should be, when somebody knows.
    pub target: Option<&'a RgbImage>,
    /// Where the target differs from the source.
    pub mask: Option<&'a GrayImage>,
    /// What the result is.
    pub result: &'a RgbImage,
    /// For each object that was given as a picture: where it is in the result, and the picture.
    pub subjects: &'a [(RgbImage, RgbImage)],
    /// The source in words.
    pub source_caption: Option<&'a str>,
    /// The target in words.
    pub caption: Option<&'a str>,
}

/// A CLIP with what prepares its inputs.
pub(crate) struct Clip {
    model: ClipModel,
    processor: ClipImageProcessor,
    tokenizer: ClipTokenizer,
}

impl Clip {
    fn open(folder: &Path) -> Result<Self, EncoderError> {
        let config: ClipConfig = read(folder, "config.json")?;
        let checkpoint = weights(folder)?;
        let model = ClipModel::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
        checkpoint.finish(clip::IGNORED)?;
        let preprocessor = folder.join("preprocessor_config.json");
        let side = config.vision_config.image_size as u32;
        let processor = if preprocessor.is_file() {
            ClipImageProcessor::from_json(&text(&preprocessor)?)?
        } else {
            ClipImageProcessor::of_side(side)
        };
        if processor.side() != side {
            let reason = format!("pictures of {}, not of {side}", processor.side());
            return Err(EncoderError::Config { component: "preprocessor_config.json", reason });
        }
        let merges = folder.join("merges.txt");
        let context = config.text_config.max_position_embeddings;
        let tokenizer = if merges.is_file() {
            ClipTokenizer::open(merges, context)?
        } else {
            ClipTokenizer::new()?
        };
        Ok(Self { model, processor, tokenizer })
    }

    /// # Shapes
    /// `input` `(3, side, side)` → `projection_dim` values.
    fn features(&self, input: &Tensor) -> Result<Vec<f32>> {
        Ok(self.model.image_features(&input.unsqueeze(0)?)?.squeeze(0)?.to_vec1()?)
    }

    /// As CLIPImageProcessor shows it.
    fn image(&self, picture: &RgbImage) -> Result<Vec<f32>> {
        self.features(&self.processor.apply(picture)?)
    }

    /// As ClipSimilarity of InstructPix2Pix shows it, whose colours are from 0 to 1.
    pub(crate) fn plain_image(&self, picture: &RgbImage, range: ColourRange) -> Result<Vec<f32>> {
        let (mean, std) = self.processor.mean_and_std();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let colour = |v: &u8| match range {
            ColourRange::Unit => f32::from(*v) / 255.0,
            ColourRange::Signed => f32::from(*v) / 127.5 - 1.0,
        };
        let fractions = picture.as_raw().iter().map(colour).collect();
        let image = Tensor::from_vec::<_, f32>(fractions, (height, width, 3), &Device::Cpu)?;
        let small =
            unfiltered::resized(&image.permute((2, 0, 1))?, self.processor.side() as usize)?;
        self.features(&unfiltered::normalised(&small, mean, std)?)
    }

    fn text(&self, caption: &str) -> Result<Vec<f32>, EncoderError> {
        let ids = self.tokenizer.encode(caption, Padding::End)?;
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.model.text_features(&ids)?.squeeze(0)?.to_vec1()?)
    }
}

/// What InstructPix2Pix' ClipSimilarity is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColourRange {
    /// Colours from 0 to 1, as it wants them.
    #[default]
    Unit,
    /// Colours from -1 to 1: the published `compute_metrics.py` forgets to bring them to 0 to 1,
    /// so that its figures compare with none but its own.
    Signed,
}

/// The models that could be opened, and what the others' absence costs.
pub struct Published {
    base: Option<Clip>,
    large: Option<Clip>,
    pick: Option<Clip>,
    dino: Option<Dino>,
    lpips: Option<Lpips>,
    aesthetic: Option<AestheticPredictor>,
    missing: BTreeMap<&'static str, String>,
    hashes: BTreeMap<&'static str, String>,
    range: ColourRange,
}

impl Published {
    /// The models of `root`, each in its folder: `clip-vit-base-patch32`,
    /// `clip-vit-large-patch14`, `dino-vits16`, `aesthetic`, `pickscore`, `lpips`. A folder that is
    /// not there costs its figures; one that cannot be read is an error. Whatever the precision of
    /// edits, these models compute in f32, as those of the published figures.
    pub fn open(root: Option<&Path>) -> Result<Self> {
        let _exact = PrecisionScope::new(Precision::F32);
        if let Some(root) = root {
            fs::read_dir(root).map_err(EvalError::io(root))?;
        }
        let (mut missing, mut hashes) = (BTreeMap::new(), BTreeMap::new());
        for name in root.map_or(&[][..], |_| &[BASE, LARGE, DINO, AESTHETIC, PICKSCORE, LPIPS]) {
            if let Some(folder) = root.map(|root| root.join(name)).filter(|f| f.is_dir()) {
                hashes.insert(*name, hash_of(&folder)?);
            }
        }
        let mut folder = |name: &'static str| {
            let found = root.map(|root| root.join(name)).filter(|folder| folder.is_dir());
            if found.is_none() {
                let why = match root {
                    Some(root) => format!("{}: no such folder", root.join(name).display()),
                    None => format!("needs --metrics-model with a folder {name}"),
                };
                missing.insert(name, why);
            }
            found
        };
        Ok(Self {
            base: opened(folder(BASE), Clip::open)?,
            large: opened(folder(LARGE), Clip::open)?,
            pick: opened(folder(PICKSCORE), Clip::open)?,
            dino: opened(folder(DINO), open_dino)?,
            lpips: opened(folder(LPIPS), open_lpips)?,
            aesthetic: opened(folder(AESTHETIC), open_aesthetic)?,
            missing,
            hashes,
            range: ColourRange::default(),
        })
    }

    /// The same, with colours of that range for ClipSimilarity.
    pub fn with_range(self, range: ColourRange) -> Self {
        Self { range, ..self }
    }

    /// SHA-256 over the files of every model that was found, by its folder.
    pub fn hashes(&self) -> &BTreeMap<&'static str, String> {
        &self.hashes
    }

    /// The folders of the models that each figure is made with.
    pub fn made_with(&self) -> BTreeMap<&'static str, &'static [&'static str]> {
        let is_made = |folders: &[&str]| folders.iter().all(|f| !self.missing.contains_key(f));
        let made = FIGURES.into_iter().filter(|(_, folders, _)| is_made(folders));
        made.map(|(figure, folders, _)| (figure, folders)).collect()
    }

    /// The figures of one edit; those that lack weights, a caption or a source are absent.
    pub fn figures(&self, shown: &Shown<'_>) -> Result<Figures> {
        let _exact = PrecisionScope::new(Precision::F32);
        let mut figures = Figures::new();
        let mut put = |name: &str, value: f64| figures.insert(name.to_string(), value);
        if let Some(base) = &self.base {
            let result = base.image(shown.result)?;
            if let Some(target) = shown.target {
                put("clip_i", cosine(&result, &base.image(target)?));
            }
            if let Some(caption) = shown.caption {
                put("clip_t", cosine(&result, &described(base, BASE, caption)?));
            }
        }
        if let Some(dino) = &self.dino {
            if let Some(target) = shown.target {
                put("dino", dino_likeness(dino, shown.result, target)?);
            }
            if let Some(source) = shown.source {
                put("dino_ref", dino_likeness(dino, shown.result, source)?);
            }
            let likeness = |(seen, given): &(_, _)| dino_likeness(dino, seen, given);
            let alike = shown.subjects.iter().map(likeness).collect::<Result<Vec<f64>>>()?;
            if !alike.is_empty() {
                put("dino_sub", alike.iter().sum::<f64>() / alike.len() as f64);
            }
        }
        if let Some(lpips) = &self.lpips {
            figures.extend(perceptual(lpips, shown)?);
        }
        let mut put = |name: &str, value: f64| figures.insert(name.to_string(), value);
        if let (Some(pick), Some(caption)) = (&self.pick, shown.caption) {
            let text = described(pick, PICKSCORE, caption)?;
            let scale = pick.model.logit_scale()?;
            put("pickscore", similarity::pick_score(scale, &text, &pick.image(shown.result)?));
        }
        if let Some(large) = &self.large {
            if let Some(aesthetic) = &self.aesthetic {
                let embedding = large.image(shown.result)?;
                let embedding = Tensor::new(embedding, &Device::Cpu)?.unsqueeze(0)?;
                let score = aesthetic.forward(&aesthetic::normalised(&embedding)?)?;
                put("aesthetic", f64::from(score.flatten_all()?.get(0)?.to_scalar::<f32>()?));
            }
            figures.extend(clip_similarity(large, self.range, shown)?);
        }
        Ok(figures)
    }

    /// Why a figure is in no sample, for every figure that is in none; `captions` says whether
    /// any item describes its target, and its source.
    pub fn absent(&self, captions: (bool, bool)) -> Absent {
        let why = |(name, folders, needs): (&'static str, &[&str], Captions)| {
            let missing = folders.iter().find_map(|folder| self.missing.get(folder)).cloned();
            let silent = match needs {
                Captions::None => None,
                Captions::Target => (!captions.0).then_some("target"),
                Captions::Both if captions.0 => (!captions.1).then_some("source"),
                Captions::Both => Some("target"),
            };
            let silent = silent.map(|which| format!("the suite has no captions of the {which}"));
            Some((name, missing.or(silent)?))
        };
        FIGURES.into_iter().filter_map(why).collect()
    }
}

/// The cosine of two pictures' class tokens.
fn dino_likeness(dino: &Dino, a: &RgbImage, b: &RgbImage) -> Result<f64> {
    let inputs = [dino.input(a)?, dino.input(b)?];
    let cls = dino.forward(&Tensor::stack(&inputs, 0)?)?.narrow(1, 0, 1)?.squeeze(1)?;
    Ok(match cls.to_vec2::<f32>()?.as_slice() {
        [a, b] => cosine(a, b),
        _ => 0.0,
    })
}

/// LPIPS of result and target, at the target's size: as a whole, and where the target differs from
/// the source and where not. Pictures too small for the network have none.
fn perceptual(lpips: &Lpips, shown: &Shown<'_>) -> Result<Figures> {
    let mut figures = Figures::new();
    let Some(target) = shown.target else { return Ok(figures) };
    let size = target.dimensions();
    if (size.0.min(size.1) as usize) < lpips::LEAST_SIDE {
        return Ok(figures);
    }
    let input = |picture: &RgbImage| -> Result<Tensor> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let values = picture.as_raw().iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
        let image = Tensor::from_vec::<_, f32>(values, (1, height, width, 3), &Device::Cpu)?;
        Ok(image.permute((0, 3, 1, 2))?.contiguous()?)
    };
    let result = resize::resize(shown.result, size, Filter::Bicubic);
    let map = |layer: Tensor| -> Result<Map> {
        Ok(Map { width: layer.dims2()?.1, values: layer.flatten_all()?.to_vec1()? })
    };
    let layers = lpips.differences(&input(&result)?, &input(target)?)?;
    let maps = layers.into_iter().map(map).collect::<Result<Vec<Map>>>()?;
    let mut places = vec![("lpips", Where::Everywhere)];
    if let Some(mask) = shown.mask {
        places.extend([
            ("lpips_inside", Where::Inside(mask)),
            ("lpips_outside", Where::Outside(mask)),
        ]);
    }
    for (name, place) in places {
        if let Some(value) = crate::metrics::lpips::mean(&maps, size, place) {
            figures.insert(name.to_string(), value);
        }
    }
    Ok(figures)
}

/// ClipSimilarity of InstructPix2Pix.
fn clip_similarity(clip: &Clip, range: ColourRange, shown: &Shown<'_>) -> Result<Figures> {
    let mut figures = Figures::new();
    let mut put = |name: &str, value: f64| figures.insert(name.to_string(), value);
    let after = clip.plain_image(shown.result, range)?;
    let before = shown.source.map(|source| clip.plain_image(source, range)).transpose()?;
    let words = |caption: Option<&str>| caption.map(|c| described(clip, LARGE, c)).transpose();
    let (source, target) = (words(shown.source_caption)?, words(shown.caption)?);
    if let Some(before) = &before {
        put("clip_sim_image", cosine(before, &after));
    }
    if let (Some(before), Some(source)) = (&before, &source) {
        put("clip_sim_0", cosine(before, source));
    }
    if let Some(target) = &target {
        put("clip_sim_1", cosine(&after, target));
    }
    if let (Some(before), Some(source), Some(target)) = (&before, &source, &target) {
        let direction = similarity::directional([before, &after], [source, target]);
        put("clip_sim_direction", direction);
    }
    Ok(figures)
}

fn refused(folder: &Path, source: EncoderError) -> EvalError {
    EvalError::Metric { folder: folder.to_path_buf(), source: Box::new(source) }
}

/// What a CLIP makes of words; `folder` is named when it refuses them.
pub(crate) fn described(clip: &Clip, folder: &str, caption: &str) -> Result<Vec<f32>> {
    clip.text(caption).map_err(|source| refused(Path::new(folder), source))
}

/// The CLIP in `folder`, and SHA-256 over its files.
pub(crate) fn open_clip(folder: &Path) -> Result<(Clip, String)> {
    let clip = Clip::open(folder).map_err(|source| refused(folder, source))?;
    Ok((clip, hash_of(folder)?))
}

fn opened<T>(
    folder: Option<PathBuf>,
    open: impl Fn(&Path) -> Result<T, EncoderError>,
) -> Result<Option<T>> {
    let open = |folder: PathBuf| open(&folder).map_err(|source| refused(&folder, source));
    folder.map(open).transpose()
}

fn open_dino(folder: &Path) -> Result<Dino, EncoderError> {
    let config: DinoConfig = read(folder, "config.json")?;
    let checkpoint = weights(folder)?;
    let model = Dino::load(checkpoint.builder(DType::F32, &Device::Cpu), &config)?;
    checkpoint.finish(dino::IGNORED)?;
    Ok(model)
}

/// Two files as published, or their like in safetensors; neither comes with a config.
fn open_lpips(folder: &Path) -> Result<Lpips, EncoderError> {
    let file = |name: &str| {
        let plain = folder.join(name).with_extension("safetensors");
        Checkpoint::open(if plain.is_file() { plain } else { folder.join(name) })
    };
    let (network, linear) = (file(ALEXNET)?, file(LINEAR)?);
    let builder = |checkpoint: &Checkpoint| checkpoint.builder(DType::F32, &Device::Cpu);
    let model = Lpips::load(builder(&network), builder(&linear), &LpipsConfig::default())?;
    network.finish(lpips::IGNORED)?;
    linear.finish(&[])?;
    Ok(model)
}

/// The published predictor comes without a config; its first layer tells the only number in it.
fn open_aesthetic(folder: &Path) -> Result<AestheticPredictor, EncoderError> {
    let checkpoint = weights(folder)?;
    let width = |entry: &any2pix_nn::checkpoint::Entry| match entry.shape.as_slice() {
        [_, width] if entry.name == "layers.0.weight" => Some(*width),
        _ => None,
    };
    let input_size = checkpoint.entries().iter().find_map(width).ok_or_else(|| {
        let reason = "there is no layers.0.weight".to_string();
        EncoderError::Config { component: "aesthetic predictor", reason }
    })?;
    let builder = checkpoint.builder(DType::F32, &Device::Cpu);
    let model = AestheticPredictor::load(builder, &AestheticConfig { input_size })?;
    checkpoint.finish(&[])?;
    Ok(model)
}

fn text(path: &Path) -> Result<String, EncoderError> {
    fs::read_to_string(path)
        .map_err(|source| EncoderError::Unreadable { path: path.to_path_buf(), source })
}

fn read<T: DeserializeOwned>(folder: &Path, file: &'static str) -> Result<T, EncoderError> {
    serde_json::from_str(&text(&folder.join(file))?)
        .map_err(|e| EncoderError::Config { component: file, reason: e.to_string() })
}

/// SHA-256 over the names and contents of a folder's files.
fn hash_of(folder: &Path) -> Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).map_err(EvalError::io(folder))? {
        let path = entry.map_err(EvalError::io(folder))?.path();
        if path.is_file() {
            let hash = sha256_of_file(&path).map_err(EvalError::io(&path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            lines.push(format!("{name} {hash}\n"));
        }
    }
    lines.sort();
    Ok(sha256(lines.concat().as_bytes()))
}

fn weights(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut files = WEIGHTS.iter().map(|file| folder.join(file));
    match files.find(|file| file.is_file()) {
        Some(file) => Checkpoint::open(file),
        None => Err(CheckpointError::Malformed {
            origin: folder.display().to_string(),
            reason: format!("none of {} is there", WEIGHTS.join(", ")),
        }),
    }
}
