//! `Locator`: where in a picture a thing is, or where it may go.
//!
//! A picture is looked at once, whatever is asked: every cell says as a vector what it belongs to,
//! and a query is answered by likeness (OWL-ViT, Minderer et al. 2022), so that one picture teaches
//! all its things and all that it does not show.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm, Linear, ops};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::convnet::{ResBlock, Stage, StageConfig, pixels, space_to_depth};
use crate::resize::{Filter, resize};

/// A part of a picture, as a word of place names it: bounds of an object's centre, in parts of the
/// picture's sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    /// Left and right bound.
    pub x: [f32; 2],
    /// Upper and lower bound.
    pub y: [f32; 2],
}

impl Area {
    /// The whole picture.
    pub const ANYWHERE: Self = Self { x: [0.0, 1.0], y: [0.0, 1.0] };

    /// What a plan's word of place means (`LEFT`, `top-right`); `None` for any other word.
    pub fn named(word: &str) -> Option<Self> {
        let (near, middle, far) = ([0.0, 0.40], [0.36, 0.64], [0.60, 1.0]);
        let mut area = Self::ANYWHERE;
        for part in word.to_ascii_uppercase().split('-') {
            match part {
                "LEFT" => area.x = near,
                "RIGHT" => area.x = far,
                "TOP" => area.y = near,
                "BOTTOM" => area.y = far,
                "CENTER" => area = Self { x: middle, y: middle },
                _ => return None,
            }
        }
        Some(area)
    }

    /// Whether a point lies in it.
    pub fn holds(&self, x: f32, y: f32) -> bool {
        let within = |value: f32, [low, high]: [f32; 2]| (low..=high).contains(&value);
        within(x, self.x) && within(y, self.y)
    }

    /// For each cell of a grid whether its middle lies in it, row by row.
    pub fn cells(&self, side: usize) -> Vec<bool> {
        let at = middles(side);
        at.iter().flat_map(|&y| at.iter().map(move |&x| self.holds(x, y))).collect()
    }
}

/// Sizes of a [`Locator`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocatorConfig {
    /// Side of the picture, pixels.
    pub sample_size: usize,
    /// Pixels per cell and axis at the first stage, which is also the mask's resolution.
    pub patch_size: usize,
    /// Channels of the stages; each halves the resolution of the one before.
    pub block_out_channels: Vec<usize>,
    /// Blocks of a stage.
    pub layers_per_block: usize,
    /// Width of the query.
    pub embed_dim: usize,
    /// Width of the space in which cells and queries meet.
    pub match_dim: usize,
}

impl LocatorConfig {
    /// Cells along a side of the mask.
    pub fn mask_size(&self) -> usize {
        self.sample_size / self.patch_size.max(1)
    }
}

/// What the cells of a batch of pictures say, before anything is asked.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `(b, side, side, c)`.
    features: Tensor,
    /// `(b, side·side, 4)`: the box of the thing that a cell belongs to: centre, width and height,
    /// in parts of the picture's side.
    pub boxes: Tensor,
    /// Cells along a side.
    pub side: usize,
}

impl Seen {
    /// What the first `count` pictures say.
    pub fn first(&self, count: usize) -> Result<Self> {
        let part = |t: &Tensor| t.narrow(0, 0, count);
        Ok(Self { features: part(&self.features)?, boxes: part(&self.boxes)?, side: self.side })
    }
}

/// Where the things of queries are.
#[derive(Clone, Debug)]
pub struct Found {
    /// `(b, q, side·side)`: logit that a cell belongs to the thing.
    pub mask_logits: Tensor,
    /// `(b, q, side·side)`: unnormalised log-probability that the thing's centre is in a cell.
    pub centre_logits: Tensor,
}

/// Where the thing of one query per picture may go.
#[derive(Clone, Debug)]
pub struct Room {
    /// `(b, side·side)`: unnormalised log-probability of the centre.
    pub centre_logits: Tensor,
    /// `(b, side·side, 2)`: width and height there, in parts of the picture's side.
    pub sizes: Tensor,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Location {
    /// Centre x and y, width and height, in parts of the picture's side.
    pub bbox: [f32; 4],
    /// `side·side` probabilities, row by row: the thing's cells, or those of the box to put it in.
    pub mask: Vec<f32>,
    /// Cells along a side of the mask.
    pub side: usize,
    /// How sure the mask is of its surest cell in the box.
    pub confidence: f32,
    /// Probability of its centre.
    pub likelihood: f32,
}

/// Encoder and decoder of the picture, and the likeness of its cells to a query.
#[derive(Clone, Debug)]
pub struct Locator {
    conv_in: Conv2d,
    down: Vec<Stage>,
    up: Vec<Stage>,
    norm_out: GroupNorm,
    cells_out: Linear,
    boxes_out: Linear,
    query_in: Linear,
    query_out: Linear,
    put_block: ResBlock,
    put_norm: GroupNorm,
    put_out: Linear,
    config: LocatorConfig,
}

/// Below this a mask says nothing of its thing; what stands out there says more.
const SURE: f32 = 0.5;
/// Most cells belong to nothing that is asked for.
const MASK_BIAS: f64 = -2.0;
/// The logit of what cannot be.
const LEAST_LIKELY: f64 = -1e4;
/// A cell sees the centre of its thing this many cells away, at most.
const REACH: f64 = 4.0;
const GROUPS: usize = 8;
const EPS: f64 = 1e-5;

impl Locator {
    /// Builds the model.
    pub fn load(vb: VarBuilder, config: &LocatorConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let Some(&first) = channels.first() else {
            candle_core::bail!("block_out_channels must name at least one stage");
        };
        let blocks = config.layers_per_block;
        let stem = 3 * config.patch_size * config.patch_size + 2;
        let mut down = Vec::new();
        for (i, &out_channels) in channels.iter().enumerate() {
            let in_channels = if i == 0 { first } else { channels[i - 1] };
            let stage = StageConfig { in_channels, out_channels, blocks, down: i > 0 };
            down.push(Stage::load(vb.pp(format!("down_blocks.{i}")), stage)?);
        }
        let mut up = Vec::new();
        for (i, pair) in channels.windows(2).rev().enumerate() {
            let (in_channels, out_channels) = (pair[0] + pair[1], pair[0]);
            let stage = StageConfig { in_channels, out_channels, blocks, down: false };
            up.push(Stage::load(vb.pp(format!("up_blocks.{i}")), stage)?);
        }
        let both = 2 * config.match_dim;
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), stem, first, Conv2dConfig::K3)?,
            down,
            up,
            norm_out: GroupNorm::load(vb.pp("norm_out"), GROUPS, first, EPS)?,
            cells_out: Linear::load(vb.pp("cells_out"), first, both)?,
            boxes_out: Linear::load(vb.pp("boxes_out"), first, 4)?,
            query_in: Linear::load(vb.pp("query_in"), config.embed_dim, both)?,
            query_out: Linear::load(vb.pp("query_out"), both, both)?,
            put_block: ResBlock::load(vb.pp("put_block"), first, first, both)?,
            put_norm: GroupNorm::load(vb.pp("put_norm"), GROUPS, first, EPS)?,
            put_out: Linear::load(vb.pp("put_out"), first, 3)?,
            config: config.clone(),
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &LocatorConfig {
        &self.config
    }

    /// Looks at pictures.
    ///
    /// # Shapes
    /// `pictures` `(b, 3, sample_size, sample_size)` in ±1.
    pub fn see(&self, pictures: &Tensor) -> Result<Seen> {
        let batch = pictures.dim(0)?;
        let cells = space_to_depth(pictures, self.config.patch_size)?;
        let side = cells.dim(1)?;
        let middles = cell_middles(side, pictures.device())?;
        let grid = ((middles.reshape((1, side, side, 2))? * 2.0)? - 1.0)?;
        let grid = grid.broadcast_as((batch, side, side, 2))?;
        let mut x = self.conv_in.forward(&Tensor::cat(&[&cells, &grid], 3)?)?;
        let mut skips = Vec::new();
        for stage in &self.down {
            x = stage.forward(&x)?;
            skips.push(x.clone());
        }
        skips.pop();
        for stage in &self.up {
            let Some(skip) = skips.pop() else { break };
            x = stage.forward(&ops::concat_channels(&ops::upsample_nearest2x(&x)?, &skip)?)?;
        }
        let features = self.norm_out.forward_silu(&x)?;
        let raw = self.boxes_out.forward(&features.reshape((batch, side * side, ()))?)?;
        let offset = (raw.narrow(2, 0, 2)?.tanh()? * (REACH / side as f64))?;
        let size = candle_nn::ops::sigmoid(&raw.narrow(2, 2, 2)?.contiguous()?)?;
        let boxes = Tensor::cat(&[&offset.broadcast_add(&middles)?, &size], 2)?;
        Ok(Seen { features, boxes, side })
    }

    /// What is asked for, in the space of the cells. Queries are brought to length √E first, so
    /// that their norm carries nothing.
    ///
    /// # Shapes
    /// `(q, embed_dim)` → `(q, 2·match_dim)`.
    fn keys(&self, queries: &Tensor) -> Result<Tensor> {
        let width = self.config.embed_dim as f64;
        let norm = queries.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-6)?;
        let unit = (queries.broadcast_div(&norm)? * width.sqrt())?;
        self.query_out.forward(&ops::silu(&self.query_in.forward(&unit)?)?)
    }

    /// Asks for every query in every picture.
    ///
    /// # Shapes
    /// `queries` `(q, embed_dim)`.
    pub fn find(&self, seen: &Seen, queries: &Tensor) -> Result<Found> {
        let (width, keys) = (self.config.match_dim, self.keys(queries)?);
        let batch = seen.features.dim(0)?;
        let features = seen.features.reshape((batch, seen.side * seen.side, ()))?;
        let cells = self.cells_out.forward(&features)?;
        let likeness = |start: usize| -> Result<Tensor> {
            let part = |t: &Tensor, dim: usize| t.narrow(dim, start, width)?.contiguous();
            let likeness = ops::linear(&part(&cells, 2)?, &part(&keys, 1)?, None)?;
            (likeness * (1.0 / (width as f64).sqrt()))?.transpose(1, 2)?.contiguous()
        };
        Ok(Found { mask_logits: (likeness(0)? + MASK_BIAS)?, centre_logits: likeness(width)? })
    }

    /// Asks in each picture for another thing: how surely each cell belongs to it, and how likely
    /// its centre is there against the likeliest cell.
    ///
    /// # Shapes
    /// `queries` `(b, embed_dim)` → `(b, 2, side, side)`, both in `[0, 1]`.
    pub fn find_each(&self, seen: &Seen, queries: &Tensor) -> Result<Tensor> {
        let found = self.find(seen, queries)?;
        let own = |maps: &Tensor| {
            let rows = (0..maps.dim(0)?).map(|i| maps.get(i)?.get(i));
            Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)
        };
        let (masks, centres) = (own(&found.mask_logits)?, own(&found.centre_logits)?);
        let centres = centres.broadcast_sub(&centres.max_keepdim(1)?)?.exp()?;
        let maps = Tensor::stack(&[candle_nn::ops::sigmoid(&masks)?, centres], 1)?;
        maps.reshape((seen.features.dim(0)?, 2, seen.side, seen.side))
    }

    /// What another network may know of pictures: of each cell all that is known, and then, with
    /// queries, the answer to each picture's own, as [`Self::find_each`] has it.
    ///
    /// # Shapes
    /// `queries` `(b, embed_dim)` → `(b, c, side, side)`.
    pub fn features(&self, seen: &Seen, queries: Option<&Tensor>) -> Result<Tensor> {
        let known = seen.features.permute((0, 3, 1, 2))?.contiguous()?;
        match queries {
            Some(queries) => Tensor::cat(&[&known, &self.find_each(seen, queries)?], 1),
            None => Ok(known),
        }
    }

    /// The same of one picture whose thing is known to be at `place`: only there is anything found.
    ///
    /// # Shapes
    /// `query` `(1, embed_dim)` → `(1, c, side, side)`.
    pub fn features_at(&self, seen: &Seen, query: &Tensor, place: &Location) -> Result<Tensor> {
        let found = self.find(seen, query)?;
        let inside = box_cells(place.bbox, seen.side).into_iter().map(f32::from);
        let inside = Tensor::from_iter(inside, seen.features.device())?;
        let mask = (Tensor::new(place.mask.as_slice(), inside.device())? * &inside)?;
        let centres = found.centre_logits.flatten_all()?;
        // Outside it is less likely than anything.
        let centres = (centres + inside.affine(-LEAST_LIKELY, LEAST_LIKELY)?)?;
        let centres = centres.broadcast_sub(&centres.max_keepdim(0)?)?.exp()?;
        let maps = Tensor::stack(&[mask, centres], 0)?.reshape((1, 2, seen.side, seen.side))?;
        Tensor::cat(&[&self.features(seen, None)?, &maps], 1)
    }

    /// Asks where a thing may go, in each picture another.
    ///
    /// # Shapes
    /// `queries` `(b, embed_dim)`.
    pub fn put(&self, seen: &Seen, queries: &Tensor) -> Result<Room> {
        let condition = ops::silu(&self.keys(queries)?)?;
        let x = self.put_block.forward(&seen.features, Some(&condition))?;
        let features = self.put_norm.forward_silu(&x)?;
        let cells = seen.side * seen.side;
        let heads = self.put_out.forward(&features.reshape((x.dim(0)?, cells, ()))?)?;
        let sizes = candle_nn::ops::sigmoid(&heads.narrow(2, 1, 2)?.contiguous()?)?;
        Ok(Room { centre_logits: heads.narrow(2, 0, 1)?.squeeze(2)?.contiguous()?, sizes })
    }

    /// Looks at one picture of any size, squeezed to the square that the model takes.
    pub fn look(&self, picture: &RgbImage) -> Result<Seen> {
        let side = self.config.sample_size as u32;
        let square = resize(picture, (side, side), Filter::Bicubic);
        self.see(&pixels(&square)?.unsqueeze(0)?)
    }

    /// Where in a picture of any size the thing of a query may be put, its centre in `area`.
    ///
    /// # Shapes
    /// `query` `(1, embed_dim)`.
    pub fn room(&self, picture: &RgbImage, query: &Tensor, area: Area) -> Result<Location> {
        let seen = self.look(picture)?;
        self.put(&seen, query)?.location(&seen, 0, area)
    }

    /// Places in a picture of any size where the thing may be that all of `queries` stand for: the
    /// `count` likeliest of them, the likeliest first, then as many of whatever stands out.
    ///
    /// # Shapes
    /// `queries` `(q, embed_dim)`, at least one.
    pub fn candidates(
        &self,
        picture: &RgbImage,
        queries: &Tensor,
        count: usize,
    ) -> Result<Vec<Location>> {
        self.candidates_in(&self.look(picture)?, queries, count)
    }

    /// [`Self::candidates`] in a picture that was looked at, alone in its batch.
    pub fn candidates_in(
        &self,
        seen: &Seen,
        queries: &Tensor,
        count: usize,
    ) -> Result<Vec<Location>> {
        let asked = self.find(seen, queries)?.as_one()?;
        let anything = self.find(seen, &self.anything(seen)?)?;
        let mut places = asked.locations(seen, count)?;
        let standing_out = anything.at(seen, (0, 0), (0, 0.0))?.mask;
        for place in places.iter_mut().filter(|place| place.confidence < SURE) {
            place.mask.clone_from(&standing_out);
        }
        let likelihood = by_cell(&asked.centre_logits.flatten_all()?, seen.side)?;
        for mut place in anything.locations(seen, count)? {
            if places.iter().all(|other| place.is_apart(other)) {
                place.likelihood = likelihood[cell_at(place.bbox, seen.side)];
                places.push(place);
            }
        }
        Ok(places)
    }

    /// Up to `count` places where something stands out, whatever it is.
    pub fn things(&self, picture: &RgbImage, count: usize) -> Result<Vec<Location>> {
        let seen = self.look(picture)?;
        self.find(&seen, &self.anything(&seen)?)?.locations(&seen, count)
    }

    /// The query for whatever stands out.
    fn anything(&self, seen: &Seen) -> Result<Tensor> {
        let shape = (1, self.config.embed_dim);
        Tensor::zeros(shape, seen.features.dtype(), seen.features.device())
    }
}

/// How likely it is that a thing's centre is in each cell or beside it: a centre on the border of
/// two cells splits its probability.
fn by_cell(centre_logits: &Tensor, side: usize) -> Result<Vec<f32>> {
    let logits = centre_logits.to_dtype(DType::F32)?.unsqueeze(0)?;
    let probabilities = ops::softmax(&logits)?.flatten_all()?.to_vec1::<f32>()?;
    let around = |cell: usize| -> f32 {
        let (row, column) = (cell / side, cell % side);
        let near = |at: usize| at.saturating_sub(1)..(at + 2).min(side);
        let cells = near(row).flat_map(|r| near(column).map(move |c| r * side + c));
        cells.map(|i| probabilities[i]).sum::<f32>() + 1e-3 * probabilities[cell]
    };
    Ok((0..side * side).map(around).collect())
}

/// The cells of an area, the likeliest first, each with its likelihood.
fn by_likelihood(centre_logits: &Tensor, side: usize, area: Area) -> Result<Vec<(usize, f32)>> {
    let cells = by_cell(centre_logits, side)?.into_iter().enumerate().zip(area.cells(side));
    let mut ranked: Vec<(usize, f32)> =
        cells.filter_map(|(cell, inside)| inside.then_some(cell)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(ranked)
}

/// The likeliest cell of an area; the first for an area without cells.
fn likeliest(centre_logits: &Tensor, side: usize, area: Area) -> Result<(usize, f32)> {
    Ok(by_likelihood(centre_logits, side, area)?.first().copied().unwrap_or_default())
}

/// The cell in which the middle of a box is.
fn cell_at([x, y, ..]: [f32; 4], side: usize) -> usize {
    let at = |value: f32| ((value * side as f32).max(0.0) as usize).min(side - 1);
    at(y) * side + at(x)
}

/// Shared area over joint area of two boxes: centre x and y, width, height.
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let shared = |i: usize| {
        let low = (a[i] - a[i + 2] * 0.5).max(b[i] - b[i + 2] * 0.5);
        let high = (a[i] + a[i + 2] * 0.5).min(b[i] + b[i + 2] * 0.5);
        (high - low).max(0.0)
    };
    let both = shared(0) * shared(1);
    both / (a[2] * a[3] + b[2] * b[3] - both).max(1e-9)
}

impl Found {
    /// What all queries agree on, as one query.
    fn as_one(&self) -> Result<Self> {
        let mean = |t: &Tensor| t.mean_keepdim(1);
        Ok(Self {
            mask_logits: mean(&self.mask_logits)?,
            centre_logits: mean(&self.centre_logits)?,
        })
    }

    /// The answer for `(picture, query)`.
    pub fn location(
        &self,
        seen: &Seen,
        (picture, query): (usize, usize),
        area: Area,
    ) -> Result<Location> {
        let cell = likeliest(&self.centre_logits.get(picture)?.get(query)?, seen.side, area)?;
        self.at(seen, (picture, query), cell)
    }

    /// The `count` likeliest answers for the first query in the first picture, each in a place of
    /// its own.
    fn locations(&self, seen: &Seen, count: usize) -> Result<Vec<Location>> {
        let logits = self.centre_logits.get(0)?.get(0)?;
        let mut locations: Vec<Location> = Vec::new();
        for cell in by_likelihood(&logits, seen.side, Area::ANYWHERE)? {
            let location = self.at(seen, (0, 0), cell)?;
            if locations.iter().all(|other| location.is_apart(other)) {
                locations.push(location);
            }
            if locations.len() == count {
                break;
            }
        }
        Ok(locations)
    }

    /// The answer whose centre is in a cell of that likelihood.
    fn at(
        &self,
        seen: &Seen,
        (picture, query): (usize, usize),
        (cell, likelihood): (usize, f32),
    ) -> Result<Location> {
        let values = seen.boxes.get(picture)?.get(cell)?.to_vec1::<f32>()?;
        let bbox = std::array::from_fn(|i| values.get(i).copied().unwrap_or_default());
        let mask_logits = self.mask_logits.get(picture)?.get(query)?;
        let mask: Vec<f32> = candle_nn::ops::sigmoid(&mask_logits)?.to_vec1()?;
        let inside = box_cells(bbox, seen.side);
        let surest = |most: f32, (value, inside): (&f32, bool)| most.max(value * f32::from(inside));
        let confidence = mask.iter().zip(inside).fold(0.0, surest);
        Ok(Location { bbox, mask, side: seen.side, confidence, likelihood })
    }
}

impl Location {
    /// Whether it is another place, or the same with other bounds.
    fn is_apart(&self, other: &Self) -> bool {
        const SAME: f32 = 0.6;
        iou(self.bbox, other.bbox) < SAME
    }
}

impl Room {
    /// The answer for a picture of the batch.
    pub fn location(&self, seen: &Seen, picture: usize, area: Area) -> Result<Location> {
        let (cell, likelihood) = likeliest(&self.centre_logits.get(picture)?, seen.side, area)?;
        let size = self.sizes.get(picture)?.get(cell)?.to_vec1::<f32>()?;
        let at = |index: usize| (index as f32 + 0.5) / seen.side as f32;
        let (x, y) = (at(cell % seen.side), at(cell / seen.side));
        let bbox =
            [x, y, size.first().copied().unwrap_or(0.3), size.get(1).copied().unwrap_or(0.3)];
        let mask = box_cells(bbox, seen.side).into_iter().map(f32::from).collect();
        Ok(Location { bbox, mask, side: seen.side, confidence: 1.0, likelihood })
    }
}

/// Which cells have their middle in a box.
fn box_cells([x, y, width, height]: [f32; 4], side: usize) -> Vec<bool> {
    let span = |middle: f32, length: f32| [middle - length * 0.5, middle + length * 0.5];
    Area { x: span(x, width), y: span(y, height) }.cells(side)
}

fn middles(side: usize) -> Vec<f32> {
    (0..side).map(|i| (i as f32 + 0.5) / side as f32).collect()
}

/// # Shapes
/// → `(1, side·side, 2)`: x and y of each cell's middle, in parts of the side.
fn cell_middles(side: usize, device: &Device) -> Result<Tensor> {
    let at = middles(side);
    let values: Vec<f32> = at.iter().flat_map(|&y| at.iter().flat_map(move |&x| [x, y])).collect();
    Tensor::from_vec(values, (1, side * side, 2), device)
}

#[cfg(test)]
mod tests {
    use any2pix_nn::{Generator, Parameters};

    use super::*;

    fn config() -> LocatorConfig {
        LocatorConfig {
            sample_size: 32,
            patch_size: 4,
            block_out_channels: vec![16, 24],
            layers_per_block: 1,
            embed_dim: 6,
            match_dim: 8,
        }
    }

    #[test]
    fn boxes_overlap_as_they_should() {
        let a = [0.5, 0.5, 0.2, 0.2];
        assert!((iou(a, a) - 1.0).abs() < 1e-5);
        assert!((iou(a, [0.6, 0.5, 0.2, 0.2]) - 1.0 / 3.0).abs() < 1e-5);
        assert_eq!(iou(a, [0.9, 0.9, 0.1, 0.1]), 0.0);
    }

    #[test]
    fn words_of_place_are_areas() {
        let corner = Area::named("top-Right").unwrap();
        assert!(corner.holds(0.8, 0.2) && !corner.holds(0.8, 0.8) && !corner.holds(0.2, 0.2));
        assert!(Area::named("CENTER").unwrap().holds(0.5, 0.5));
        assert_eq!(Area::named("beside"), None);
        assert_eq!(Area::named("LEFT").unwrap().cells(2), [true, false, true, false]);
    }

    #[test]
    fn candidates_are_apart_and_the_likeliest_comes_first() {
        let (parameters, device) = (Parameters::new(9), Device::Cpu);
        let locator = Locator::load(parameters.builder(&device), &config()).unwrap();
        let picture = RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 7, y as u8 * 8, 40]));
        let queries = Generator::new(4).randn((2, 6), &device).unwrap();
        let places = locator.candidates(&picture, &queries, 3).unwrap();
        assert!((3..=6).contains(&places.len()));
        for (index, place) in places.iter().enumerate() {
            assert!(places[..index].iter().all(|other| iou(place.bbox, other.bbox) < 0.6));
            assert!(place.likelihood <= places[0].likelihood && place.likelihood >= 0.0);
        }
        assert_eq!(locator.things(&picture, 2).unwrap().len(), 2);
    }

    #[test]
    fn nothing_is_found_outside_a_known_place() {
        let (parameters, device) = (Parameters::new(9), Device::Cpu);
        let locator = Locator::load(parameters.builder(&device), &config()).unwrap();
        let picture = RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 7, y as u8 * 8, 40]));
        let query = Generator::new(4).randn((1, 6), &device).unwrap();
        let seen = locator.look(&picture).unwrap();
        let place = locator.candidates(&picture, &query, 3).unwrap().swap_remove(1);
        let place = Location { bbox: [0.75, 0.25, 0.5, 0.5], ..place };
        let known = locator.features_at(&seen, &query, &place).unwrap();
        let free = locator.features(&seen, Some(&query)).unwrap();
        assert_eq!(known.dims(), free.dims());
        let last = known.dims()[1] - 2;
        let maps = known.narrow(1, last, 2).unwrap().squeeze(0).unwrap();
        let maps: Vec<Vec<Vec<f32>>> = maps.to_vec3().unwrap();
        for (row, (mask, centres)) in maps[0].iter().zip(&maps[1]).enumerate() {
            for (column, (mask, centre)) in mask.iter().zip(centres).enumerate() {
                let inside = row < 4 && column >= 4;
                assert_eq!(*mask > 0.0, inside, "{row} {column}");
                assert!(inside || *centre == 0.0, "{row} {column}");
            }
        }
        let likeliest = maps[1].iter().flatten().copied().fold(0.0, f32::max);
        assert!((likeliest - 1.0).abs() < 1e-6);
        let rest = |all: &Tensor| all.narrow(1, 0, last).unwrap().flatten_all().unwrap();
        let rest = [rest(&known), rest(&free)].map(|all| all.to_vec1::<f32>().unwrap());
        assert_eq!(rest[0], rest[1]);
    }

    #[test]
    fn an_answer_lies_in_the_area_that_was_asked_for() {
        let (parameters, device) = (Parameters::new(5), Device::Cpu);
        let locator = Locator::load(parameters.builder(&device), &config()).unwrap();
        let picture = RgbImage::from_fn(50, 30, |x, y| image::Rgb([x as u8 * 5, y as u8 * 8, 99]));
        let query = Generator::new(2).randn((1, 6), &device).unwrap();
        for word in ["LEFT", "RIGHT", "TOP", "BOTTOM-LEFT", "CENTER"] {
            let area = Area::named(word).unwrap();
            let location = locator.room(&picture, &query, area).unwrap();
            assert!(area.holds(location.bbox[0], location.bbox[1]), "{word} {location:?}");
            assert!(location.mask.iter().any(|value| *value > 0.5));
        }
    }

    #[test]
    fn every_parameter_gets_a_gradient_and_the_norm_of_the_query_none() {
        let (parameters, device) = (Parameters::new(3), Device::Cpu);
        let locator = Locator::load(parameters.builder(&device), &config()).unwrap();
        let mut generator = Generator::new(1);
        let pictures = generator.randn((2, 3, 32, 32), &device).unwrap();
        let queries = generator.randn((3, 6), &device).unwrap();
        let seen = locator.see(&pictures).unwrap();
        let found = locator.find(&seen, &queries).unwrap();
        assert_eq!(found.mask_logits.dims(), [2, 3, 64]);
        assert_eq!(seen.boxes.dims(), [2, 64, 4]);
        let longer = locator.find(&seen, &(&queries * 7.0).unwrap()).unwrap();
        let difference = (&longer.mask_logits - &found.mask_logits).unwrap().abs().unwrap();
        assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-4);
        let room = locator.put(&seen, &queries.narrow(0, 0, 2).unwrap()).unwrap();
        let sum = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap();
        let parts = [&found.mask_logits, &found.centre_logits, &seen.boxes, &room.sizes];
        let loss =
            parts.iter().fold(sum(&room.centre_logits), |loss, part| (loss + sum(part)).unwrap());
        let gradients = loss.backward().unwrap();
        for (name, var) in parameters.named() {
            assert!(gradients.get(&var).is_some(), "{name} has no gradient");
        }
    }
}
