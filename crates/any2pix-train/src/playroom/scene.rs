//! Scene graphs: a background view with placed cut-outs, rendered at any scale.

use std::sync::Arc;

use any2pix_nn::Generator;
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use serde::{Deserialize, Serialize};

use super::catalogue::Habitat;
use super::place::Place;
use super::raster;

/// Side of a scene, pixels.
pub const SCENE_SIDE: u32 = 128;
const SIDE: f32 = SCENE_SIDE as f32;
/// Objects keep this far from the border of the scene.
const MARGIN: u32 = 2;

/// A box in scene pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BBox {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl BBox {
    /// The middle, in parts of the scene's side.
    pub fn centre(&self) -> (f32, f32) {
        let middle = |start: u32, length: u32| (start as f32 + length as f32 * 0.5) / SIDE;
        (middle(self.x, self.width), middle(self.y, self.height))
    }

    /// Shared area over the smaller area.
    pub fn overlap(&self, other: &Self) -> f32 {
        let shared =
            |a: u32, la: u32, b: u32, lb: u32| (a + la).min(b + lb).saturating_sub(a.max(b)) as f32;
        let area = shared(self.x, self.width, other.x, other.width)
            * shared(self.y, self.height, other.y, other.height);
        area / (self.width * self.height).min(other.width * other.height).max(1) as f32
    }

    /// A box of `width`×`height` around `(x, y)` (scene pixels), moved inside the scene.
    pub fn around(x: f32, y: f32, width: u32, height: u32) -> Self {
        let width = width.clamp(1, SCENE_SIDE - 2 * MARGIN);
        let height = height.clamp(1, SCENE_SIDE - 2 * MARGIN);
        let inside = |middle: f32, length: u32| {
            let start = (middle - length as f32 * 0.5).round().max(0.0) as u32;
            start.clamp(MARGIN, SCENE_SIDE - MARGIN - length)
        };
        Self { x: inside(x, width), y: inside(y, height), width, height }
    }
}

/// Gains for red, green and blue.
pub type Light = [f32; 3];

/// Light that changes nothing.
pub const PLAIN_LIGHT: Light = [1.0; 3];

/// A background as one scene shows it.
#[derive(Clone, Debug)]
pub struct View {
    /// Which background of the world.
    pub background: usize,
    /// Its stored picture.
    pub picture: Arc<RgbaImage>,
    /// The square that is cut out: left, top, side.
    pub square: [u32; 3],
    /// Whether it is mirrored.
    pub flip: bool,
    /// Its light.
    pub light: Light,
}

impl View {
    /// A random cut, mirror and light of `picture`.
    pub fn sample(background: usize, picture: &Arc<RgbaImage>, generator: &mut Generator) -> Self {
        let (width, height) = picture.dimensions();
        let shorter = width.min(height);
        let side = ((shorter as f32 * generator.uniform_in(0.62, 1.0)) as u32).max(1);
        let left = generator.below((width - side + 1) as usize) as u32;
        let top = generator.below((height - side + 1) as usize) as u32;
        let brightness = generator.uniform_in(0.82, 1.12);
        let light = std::array::from_fn(|_| brightness * generator.uniform_in(0.94, 1.06));
        let flip = generator.chance(0.5);
        Self { background, picture: picture.clone(), square: [left, top, side], flip, light }
    }

    /// Whether both show the same.
    pub fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.picture, &other.picture)
            && self.square == other.square
            && self.flip == other.flip
            && self.light == other.light
    }

    /// The light that falls on a thing at `bbox`: a hint of what is behind it.
    pub fn light_at(&self, bbox: &BBox, generator: &mut Generator) -> Light {
        const STEPS: u32 = 6;
        let [left, top, square] = self.square;
        let mut sum = [0f32; 3];
        for i in 0..STEPS * STEPS {
            let x = bbox.x + bbox.width * (i % STEPS) / STEPS;
            let y = bbox.y + bbox.height * (i / STEPS) / STEPS;
            let column = if self.flip { SCENE_SIDE - 1 - x.min(SCENE_SIDE - 1) } else { x };
            let at = |start: u32, offset: u32, limit: u32| {
                (start + offset * square / SCENE_SIDE).min(limit - 1)
            };
            let (width, height) = self.picture.dimensions();
            let pixel = self.picture.get_pixel(at(left, column, width), at(top, y, height));
            (0..3).for_each(|c| sum[c] += f32::from(pixel[c]) * self.light[c]);
        }
        let jitter = generator.uniform_in(0.95, 1.05);
        let mean = |total: f32| total / (STEPS * STEPS) as f32;
        sum.map(|total| (jitter * (0.82 + 0.2 * mean(total) / 128.0)).clamp(0.7, 1.12))
    }

    /// The view as a picture of `side` pixels.
    pub fn render(&self, side: u32) -> RgbImage {
        let [left, top, square] = self.square;
        let part = [left, top, square, square];
        let scaled = raster::resize_part(&self.picture, part, side, side);
        let tables: [[u8; 256]; 3] =
            self.light.map(|gain| std::array::from_fn(|value| lit(value as u8, gain)));
        let mut canvas = RgbImage::new(side, side);
        for (row, out) in scaled.rows().zip(canvas.rows_mut()) {
            let pair = |(pixel, target): (&Rgba<u8>, &mut Rgb<u8>)| {
                *target = Rgb(std::array::from_fn(|c| tables[c][usize::from(pixel[c])]));
            };
            if self.flip { row.rev().zip(out).for_each(pair) } else { row.zip(out).for_each(pair) }
        }
        canvas
    }
}

fn lit(value: u8, gain: f32) -> u8 {
    (f32::from(value) * gain + 0.5).clamp(0.0, 255.0) as u8
}

/// A cut-out in a scene.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Which concept of the world.
    pub concept: usize,
    /// Which of its cut-outs.
    pub sprite: usize,
    /// The cut-out, mirrored and coloured as it stands here, at its own size.
    pub picture: Arc<RgbaImage>,
    /// Where it stands.
    pub bbox: BBox,
    /// The cut-out at the size of `bbox`.
    scaled: Arc<RgbaImage>,
    /// Its light.
    pub light: Light,
    /// How dark its shadow on the ground is; 0 for none.
    pub shadow: f32,
}

impl Placed {
    /// Cut-out `sprite` of `concept`, looking like `picture`, in plain light without a shadow.
    pub fn new((concept, sprite): (usize, usize), picture: Arc<RgbaImage>, bbox: BBox) -> Self {
        let scaled = Arc::new(raster::resize(&picture, bbox.width, bbox.height));
        Self { concept, sprite, picture, bbox, scaled, light: PLAIN_LIGHT, shadow: 0.0 }
    }

    /// The same thing elsewhere.
    pub fn at(&self, bbox: BBox) -> Self {
        let id = (self.concept, self.sprite);
        let placed = Self::new(id, self.picture.clone(), bbox);
        Self { light: self.light, shadow: self.shadow, ..placed }
    }

    /// The same thing with another look.
    pub fn looking(&self, picture: Arc<RgbaImage>) -> Self {
        let placed = Self::new((self.concept, self.sprite), picture, self.bbox);
        Self { light: self.light, shadow: self.shadow, ..placed }
    }

    /// The cut-out at the size at which it stands in the scene, in its own colours.
    pub fn cutout(&self) -> RgbaImage {
        (*self.scaled).clone()
    }
}

/// Everything that is to be seen.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What is behind.
    pub view: View,
    /// Objects from back to front.
    pub objects: Vec<Placed>,
}

impl Scene {
    /// The scene as a picture of `side` pixels.
    pub fn render(&self, side: u32) -> RgbImage {
        self.compose(self.view.render(side))
    }

    /// The scene's objects on the view that was rendered before.
    pub fn compose(&self, mut canvas: RgbImage) -> RgbImage {
        for object in &self.objects {
            draw_shadow(&mut canvas, object);
            draw_object(&mut canvas, object);
        }
        canvas
    }

    /// Puts an object in, behind those whose feet are lower.
    pub fn insert(&mut self, object: Placed) {
        let feet = |object: &Placed| object.bbox.y + object.bbox.height;
        let at = self.objects.partition_point(|other| feet(other) <= feet(&object));
        self.objects.insert(at, object);
    }

    /// Where a thing of the shape of `sprite` may stand: free of other objects if that can be.
    pub fn find_place(
        &self,
        (width, height): (u32, u32),
        habitat: Habitat,
        place: Option<Place>,
        generator: &mut Generator,
    ) -> BBox {
        let mut best = (f32::INFINITY, BBox { x: MARGIN, y: MARGIN, width, height });
        for _ in 0..14 {
            let (x, y) = match place {
                Some(place) => place.sample(generator),
                None => habitat_point(habitat, height, generator),
            };
            let candidate = BBox::around(x, y, width, height);
            let crowd: f32 =
                self.objects.iter().map(|object| candidate.overlap(&object.bbox)).sum();
            let obeys = place.is_none_or(|place| place.holds(&candidate));
            let cost = crowd + if obeys { 0.0 } else { 10.0 };
            if cost < best.0 {
                best = (cost, candidate);
            }
            if cost < 0.05 {
                break;
            }
        }
        best.1
    }
}

/// A point where things of `habitat` are found; `height` keeps feet on the ground.
fn habitat_point(habitat: Habitat, height: u32, generator: &mut Generator) -> (f32, f32) {
    let x = generator.uniform_in(0.12, 0.88) * SIDE;
    let feet = |low: f32, high: f32, generator: &mut Generator| {
        generator.uniform_in(low, high) * SIDE - height as f32 * 0.5
    };
    let y = match habitat {
        Habitat::Air => generator.uniform_in(0.14, 0.55) * SIDE,
        Habitat::Ground => feet(0.66, 0.97, generator),
        Habitat::Water => feet(0.62, 0.95, generator),
        Habitat::Surface => feet(0.52, 0.96, generator),
    };
    (x, y)
}

/// Width and height in a scene of a cut-out whose longer side has `size` pixels.
pub fn fitted(picture: &RgbaImage, size: f32) -> (u32, u32) {
    let (width, height) = picture.dimensions();
    let scale = size / width.max(height) as f32;
    let length = |pixels: u32| (pixels as f32 * scale).round().max(4.0) as u32;
    (length(width), length(height))
}

fn draw_object(canvas: &mut RgbImage, object: &Placed) {
    let scale = canvas.width() as f32 / SIDE;
    let at = |value: u32| (value as f32 * scale).round() as u32;
    let BBox { x, y, width, height } = object.bbox;
    let picture = if canvas.width() == SCENE_SIDE {
        object.scaled.clone()
    } else {
        Arc::new(raster::resize(&object.picture, at(width).max(1), at(height).max(1)))
    };
    for (column, row, pixel) in picture.enumerate_pixels() {
        let (px, py) = (at(x) + column, at(y) + row);
        if pixel[3] == 0 || px >= canvas.width() || py >= canvas.height() {
            continue;
        }
        let alpha = f32::from(pixel[3]) / 255.0;
        let under = canvas.get_pixel_mut(px, py);
        for c in 0..3 {
            let over = (f32::from(pixel[c]) * object.light[c]).min(255.0);
            under[c] = (f32::from(under[c]) * (1.0 - alpha) + over * alpha + 0.5) as u8;
        }
    }
}

/// A soft ellipse on the ground under the object.
fn draw_shadow(canvas: &mut RgbImage, object: &Placed) {
    if object.shadow <= 0.0 {
        return;
    }
    let scale = canvas.width() as f32 / SIDE;
    let BBox { x, y, width, height } = object.bbox;
    let centre_x = (x as f32 + width as f32 * 0.5) * scale;
    let centre_y = (y as f32 + height as f32 * 0.97) * scale;
    let radius_x = width as f32 * 0.5 * scale;
    let radius_y = (width as f32 * 0.12).max(2.5) * scale;
    let first = (centre_y - radius_y).max(0.0) as u32;
    let last = ((centre_y + radius_y).ceil() as u32).min(canvas.height());
    let left = (centre_x - radius_x).max(0.0) as u32;
    let right = ((centre_x + radius_x).ceil() as u32).min(canvas.width());
    for row in first..last {
        for column in left..right {
            let dx = (column as f32 + 0.5 - centre_x) / radius_x;
            let dy = (row as f32 + 0.5 - centre_y) / radius_y;
            let inside = 1.0 - (dx * dx + dy * dy);
            if inside > 0.0 {
                let keep = 1.0 - object.shadow * inside * (2.0 - inside);
                canvas.get_pixel_mut(column, row).0.iter_mut().for_each(|c| *c = lit(*c, keep));
            }
        }
    }
}
