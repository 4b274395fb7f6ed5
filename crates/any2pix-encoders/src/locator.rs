//! `Locator`: where in a picture a thing is, or where it may go.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, Embedding, GroupNorm, Linear, ops};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::convnet::{Stage, StageConfig, pixels, space_to_depth};
use crate::resize::{Filter, resize};

/// Words of place, as a plan writes them.
pub const PLACES: [&str; 9] = [
    "LEFT",
    "RIGHT",
    "TOP",
    "BOTTOM",
    "CENTER",
    "TOP-LEFT",
    "TOP-RIGHT",
    "BOTTOM-LEFT",
    "BOTTOM-RIGHT",
];

/// What is asked of the locator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Where the object of the query is.
    Find,
    /// Where the object of the query may be put.
    Put,
}

/// The id of a task with a word of place, or without one; `None` for a word that is not in
/// [`PLACES`].
pub fn place_id(task: Task, word: Option<&str>) -> Option<u32> {
    let known = PLACES.len() as u32 + 1;
    let place = match word {
        None => 0,
        Some(word) => 1 + PLACES.iter().position(|place| place.eq_ignore_ascii_case(word))? as u32,
    };
    Some(if task == Task::Find { place } else { known + place })
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
    /// Width of the condition inside.
    pub condition_dim: usize,
    /// Ids of tasks with places.
    pub num_places: usize,
}

impl LocatorConfig {
    /// Cells along a side of the mask.
    pub fn mask_size(&self) -> usize {
        self.sample_size / self.patch_size.max(1)
    }
}

/// What the locator says of a batch, cell by cell.
#[derive(Clone, Debug)]
pub struct LocatorOutput {
    /// `(b, side, side)`: logit of the object's (future) pixels.
    pub mask_logits: Tensor,
    /// `(b, side·side)`: unnormalised log-probability that the object's centre is in this cell.
    pub centre_logits: Tensor,
    /// `(b, side·side, 4)`: the box if the centre is in this cell: centre, width and height, in
    /// parts of the picture's side.
    pub boxes: Tensor,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Location {
    /// Centre x and y, width and height, in parts of the picture's side.
    pub bbox: [f32; 4],
    /// `side·side` probabilities, row by row.
    pub mask: Vec<f32>,
    /// Cells along a side of the mask.
    pub side: usize,
    /// Probability of the cell in which the centre was seen, its neighbours included.
    pub confidence: f32,
}

/// Encoder, decoder, and the query in every block.
#[derive(Clone, Debug)]
pub struct Locator {
    conv_in: Conv2d,
    query_in: Linear,
    place_in: Embedding,
    query_out: Linear,
    down: Vec<Stage>,
    up: Vec<Stage>,
    norm_out: GroupNorm,
    match_out: Linear,
    conv_out: Conv2d,
    config: LocatorConfig,
}

/// Mask, centre and the four numbers of a box.
const OUTPUTS: usize = 6;

impl Locator {
    /// Builds the model.
    pub fn load(vb: VarBuilder, config: &LocatorConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let Some(&first) = channels.first() else {
            candle_core::bail!("block_out_channels must name at least one stage");
        };
        let (condition, layers) = (config.condition_dim, config.layers_per_block);
        let stem = 3 * config.patch_size * config.patch_size + 2;
        let mut down = Vec::new();
        for (i, &out_channels) in channels.iter().enumerate() {
            let in_channels = if i == 0 { first } else { channels[i - 1] };
            let stage =
                StageConfig { in_channels, out_channels, blocks: layers, condition, down: i > 0 };
            down.push(Stage::load(vb.pp(format!("down_blocks.{i}")), stage)?);
        }
        let mut up = Vec::new();
        for (i, pair) in channels.windows(2).rev().enumerate() {
            let in_channels = pair[0] + pair[1];
            let (out_channels, down) = (pair[0], false);
            let stage = StageConfig { in_channels, out_channels, blocks: layers, condition, down };
            up.push(Stage::load(vb.pp(format!("up_blocks.{i}")), stage)?);
        }
        Ok(Self {
            conv_in: Conv2d::load(vb.pp("conv_in"), stem, first, Conv2dConfig::K3)?,
            query_in: Linear::load(vb.pp("query_in"), config.embed_dim, condition)?,
            place_in: Embedding::load(vb.pp("place_in"), config.num_places, condition)?,
            query_out: Linear::load(vb.pp("query_out"), condition, condition)?,
            down,
            up,
            norm_out: GroupNorm::load(vb.pp("norm_out"), 8, first, 1e-5)?,
            match_out: Linear::load(vb.pp("match_out"), condition, first)?,
            conv_out: Conv2d::load(vb.pp("conv_out"), first, OUTPUTS, Conv2dConfig::K1)?,
            config: config.clone(),
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &LocatorConfig {
        &self.config
    }

    /// The queries are brought to length √E first, so that their norm carries nothing.
    ///
    /// # Shapes
    /// `pictures` `(b, 3, sample_size, sample_size)` in ±1, `queries` `(b, embed_dim)`, `places`
    /// `(b)` of [`place_id`], u32.
    pub fn forward(
        &self,
        pictures: &Tensor,
        queries: &Tensor,
        places: &Tensor,
    ) -> Result<LocatorOutput> {
        let batch = pictures.dim(0)?;
        let condition = self.condition(queries, places)?;
        let cells = space_to_depth(pictures, self.config.patch_size)?;
        let side = cells.dim(1)?;
        let grid = grid(side, pictures.device())?.broadcast_as((batch, side, side, 2))?;
        let mut x = self.conv_in.forward(&Tensor::cat(&[&cells, &grid], 3)?)?;
        let mut skips = Vec::new();
        for stage in &self.down {
            x = stage.forward(&x, Some(&condition))?;
            skips.push(x.clone());
        }
        skips.pop();
        for stage in &self.up {
            let Some(skip) = skips.pop() else { break };
            let wide = ops::concat_channels(&ops::upsample_nearest2x(&x)?, &skip)?;
            x = stage.forward(&wide, Some(&condition))?;
        }
        let features = self.norm_out.forward_silu(&x)?;
        // The query picks the features that the heads read: likeness cell by cell.
        let gate = self.match_out.forward(&condition)?.reshape((batch, 1, 1, ()))?;
        let heads = self.conv_out.forward(&features.broadcast_mul(&(gate + 1.0)?)?)?;
        self.read(&heads.reshape((batch, side * side, OUTPUTS))?, side)
    }

    fn condition(&self, queries: &Tensor, places: &Tensor) -> Result<Tensor> {
        let width = self.config.embed_dim as f64;
        let norm = queries.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-6)?;
        let unit = (queries.broadcast_div(&norm)? * width.sqrt())?;
        let sum = (self.query_in.forward(&unit)? + self.place_in.forward(places)?)?;
        let hidden = self.query_out.forward(&ops::silu(&sum)?)?;
        ops::silu(&hidden)
    }

    fn read(&self, heads: &Tensor, side: usize) -> Result<LocatorOutput> {
        let batch = heads.dim(0)?;
        let head = |i: usize, n: usize| heads.narrow(2, i, n)?.contiguous();
        // The centre may lie a little outside of its cell; sizes are parts of the side.
        let offset = (head(2, 2)?.tanh()? / side as f64)?;
        let middle = cell_middles(side, heads.device())?;
        let centre = offset.broadcast_add(&middle)?;
        let size = candle_nn::ops::sigmoid(&head(4, 2)?)?;
        Ok(LocatorOutput {
            mask_logits: head(0, 1)?.reshape((batch, side, side))?,
            centre_logits: head(1, 1)?.reshape((batch, side * side))?,
            boxes: Tensor::cat(&[&centre, &size], 2)?,
        })
    }

    /// Looks at one picture of any size, squeezed to the square that the model takes.
    ///
    /// # Shapes
    /// `query` `(embed_dim)`.
    pub fn locate(&self, picture: &RgbImage, query: &Tensor, place: u32) -> Result<Location> {
        let side = self.config.sample_size as u32;
        let square = resize(picture, (side, side), Filter::Bicubic);
        let pictures = pixels(&square)?.unsqueeze(0)?;
        let places = Tensor::new(&[place], &Device::Cpu)?;
        let output = self.forward(&pictures, &query.unsqueeze(0)?, &places)?;
        output.location(0)
    }
}

impl LocatorOutput {
    /// The most probable answer for item `index` of the batch.
    pub fn location(&self, index: usize) -> Result<Location> {
        let side = self.mask_logits.dim(1)?;
        let one = |t: &Tensor| t.narrow(0, index, 1)?.squeeze(0)?.to_dtype(DType::F32);
        let probabilities = ops::softmax(&one(&self.centre_logits)?.unsqueeze(0)?)?;
        let probabilities = &probabilities.flatten_all()?.to_vec1::<f32>()?;
        // A centre on the border of two cells splits its probability: look at 3×3 sums.
        let around = |cell: usize| -> f32 {
            let (row, column) = (cell / side, cell % side);
            let near = |at: usize| at.saturating_sub(1)..(at + 2).min(side);
            near(row).flat_map(|r| near(column).map(move |c| probabilities[r * side + c])).sum()
        };
        let mut best = (0, f32::NEG_INFINITY);
        for (cell, probability) in probabilities.iter().enumerate() {
            let value = around(cell) + 1e-3 * probability;
            if value > best.1 {
                best = (cell, value);
            }
        }
        let boxes = one(&self.boxes)?.to_vec2::<f32>()?;
        let mut bbox = [0.0; 4];
        if let Some(row) = boxes.get(best.0) {
            bbox.iter_mut().zip(row).for_each(|(out, value)| *out = *value);
        }
        let mask = candle_nn::ops::sigmoid(&one(&self.mask_logits)?)?.flatten_all()?.to_vec1()?;
        Ok(Location { bbox, mask, side, confidence: around(best.0) })
    }
}

fn middles(side: usize) -> Vec<f32> {
    (0..side).map(|i| (i as f32 + 0.5) / side as f32).collect()
}

/// # Shapes
/// → `(1, side, side, 2)`: x and y of each cell in ±1.
fn grid(side: usize, device: &Device) -> Result<Tensor> {
    (cell_middles(side, device)?.reshape((1, side, side, 2))? * 2.0)? - 1.0
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
            condition_dim: 16,
            num_places: 20,
        }
    }

    #[test]
    fn places_have_ids_of_their_own() {
        let mut ids: Vec<u32> = [Task::Find, Task::Put]
            .into_iter()
            .flat_map(|task| {
                let words = PLACES.iter().map(move |word| place_id(task, Some(word)).unwrap());
                words.chain([place_id(task, None).unwrap()])
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..20).collect::<Vec<u32>>());
        assert_eq!(place_id(Task::Put, Some("beside")), None);
    }

    #[test]
    fn every_parameter_gets_a_gradient_and_the_norm_of_the_query_none() {
        let (parameters, device) = (Parameters::new(3), Device::Cpu);
        let locator = Locator::load(parameters.builder(&device), &config()).unwrap();
        let mut generator = Generator::new(1);
        let pictures = generator.randn((2, 3, 32, 32), &device).unwrap();
        let queries = generator.randn((2, 6), &device).unwrap();
        let places = Tensor::new(&[0u32, 12], &device).unwrap();
        let output = locator.forward(&pictures, &queries, &places).unwrap();
        assert_eq!(output.mask_logits.dims(), [2, 8, 8]);
        assert_eq!(output.boxes.dims(), [2, 64, 4]);
        let longer = locator.forward(&pictures, &(&queries * 7.0).unwrap(), &places).unwrap();
        let difference = (&longer.mask_logits - &output.mask_logits).unwrap().abs().unwrap();
        assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-4);
        let sum = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap();
        let loss = (sum(&output.mask_logits) + sum(&output.centre_logits)).unwrap();
        let loss = (loss + sum(&output.boxes)).unwrap();
        let gradients = loss.backward().unwrap();
        for (name, var) in parameters.named() {
            assert!(gradients.get(&var).is_some(), "{name} has no gradient");
        }
    }
}
