//! Windows around edits: what the decoder sees, and what it shall paint.

use any2pix_diffusion::PriorDeviations;
use any2pix_diffusion::draft::{fill, paste};
use any2pix_diffusion::exemplar::Holed;
use any2pix_nn::Generator;
use candle_core::{Device, Tensor};
use image::{GrayImage, Rgb, RgbImage, RgbaImage};

use super::cut::{Cut, WINDOW};
use super::pictures::{to_pictures, to_tensor};
use crate::Result;
use crate::playroom::recipe::difference;
use crate::playroom::sample::{Kind, ObjectSlot, Sample};
use crate::playroom::scene::{BBox, SCENE_SIDE};
use crate::playroom::splits::Split;
use crate::playroom::{World, raster};

const AREA: usize = (WINDOW * WINDOW) as usize;

/// How often each kind of edit is drawn; the rest of the kinds are these in other words.
const KINDS: [(Kind, f32); 8] = [
    (Kind::Add, 0.28),
    (Kind::Remove, 0.18),
    (Kind::Replace, 0.18),
    (Kind::Look, 0.18),
    (Kind::Background, 0.04),
    (Kind::Style, 0.05),
    (Kind::Music, 0.07),
    (Kind::Generate, 0.02),
];

/// One window.
pub struct Window {
    /// Before.
    pub source: RgbImage,
    /// After.
    pub target: RgbImage,
    /// Before, with holes filled and the reference laid where it shall be.
    pub draft: RgbImage,
    /// How far each pixel may change, 0 to 1.
    pub region: Vec<f32>,
    /// Where the draft is not the source, 0 to 1.
    pub alpha: Vec<f32>,
    /// Where source and target differ.
    pub changed: GrayImage,
    /// The whole scene after, for its embedding.
    pub scene: RgbImage,
    /// The wanted object, for its embedding.
    pub subject: Option<RgbImage>,
    /// How much the prior trusts the draft.
    pub deviations: PriorDeviations,
}

/// A picture of the world as the codec may meet it: a scene, whole or a part enlarged.
pub fn any_view(world: &World, split: Split, generator: &mut Generator) -> RgbImage {
    let sample = world.sample(generator, split, None);
    if generator.chance(0.5) {
        return sample.target;
    }
    let side = 48 + generator.below((SCENE_SIDE - 48) as usize) as u32;
    let corner =
        |generator: &mut Generator| generator.below((SCENE_SIDE - side + 1) as usize) as u32;
    let cut = Cut { x: corner(generator), y: corner(generator), side };
    cut.of(&sample).1
}

/// A window of a random edit; `reference` is how often a wanted object is laid in the draft.
pub fn window(
    world: &World,
    split: Split,
    reference: f32,
    generator: &mut Generator,
) -> Result<Window> {
    let mut left = generator.uniform() * KINDS.iter().map(|(_, weight)| weight).sum::<f32>();
    let mut kind = Kind::Add;
    for (candidate, weight) in &KINDS {
        kind = *candidate;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    let sample = world.sample(generator, split, Some(kind));
    if sample.is_global() {
        global_window(sample)
    } else {
        local_window(&sample, reference, generator)
    }
}

fn global_window(sample: Sample) -> Result<Window> {
    let free = PriorDeviations { outside: 1.0, reference: 1.0, imagined: 1.0 };
    let deviations = if sample.base.is_some() { PriorDeviations::GLOBAL } else { free };
    Ok(Window {
        draft: sample.source.clone(),
        scene: sample.target.clone(),
        region: vec![1.0; AREA],
        alpha: vec![0.0; AREA],
        changed: sample.mask,
        source: sample.source,
        target: sample.target,
        subject: None,
        deviations,
    })
}

fn local_window(sample: &Sample, reference: f32, generator: &mut Generator) -> Result<Window> {
    let wanted = sample.wanted.first();
    let unwanted = sample.unwanted.first();
    let boxes: Vec<BBox> = wanted.iter().chain(&unwanted).map(|slot| slot.bbox).collect();
    let cut = Cut::around(&union(&boxes), generator);
    let (source, target) = cut.of(sample);
    let changed = difference(&source, &target);
    let region = region(&changed, generator);
    let mut draft = source.clone();
    let mut alpha = vec![0.0; AREA];
    if unwanted.is_some() {
        draft = filled(&source, &region, generator)?;
        alpha.clone_from(&region);
    }
    let laid = wanted.filter(|_| generator.chance(reference));
    if let Some(slot) = laid {
        lay(&mut draft, &mut alpha, &cutout(sample, slot), cut.place(&slot.bbox), generator);
    }
    let mut deviations = PriorDeviations::default();
    if wanted.is_some() && laid.is_none() {
        deviations.reference = deviations.imagined;
    }
    let subject = wanted.map(|slot| on_plain(&slot.cutout, generator));
    let scene = sample.target.clone();
    Ok(Window { source, target, draft, region, alpha, changed, scene, subject, deviations })
}

fn union(boxes: &[BBox]) -> BBox {
    let fold = |of: fn(&BBox) -> u32, pick: fn(u32, u32) -> u32, start: u32| {
        boxes.iter().map(of).fold(start, pick)
    };
    let (x, y) = (fold(|b| b.x, u32::min, SCENE_SIDE), fold(|b| b.y, u32::min, SCENE_SIDE));
    let right = fold(|b| b.x + b.width, u32::max, 0);
    let bottom = fold(|b| b.y + b.height, u32::max, 0);
    BBox { x, y, width: right.saturating_sub(x), height: bottom.saturating_sub(y) }
}

/// What a locator would say of the change: its shape or its box, some pixels too large, soft.
fn region(changed: &GrayImage, generator: &mut Generator) -> Vec<f32> {
    let mut mask: Vec<f32> = changed.pixels().map(|p| f32::from(p[0] > 0)).collect();
    if generator.chance(0.4) {
        fill_box(&mut mask);
    }
    let grow = 3 + generator.below(7);
    spread(&mut mask, grow, |values| values.iter().copied().fold(0.0, f32::max));
    let soft = 2 + generator.below(4);
    blur(&mut mask, soft);
    mask
}

/// Sets everything within the box of what is set.
fn fill_box(mask: &mut [f32]) {
    let side = WINDOW as usize;
    let set: Vec<usize> = (0..AREA).filter(|i| mask[*i] > 0.0).collect();
    let bounds = |of: &dyn Fn(usize) -> usize| {
        let values = set.iter().map(|i| of(*i));
        (values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
    };
    let ((left, right), (top, bottom)) = (bounds(&|i| i % side), bounds(&|i| i / side));
    for (i, value) in mask.iter_mut().enumerate() {
        let (x, y) = (i % side, i / side);
        if !set.is_empty() && (left..=right).contains(&x) && (top..=bottom).contains(&y) {
            *value = 1.0;
        }
    }
}

/// Replaces each pixel by what `reduce` makes of its neighbours up to `radius` away, along rows
/// and then columns.
fn spread(mask: &mut [f32], radius: usize, reduce: fn(&[f32]) -> f32) {
    let side = WINDOW as usize;
    for (step, line) in [(1, side), (side, 1)] {
        for i in 0..side {
            let before: Vec<f32> = (0..side).map(|j| mask[i * line + j * step]).collect();
            for j in 0..side {
                let (low, high) = (j.saturating_sub(radius), (j + radius).min(side - 1));
                mask[i * line + j * step] = reduce(&before[low..=high]);
            }
        }
    }
}

/// Box blur, twice.
fn blur(mask: &mut [f32], radius: usize) {
    for _ in 0..2 {
        spread(mask, radius, |values| values.iter().sum::<f32>() / values.len() as f32);
    }
}

/// How often a hole is filled by patches of what surrounds it; otherwise it is filled smoothly.
const BY_EXEMPLAR: f32 = 0.75;

fn filled(picture: &RgbImage, hole: &[f32], generator: &mut Generator) -> Result<RgbImage> {
    let side = WINDOW as usize;
    // what is half free is not to be trusted: the rim of the unwanted thing may be there
    let mask: Vec<f32> = hole.iter().map(|v| (v * 2.0).min(1.0)).collect();
    if generator.chance(BY_EXEMPLAR) {
        return Ok(completed(picture, &mask, generator));
    }
    let mask = Tensor::from_vec(mask, (1, 1, side, side), &Device::Cpu)?;
    let picture = to_tensor([picture])?;
    let smooth = paste(&picture, &fill(&picture, &mask)?, &mask)?;
    Ok(to_pictures(&smooth)?.remove(0))
}

fn completed(picture: &RgbImage, mask: &[f32], generator: &mut Generator) -> RgbImage {
    let holed = Holed {
        colours: picture.pixels().map(|p| p.0.map(f32::from)).collect(),
        hole: mask.iter().map(|m| *m > 0.0).collect(),
        width: WINDOW as usize,
    };
    let colours = holed.complete(generator);
    let mut result = picture.clone();
    for ((pixel, colour), mask) in result.pixels_mut().zip(colours).zip(mask) {
        for c in 0..3 {
            let mixed = f32::from(pixel[c]) * (1.0 - mask) + colour[c] * mask;
            pixel[c] = (mixed + 0.5) as u8;
        }
    }
    result
}

/// The wanted object's picture, at its own size, as the scene has it.
fn cutout(sample: &Sample, slot: &ObjectSlot) -> RgbaImage {
    let placed = sample.recipe.target.objects.iter().find(|object| object.bbox == slot.bbox);
    placed.map_or_else(|| slot.cutout.clone(), |object| (*object.picture).clone())
}

/// Lays a cut-out into the draft, not always in its best state.
fn lay(
    draft: &mut RgbImage,
    alpha: &mut [f32],
    cutout: &RgbaImage,
    (left, top, width, height): (i64, i64, u32, u32),
    generator: &mut Generator,
) {
    let mut picture = cutout.clone();
    if generator.chance(0.2) {
        let part = generator.uniform_in(0.35, 0.8);
        let small = |length: u32| ((length as f32 * part) as u32).max(2);
        picture = raster::resize(&picture, small(width), small(height));
    }
    let picture = raster::resize(&picture, width, height);
    let brightness = generator.uniform_in(0.8, 1.2);
    let light: [f32; 3] = std::array::from_fn(|_| brightness * generator.uniform_in(0.92, 1.08));
    let (dx, dy) = match generator.chance(0.15) {
        true => (generator.below(5) as i64 - 2, generator.below(5) as i64 - 2),
        false => (0, 0),
    };
    for (column, row, pixel) in picture.enumerate_pixels() {
        let (x, y) = (left + dx + i64::from(column), top + dy + i64::from(row));
        let inside = (0..i64::from(WINDOW)).contains(&x) && (0..i64::from(WINDOW)).contains(&y);
        if !inside || pixel[3] == 0 {
            continue;
        }
        let cover = f32::from(pixel[3]) / 255.0;
        let under = draft.get_pixel_mut(x as u32, y as u32);
        for c in 0..3 {
            let over = (f32::from(pixel[c]) * light[c]).min(255.0);
            under[c] = (f32::from(under[c]) * (1.0 - cover) + over * cover + 0.5) as u8;
        }
        let known = &mut alpha[y as usize * WINDOW as usize + x as usize];
        *known = known.max(cover);
    }
}

/// A cut-out on a plain ground, as a reference picture is encoded.
fn on_plain(cutout: &RgbaImage, generator: &mut Generator) -> RgbImage {
    let grey = 90 + generator.below(166) as u8;
    let (width, height) = cutout.dimensions();
    let side = width.max(height) + 4;
    let mut picture = RgbImage::from_pixel(side, side, Rgb([grey; 3]));
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    for (x, y, pixel) in cutout.enumerate_pixels() {
        let cover = f32::from(pixel[3]) / 255.0;
        let under = picture.get_pixel_mut(left + x, top + y);
        for c in 0..3 {
            let mixed = f32::from(under[c]) * (1.0 - cover) + f32::from(pixel[c]) * cover;
            under[c] = (mixed + 0.5) as u8;
        }
    }
    picture
}
