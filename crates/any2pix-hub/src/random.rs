//! `RandomWeights`: weights of any size from a small block of random numbers, as fast as a disk.

use std::collections::HashMap;
use std::io::Write;

use any2pix_nn::Generator;
use candle_core::DType;
use half::{bf16, f16};

use crate::error::{HubError, Result};
use crate::table::elements;
use crate::write::Header;

/// Numbers that are drawn; tensors repeat them from a place of their own. It is prime, so that
/// no row of a weight matrix is as long as the block.
const DRAWN: usize = 1_048_573;
/// Standard deviation of weights and tables, as GPT-2's and Llama's initialisations have it.
const DEVIATION: f32 = 0.02;
/// ln 20: what ImageBind multiplies its embeddings of sounds with.
const LOG_LOGIT_SCALE: f32 = 2.995_732_3;

/// What a tensor of a fresh model holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Content {
    Constant(f32),
    Normal,
    /// Zeros, and -∞ above the diagonal.
    CausalMask,
}

impl Content {
    /// By name and rank: one-dimensional weights belong to norms.
    fn of(header: &Header) -> Self {
        let last = header.name.rsplit('.').next().unwrap_or_default();
        match (last, header.shape.len()) {
            ("weight", 1) => Self::Constant(1.0),
            ("bias" | "in_proj_bias", _) => Self::Constant(0.0),
            ("log_logit_scale", _) => Self::Constant(LOG_LOGIT_SCALE),
            ("mask", 2) => Self::CausalMask,
            _ => Self::Normal,
        }
    }
}

/// Makes the bytes of tensors, the same for the same seed, name and type.
pub(crate) struct RandomWeights {
    generator: Generator,
    drawn: Vec<f32>,
    /// The block in each type that was asked for.
    blocks: HashMap<&'static str, Vec<u8>>,
}

impl RandomWeights {
    pub(crate) fn new(seed: u64) -> Self {
        let generator = Generator::new(seed);
        let mut numbers = generator.fork("weights");
        let drawn = (0..DRAWN).map(|_| numbers.normal() * DEVIATION).collect();
        Self { generator, drawn, blocks: HashMap::new() }
    }

    /// Writes all bytes of a tensor.
    pub(crate) fn write(&mut self, header: &Header, out: &mut dyn Write) -> Result<()> {
        let count = elements(&header.shape);
        let io = |e| HubError::io(&header.name)(e);
        match Content::of(header) {
            Content::Constant(value) => {
                let chunk = vec![value; DRAWN.min(count as usize)];
                let chunk = bytes_of(&chunk, header)?;
                repeat(&chunk, 0, header.bytes(), out).map_err(io)
            }
            Content::CausalMask => {
                let side = header.shape[1];
                let value = |i: usize| if i % side > i / side { f32::NEG_INFINITY } else { 0.0 };
                let values: Vec<f32> = (0..count as usize).map(value).collect();
                out.write_all(&bytes_of(&values, header)?).map_err(io)
            }
            Content::Normal => {
                let start = self.generator.fork(&header.name).below(DRAWN);
                let start = start * header.dtype.size_in_bytes();
                let block = match self.blocks.entry(header.dtype.as_str()) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        entry.insert(bytes_of(&self.drawn, header)?)
                    }
                };
                repeat(block, start, header.bytes(), out).map_err(io)
            }
        }
    }
}

/// Writes `count` bytes of `block`, over and over, from `start`.
fn repeat(block: &[u8], start: usize, count: u64, out: &mut dyn Write) -> std::io::Result<()> {
    let (mut left, mut at) = (count, start);
    while left > 0 && !block.is_empty() {
        let length = (block.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(&block[at..at + length])?;
        left -= length as u64;
        at = 0;
    }
    Ok(())
}

fn bytes_of(values: &[f32], header: &Header) -> Result<Vec<u8>> {
    Ok(match header.dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        other => {
            let reason = format!("random weights of type {other:?} are not made");
            return Err(HubError::malformed(&header.name, reason));
        }
    })
}
