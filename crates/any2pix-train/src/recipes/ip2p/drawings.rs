//! Drawings: the one cut-out that stands for each concept, and its latents as texts tell them.

use any2pix_diffusion::unet::CrossAttention;
use any2pix_diffusion::{Autoencoder, PatchCodec};
use any2pix_encoders::image::composite;
use any2pix_encoders::imagebind::ImageBindModel;
use candle_core::{D, DType, Device, Tensor};
use image::{RgbImage, RgbaImage};

use crate::Result;
use crate::playroom::{SQUARE, World};
use crate::recipes::pictures::{flat, to_tensor};

/// A drawing is told by as many tokens in each direction, row by row.
const SIDE: usize = 4;
/// Tokens of a drawing.
pub(super) const TOKENS: usize = SIDE * SIDE;
const GREY: [u8; 3] = [127; 3];

/// Of each concept the drawing that looks most like all of them, of those that may be shipped if
/// there are any: painters remember what they paint.
pub(super) fn typical(world: &World, imagebind: &ImageBindModel) -> Result<Vec<usize>> {
    let mut drawings = Vec::new();
    for concept in world.concepts() {
        let all = world.concept(concept).map_or(&[][..], |entry| &entry.sprites[..]);
        let mut usable: Vec<usize> = (0..all.len()).filter(|&i| !all[i].held_out).collect();
        if usable.iter().any(|&i| all[i].may_ship) {
            usable.retain(|&i| all[i].may_ship);
        }
        let pictures: Vec<RgbImage> = all.iter().map(|sprite| flat(&sprite.picture)).collect();
        let known: Vec<u32> =
            (0..all.len()).filter(|&i| !all[i].held_out).map(|i| i as u32).collect();
        let embeddings = imagebind.encode_images(&pictures)?.to_dtype(DType::F32)?;
        let mean = embeddings.index_select(&Tensor::new(known, &Device::Cpu)?, 0)?.mean(0)?;
        let likeness = embeddings.broadcast_mul(&mean)?.sum(1)?.to_vec1::<f32>()?;
        let best = usable.into_iter().max_by(|a, b| likeness[*a].total_cmp(&likeness[*b]));
        drawings.push(best.unwrap_or_default());
    }
    Ok(drawings)
}

/// What the tokens of each concept's drawing tell: the latents that lie in the token's part of the
/// square, as they differ from those of plain grey, and how opaque the drawing is there. The last
/// row is of no drawing.
///
/// # Shapes
/// → `(concepts + 1, TOKENS, numbers)`.
pub(super) fn told(world: &World, drawings: &[usize], codec: &PatchCodec) -> Result<Tensor> {
    let squares =
        drawings.iter().enumerate().map(|(concept, &sprite)| world.drawn(concept, sprite));
    let mut squares: Vec<RgbaImage> = squares.collect();
    squares.push(RgbaImage::new(SQUARE, SQUARE));
    let pictures: Vec<RgbImage> = squares.iter().map(|square| composite(square, GREY)).collect();
    let latents = codec.image_to_latents(&to_tensor(&pictures)?, None)?.detach();
    let (n, channels, height, width) = latents.dims4()?;
    let plain = latents.narrow(0, n - 1, 1)?;
    let opacity = squares.iter().map(opacity).collect::<Result<Vec<_>>>()?;
    let opacity = Tensor::stack(&opacity, 0)?.avg_pool2d(codec.spatial_factor())?;
    let all = Tensor::cat(&[latents.broadcast_sub(&plain)?, opacity], 1)?;
    let parts = (n, channels + 1, SIDE, height / SIDE, SIDE, width / SIDE);
    let parts = all.reshape(parts)?.permute((0, 2, 4, 1, 3, 5))?.contiguous()?;
    Ok(parts.reshape((n, TOKENS, ()))?)
}

/// # Shapes
/// → `(1, h, w)` in `[0, 1]`.
fn opacity(square: &RgbaImage) -> Result<Tensor> {
    let (width, height) = (square.width() as usize, square.height() as usize);
    let alpha: Vec<f32> = square.pixels().map(|p| f32::from(p[3]) / 255.0).collect();
    Ok(Tensor::from_vec(alpha, (1, height, width), &Device::Cpu)?)
}

/// How far a UNet looks elsewhere than at the token that tells the part of the drawing that stands
/// where it looks from: the mean negative logarithm of the probability, over the finest
/// cross-attentions behind the middle. `drawn_at` has the corner of the square of each item that
/// has one, in pictures of `side` pixels.
///
/// # Shapes
/// → `()`, with a graph.
pub(super) fn astray(
    watched: &[CrossAttention],
    drawn_at: &[Option<(u32, u32)>],
    side: u32,
) -> Result<Tensor> {
    let part = SQUARE as usize / SIDE;
    let cells = side as usize / part;
    let finest = watched.iter().rev().take_while(|a| a.positions().ok() == Some(cells * cells));
    let mut sum = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let mut count = 0.0;
    for attention in finest {
        let map = attention.log_probabilities()?;
        let tokens = map.dim(D::Minus1)?;
        let right = right_tokens(drawn_at, cells, part, tokens)?;
        let right = right.unsqueeze(1)?.broadcast_as(map.shape())?;
        count += f64::from(right.sum_all()?.to_scalar::<f32>()?);
        sum = (sum - (map * right)?.sum_all()?)?;
    }
    Ok((sum / f64::max(count, 1.0))?)
}

/// 1 at the token of each position's part of the drawing.
///
/// # Shapes
/// → `(b, cells², tokens)`.
fn right_tokens(
    drawn_at: &[Option<(u32, u32)>],
    cells: usize,
    part: usize,
    tokens: usize,
) -> Result<Tensor> {
    let mut right = vec![0f32; drawn_at.len() * cells * cells * tokens];
    for (item, corner) in drawn_at.iter().enumerate() {
        let Some((x, y)) = *corner else { continue };
        for token in 0..TOKENS {
            let column = x as usize / part + token % SIDE;
            let row = y as usize / part + token / SIDE;
            if column < cells && row < cells {
                let position = (item * cells + row) * cells + column;
                right[position * tokens + tokens - TOKENS + token] = 1.0;
            }
        }
    }
    Ok(Tensor::from_vec(right, (drawn_at.len(), cells * cells, tokens), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_of_the_square_has_its_own_token() {
        let right = right_tokens(&[None, Some((16, 48))], 8, 16, 20).unwrap();
        assert_eq!(right.get(0).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
        let rows = right.get(1).unwrap().to_vec2::<f32>().unwrap();
        for (position, row) in rows.iter().enumerate() {
            let (x, y) = (position % 8, position / 8);
            let inside = (1..5).contains(&x) && (3..7).contains(&y);
            assert_eq!(row.iter().sum::<f32>(), f32::from(u8::from(inside)), "{x} {y}");
            assert!(!inside || row[4 + (y - 3) * 4 + x - 1] == 1.0, "{x} {y}");
        }
    }
}
