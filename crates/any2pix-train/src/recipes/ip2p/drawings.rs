//! Drawings: the one cut-out that stands for each concept, and its latents as texts tell them.

use any2pix_diffusion::{Autoencoder, PatchCodec};
use any2pix_encoders::image::composite;
use any2pix_encoders::imagebind::ImageBindModel;
use candle_core::{DType, Device, Tensor};
use image::{RgbImage, RgbaImage, imageops};

use crate::Result;
use crate::playroom::{Kind, SQUARE, Sample, World};
use crate::recipes::pictures::{flat, to_tensor};

/// A drawing is told by as many tokens in each direction, row by row.
pub(super) const SIDE: usize = 4;
/// Tokens of a drawing.
pub(super) const TOKENS: usize = SIDE * SIDE;
/// What the last tokens of a text tell: two things and a backdrop.
pub(super) const GROUPS: usize = 3;
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

/// What the tokens of each concept's drawing tell, and then those of each setting's backdrop: the
/// latents that lie in the token's part of a square, as they differ from those of plain grey, and
/// how opaque it is there. A backdrop fills the square. The last row is of nothing.
///
/// # Shapes
/// → `(concepts + settings + 1, TOKENS, numbers)`.
pub(super) fn told(world: &World, drawings: &[usize], codec: &PatchCodec) -> Result<Tensor> {
    let squares =
        drawings.iter().enumerate().map(|(concept, &sprite)| world.drawn(concept, sprite));
    let mut squares: Vec<RgbaImage> = squares.collect();
    squares.extend(world.settings().into_iter().map(|setting| match world.backdrop(setting) {
        Some(backdrop) => imageops::thumbnail(backdrop, SQUARE, SQUARE),
        None => RgbaImage::new(SQUARE, SQUARE),
    }));
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

/// Which rows of [`told`] the last tokens of a text tell: its first wanted thing, the second, and
/// the backdrop of a caption.
pub(super) fn rows_told(world: &World, sample: &Sample) -> [usize; GROUPS] {
    let (concepts, settings) = (world.concepts().len(), world.settings());
    let nothing = concepts + settings.len();
    let thing = |i: usize| {
        let id = sample.wanted.get(i).and_then(|slot| world.concept_id(&slot.concept));
        id.filter(|id| *id < concepts).unwrap_or(nothing)
    };
    // Only a caption tells what is behind.
    let behind = (sample.kind == Kind::Generate).then(|| {
        let behind = world.setting(&sample.recipe.target.view);
        settings.iter().position(|setting| *setting == behind)
    });
    [thing(0), thing(1), behind.flatten().map_or(nothing, |setting| concepts + setting)]
}

/// # Shapes
/// → `(1, h, w)` in `[0, 1]`.
fn opacity(square: &RgbaImage) -> Result<Tensor> {
    let (width, height) = (square.width() as usize, square.height() as usize);
    let alpha: Vec<f32> = square.pixels().map(|p| f32::from(p[3]) / 255.0).collect();
    Ok(Tensor::from_vec(alpha, (1, height, width), &Device::Cpu)?)
}
