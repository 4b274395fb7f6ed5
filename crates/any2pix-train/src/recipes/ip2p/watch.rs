//! Where a UNet looks, and where it should: a small one is shown what a large one finds out.

use any2pix_diffusion::unet::CrossAttention;
use candle_core::{D, DType, Device, Tensor};

use super::drawings::{GROUPS, SIDE, TOKENS};
use crate::Result;
use crate::playroom::{Kind, SCENE_SIDE, SQUARE, Sample, square_of};
use crate::recipes::targets;

/// Positions a side of the maps that are watched: one for each part of a drawing.
const CELLS: usize = SCENE_SIDE as usize / PART;
/// Pixels a side of a drawing's part.
const PART: usize = SQUARE as usize / SIDE;
const POSITIONS: usize = CELLS * CELLS;
/// How little the probability of looking elsewhere may be.
const LEAST: f64 = 1e-4;

/// What a text says of which part of a picture.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    /// The corners of the squares where the things stand that its last tokens tell, pixels.
    squares: Vec<(u32, u32)>,
    /// Whether they also tell what is behind everything else.
    has_backdrop: bool,
    /// How much of each position the thing covers that it speaks of as being there.
    sought: Option<Vec<f32>>,
}

impl Looked {
    pub(super) fn of(sample: &Sample) -> Self {
        let opacity = sample.unwanted.first().map(|slot| {
            let corner = (i64::from(slot.bbox.x), i64::from(slot.bbox.y));
            targets::opacity(&slot.cutout, corner, SCENE_SIDE)
        });
        Self {
            squares: sample.wanted.iter().take(2).map(|slot| square_of(&slot.bbox)).collect(),
            has_backdrop: sample.kind == Kind::Generate,
            sought: opacity.map(|opacity| targets::cells(&opacity, CELLS)),
        }
    }

    /// The token that tells what is at each position; `tokens` there are.
    fn right_tokens(&self, tokens: usize) -> Vec<Option<usize>> {
        let first = tokens - GROUPS * TOKENS;
        let mut right = vec![None; POSITIONS];
        if self.has_backdrop {
            let (backdrop, coarser) = (first + (GROUPS - 1) * TOKENS, CELLS / SIDE);
            for (position, right) in right.iter_mut().enumerate() {
                let (row, column) = (position / CELLS, position % CELLS);
                *right = Some(backdrop + row / coarser * SIDE + column / coarser);
            }
        }
        for (thing, (x, y)) in self.squares.iter().enumerate() {
            for part in 0..TOKENS {
                let column = *x as usize / PART + part % SIDE;
                let row = *y as usize / PART + part / SIDE;
                if column < CELLS && row < CELLS {
                    right[row * CELLS + column] = Some(first + thing * TOKENS + part);
                }
            }
        }
        right
    }
}

/// How far a UNet looks elsewhere than at the tokens that tell what stands where it looks from:
/// the mean negative logarithm of the probability, over the finest cross-attentions behind the
/// middle.
///
/// # Shapes
/// → `()`, with a graph.
pub(super) fn astray(watched: &[CrossAttention], looked: &[Looked]) -> Result<Tensor> {
    let finest = watched.iter().rev().take_while(|a| a.positions().ok() == Some(POSITIONS));
    let mut sum = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let mut count = 0.0;
    for attention in finest {
        let map = attention.log_probabilities()?;
        let right = right_map(looked, map.dim(D::Minus1)?)?;
        let right = right.unsqueeze(1)?.broadcast_as(map.shape())?;
        count += f64::from(right.sum_all()?.to_scalar::<f32>()?);
        sum = (sum - (map * right)?.sum_all()?)?;
    }
    Ok((sum / f64::max(count, 1.0))?)
}

/// 1 at the token of each position.
///
/// # Shapes
/// → `(b, positions, tokens)`.
fn right_map(looked: &[Looked], tokens: usize) -> Result<Tensor> {
    let mut right = vec![0f32; looked.len() * POSITIONS * tokens];
    let rows = looked.iter().flat_map(|looked| looked.right_tokens(tokens));
    for (row, token) in rows.enumerate() {
        if let Some(token) = token {
            right[row * tokens + token] = 1.0;
        }
    }
    Ok(Tensor::from_vec(right, (looked.len(), POSITIONS, tokens), &Device::Cpu)?)
}

/// How badly a UNet finds what a text speaks of: the cross entropy of looking at the token that
/// knows what that is, from where it is and from nowhere else, in the first cross-attention. Both
/// count the same.
///
/// # Shapes
/// → `()`, with a graph.
pub(super) fn unfound(watched: &[CrossAttention], looked: &[Looked]) -> Result<Tensor> {
    let first = watched.first().filter(|a| a.positions().ok() == Some(POSITIONS));
    let Some(first) = first else { return Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?) };
    let map = first.log_probabilities()?;
    let knowing = map.dim(D::Minus1)? - GROUPS * TOKENS - 1;
    let there = map.narrow(D::Minus1, knowing, 1)?.squeeze(D::Minus1)?;
    let elsewhere = (there.exp()?.neg()? + 1.0)?.maximum(LEAST)?.log()?;
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for Looked { sought, .. } in looked {
        let covered = sought.clone().unwrap_or_else(|| vec![0.0; POSITIONS]);
        let part = covered.iter().sum::<f32>();
        inside.extend(covered.iter().map(|c| c / part.max(1.0)));
        outside.extend(covered.iter().map(|c| (1.0 - c) / (POSITIONS as f32 - part).max(1.0)));
    }
    let shape = (looked.len(), 1, POSITIONS);
    let weights = |values| Tensor::from_vec(values, shape, &Device::Cpu);
    let right = there.broadcast_mul(&weights(inside)?)?;
    let all = (right + elsewhere.broadcast_mul(&weights(outside)?)?)?;
    Ok(all.sum(D::Minus1)?.mean_all()?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_has_the_token_of_what_stands_there() {
        let tokens = 5 + GROUPS * TOKENS;
        let squares = vec![(16, 48), (64, 64)];
        let edit = Looked { squares, has_backdrop: false, sought: None };
        let caption = Looked { has_backdrop: true, ..edit.clone() };
        let told = caption.right_tokens(tokens);
        for (position, right) in edit.right_tokens(tokens).into_iter().enumerate() {
            let (x, y) = (position % CELLS, position / CELLS);
            let (first, second) = ((1..5).contains(&x) && (3..7).contains(&y), x > 3 && y > 3);
            let expected = match (first, second) {
                (_, true) => Some(5 + TOKENS + (y - 4) * 4 + x - 4),
                (true, false) => Some(5 + (y - 3) * 4 + x - 1),
                _ => None,
            };
            assert_eq!(right, expected, "{x} {y}");
            let behind = Some(5 + 2 * TOKENS + y / 2 * 4 + x / 2);
            assert_eq!(told[position], expected.or(behind), "{x} {y}");
        }
    }
}
