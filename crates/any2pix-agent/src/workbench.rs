//! `Workbench`: one task of a plan, from where it happens to pixels in the picture.

use ::image::{RgbImage, RgbaImage, imageops};
use any2pix_diffusion::source_decoder::PriorDeviations;
use any2pix_encoders::image::{self, ImageLimits, Picture};
use any2pix_encoders::locator::{self, Task as Look};
use any2pix_encoders::resize::{self, Filter};
use any2pix_llm::plan::Subject;
use any2pix_nn::Generator;
use candle_core::Tensor;

use crate::components::Components;
use crate::compose::{self, Layer, Painted};
use crate::edit::Planned;
use crate::error::AgentError;
use crate::gallery::Gallery;
use crate::inputs::Input;
use crate::locate::{self, Region};
use crate::matting::{self, Matte};
use crate::outcome::{PlanReport, Rect, SubjectReport};
use crate::painter::{self, Brief, Painter, Painting};
use crate::planes::{Pixels, Plane};
use crate::progress::Stage;
use crate::run::Run;
use crate::settings::{Decoder, EditSettings};
use crate::tasks::Task;

/// Below this the locator is not sure of what it found.
const SURE: f32 = 0.2;
/// A region grows by this part of its longer side: shadows and rims belong to an edit.
const MARGIN: f32 = 0.12;
/// Cells of the painter's picture over which a region fades out.
const FEATHER: f32 = 6.0;
/// No side of an object is a smaller part of the picture.
const SMALLEST_PART: f32 = 0.06;

/// Everything that a task needs.
pub(crate) struct Workbench<'a> {
    pub(crate) components: &'a Components,
    pub(crate) planned: &'a Planned,
    pub(crate) settings: &'a EditSettings,
    pub(crate) galleries: &'a [Gallery<'a>],
    pub(crate) generator: Generator,
    pub(crate) report: &'a mut PlanReport,
}

/// A window that is ready to be painted.
struct Setting {
    window: Rect,
    brief: Brief,
    layer: Option<Layer>,
}

impl Workbench<'_> {
    /// Does the task to `picture`.
    pub(crate) fn carry_out(
        &mut self,
        task: Task,
        picture: RgbImage,
        run: &mut Run,
    ) -> Result<RgbImage, AgentError> {
        let painter = self.components.painter(self.settings.decoder)?;
        match task {
            Task::Make => self.make(&painter, &picture, run),
            Task::Restyle => self.restyle(&painter, picture, run),
            Task::Erase(removal) => {
                let setting =
                    run.stage(Stage::Locate, |run| self.set_hole(removal, None, &picture, run))?;
                self.paint_window(&painter, setting, picture, run)
            }
            Task::Add(addition) => {
                let setting =
                    run.stage(Stage::Locate, |run| self.set_addition(addition, &picture, run))?;
                self.paint_window(&painter, setting, picture, run)
            }
            Task::Replace { removal, addition } => {
                let setting = run.stage(Stage::Locate, |run| {
                    self.set_hole(removal, Some(addition), &picture, run)
                })?;
                self.paint_window(&painter, setting, picture, run)
            }
        }
    }

    /// Paints a window and puts it back.
    fn paint_window(
        &mut self,
        painter: &Painter,
        setting: Setting,
        mut picture: RgbImage,
        run: &mut Run,
    ) -> Result<RgbImage, AgentError> {
        let Setting { window, brief, layer } = setting;
        let painting = painter.paint(&brief, self.settings, &mut self.generator, run)?;
        run.stage(Stage::Compose, |_| {
            if self.settings.compose {
                let Painting { draft, source, result } = painting;
                let before = if layer.is_some() { draft } else { source };
                let region = brief.region;
                compose::stitch(
                    &mut picture,
                    &Painted { window, before, after: result, region, layer },
                );
            } else {
                compose::paste(&mut picture, window, &painting.result);
            }
            Ok(picture)
        })
    }

    fn restyle(
        &mut self,
        painter: &Painter,
        mut picture: RgbImage,
        run: &mut Run,
    ) -> Result<RgbImage, AgentError> {
        let whole = Rect::whole(&picture);
        let source = self.view(&picture, whole);
        let subject = self.planned.plan.additions.first();
        let brief = self.whole_brief(source, PriorDeviations::GLOBAL, subject)?;
        let painting = painter.paint(&brief, self.settings, &mut self.generator, run)?;
        run.stage(Stage::Compose, |_| {
            if self.settings.compose {
                compose::relight(&mut picture, &painting.source, &painting.result);
            } else {
                compose::paste(&mut picture, whole, &painting.result);
            }
            Ok(picture)
        })
    }

    /// A picture from nothing: nothing is known of any place.
    fn make(
        &mut self,
        painter: &Painter,
        canvas: &RgbImage,
        run: &mut Run,
    ) -> Result<RgbImage, AgentError> {
        let source = self.view(canvas, Rect::whole(canvas));
        let unknown = PriorDeviations { outside: 1.0, reference: 1.0, imagined: 1.0 };
        let subject = self.planned.plan.additions.first();
        let brief = self.whole_brief(source, unknown, subject)?;
        let painting = painter.paint(&brief, self.settings, &mut self.generator, run)?;
        let (width, height) = canvas.dimensions();
        let made = painting.result.to_rgb();
        Ok(resize::resize(&made, (width, height), Filter::Bicubic))
    }

    fn whole_brief(
        &self,
        source: Pixels,
        deviations: PriorDeviations,
        subject: Option<&Subject>,
    ) -> Result<Brief, AgentError> {
        let side = self.side();
        let condition = match subject {
            Some(subject) => self.condition_of(subject)?,
            None => self.planned.condition.clone(),
        };
        Ok(Brief {
            draft: source.clone(),
            source,
            drafted: Plane::filled(side, side, 0.0),
            region: Plane::filled(side, side, 1.0),
            deviations,
            condition,
        })
    }

    /// Where an object stands becomes a hole, which its background or another object fills.
    fn set_hole(
        &mut self,
        removal: usize,
        addition: Option<usize>,
        picture: &RgbImage,
        run: &mut Run,
    ) -> Result<Setting, AgentError> {
        let subject = &self.planned.plan.removals[removal];
        let region = self.locate(Look::Find, subject, picture, run)?;
        let size = picture.dimensions();
        let window = self.window(region.rect.grown(MARGIN, size), size);
        let side = self.side();
        let hole = locate::mask_in_window(&region.mask, window, size, side)
            .map(|value| if value > 0.35 { 1.0 } else { 0.0 })
            .dilated(2);
        let source = self.view(picture, window);
        let filled = painter::filled(&source, &hole).map_err(AgentError::compute(Stage::Locate))?;
        self.note("remove", removal, region.rect, window);
        let mut setting = Setting {
            window,
            layer: None,
            brief: Brief {
                source,
                draft: filled,
                region: hole.dilated(2).blurred(1),
                drafted: hole,
                deviations: PriorDeviations::default(),
                condition: self.planned.condition.clone(),
            },
        };
        if let Some(addition) = addition {
            setting.brief.condition = self.condition_of(&self.planned.plan.additions[addition])?;
            self.note("add", addition, region.rect, window);
            self.lay_reference(addition, region.rect, &mut setting, run)?;
        }
        Ok(setting)
    }

    /// Where an object may stand becomes a window with its reference, if there is one.
    fn set_addition(
        &mut self,
        addition: usize,
        picture: &RgbImage,
        run: &mut Run,
    ) -> Result<Setting, AgentError> {
        let subject = &self.planned.plan.additions[addition];
        let rect = self.locate(Look::Put, subject, picture, run)?.rect;
        let size = picture.dimensions();
        let window = self.window(rect, size);
        let source = self.view(picture, window);
        let side = self.side();
        self.note("add", addition, rect, window);
        let mut setting = Setting {
            window,
            layer: None,
            brief: Brief {
                draft: source.clone(),
                source,
                drafted: Plane::filled(side, side, 0.0),
                region: locate::rect_in_window(rect.grown(MARGIN, size), window, side, FEATHER),
                deviations: PriorDeviations::default(),
                condition: self.condition_of(subject)?,
            },
        };
        self.lay_reference(addition, rect, &mut setting, run)?;
        Ok(setting)
    }

    /// Draws the addition's reference, where there is one, exactly where the object shall be.
    fn lay_reference(
        &mut self,
        addition: usize,
        rect: Rect,
        setting: &mut Setting,
        run: &mut Run,
    ) -> Result<(), AgentError> {
        let Some(cut) = self.reference(addition, run)? else { return Ok(()) };
        if self.settings.strength == 0.0 || self.settings.decoder == Decoder::Inversion {
            return Ok(());
        }
        let place = rect.fitted(cut.width(), cut.height());
        let image = scaled(&cut, place.width, place.height);
        let layer = Layer { image, x: i64::from(place.x), y: i64::from(place.y) };
        let (colours, alpha) = layer_in_window(&layer, setting.window, self.side());
        let alpha = alpha.map(|a| a * self.settings.strength as f32);
        let brief = &mut setting.brief;
        let over = |c: usize| {
            let colour = &colours.0[c];
            let mixed = brief.draft.0[c].zip(&alpha, |under, a| under * (1.0 - a));
            mixed.zip(&colour.zip(&alpha, |colour, a| colour * a), |under, over| under + over)
        };
        brief.draft = Pixels([over(0), over(1), over(2)]);
        brief.drafted = brief.drafted.zip(&alpha, f32::max);
        brief.region = brief.region.zip(&alpha, f32::max);
        setting.layer = (self.settings.strength >= 1.0).then_some(layer);
        Ok(())
    }

    /// The cut-out that shows what an addition looks like: its own picture, else the gallery's.
    fn reference(
        &mut self,
        addition: usize,
        run: &mut Run,
    ) -> Result<Option<RgbaImage>, AgentError> {
        let subject = &self.planned.plan.additions[addition];
        let input = subject.reference.and_then(|index| self.planned.inputs.get(index));
        if let Some(picture) = input.and_then(Input::picture) {
            return Ok(Some(self.cut(picture, &subject.name, run)));
        }
        let query = input.map_or(&subject.embedding, |input| &input.embedding);
        let best = self
            .galleries
            .iter()
            .filter_map(|gallery| Some((gallery, gallery.nearest(query, Some(&subject.name))?)))
            .reduce(|best, next| if next.1.similarity > best.1.similarity { next } else { best });
        let Some((gallery, found)) = best else { return Ok(None) };
        let (name, bytes) = gallery.read(found.index)?;
        let picture = image::decode(&name, &bytes, &ImageLimits::default())
            .map_err(|error| AgentError::Media { error: Box::new(error) })?;
        let subject_name = subject.name.clone();
        if let Some(row) = self.row("add", addition) {
            row.gallery = Some(name);
            row.similarity = Some(found.similarity);
        }
        Ok(Some(self.cut(&picture, &subject_name, run)))
    }

    fn cut(&self, picture: &Picture, name: &str, run: &mut Run) -> RgbaImage {
        let (cut, matte) = matting::cut_out(picture);
        if matte == Matte::SoftCentre {
            run.warn(format!(
                "the picture of `{name}` has no plain background; its middle was taken"
            ));
        }
        cut
    }

    /// Asks the locator.
    fn locate(
        &self,
        look: Look,
        subject: &Subject,
        picture: &RgbImage,
        run: &mut Run,
    ) -> Result<Region, AgentError> {
        let locator = self.components.locator()?;
        let place = self.planned.plan.place.as_deref().filter(|_| look == Look::Put);
        let id = locator::place_id(look, place).or_else(|| locator::place_id(look, None));
        let input = subject.reference.and_then(|index| self.planned.inputs.get(index));
        let query = input.map_or(&subject.embedding, |input| &input.embedding);
        let answer = Tensor::new(query.as_slice(), &self.components.device)
            .and_then(|query| locator.locate(picture, &query, id.unwrap_or_default()))
            .map_err(AgentError::compute(Stage::Locate))?;
        if look == Look::Find && answer.confidence < SURE {
            run.warn(format!("`{}` is hard to find in the picture", subject.name));
        }
        let size = picture.dimensions();
        let rect = rect_of(answer.bbox, size);
        let mask = Plane { width: answer.side, height: answer.side, values: answer.mask };
        if look == Look::Find
            && let Some(region) = locate::region_of_mask(&mask, size)
        {
            return Ok(region);
        }
        let (width, height) = size;
        let [left, top] = [rect.x as f32 / width as f32, rect.y as f32 / height as f32];
        let [right, bottom] =
            [left + rect.width as f32 / width as f32, top + rect.height as f32 / height as f32];
        let cells = answer.side as f32;
        let inside = |cell: usize, from: f32, to: f32| {
            let at = (cell as f32 + 0.5) / cells;
            at >= from && at <= to
        };
        let mask = Plane::from_fn(answer.side, answer.side, |x, y| {
            f32::from(inside(x, left, right) && inside(y, top, bottom))
        });
        Ok(Region { rect, mask })
    }

    fn condition_of(
        &self,
        subject: &Subject,
    ) -> Result<crate::conditioning::Condition, AgentError> {
        let input = subject.reference.and_then(|index| self.planned.inputs.get(index));
        let embedding = input.map_or(&subject.embedding, |input| &input.embedding);
        let condition = self.planned.condition.with_subject(embedding);
        condition.map_err(AgentError::compute(Stage::Condition))
    }

    /// Side of the painter's picture.
    fn side(&self) -> usize {
        self.components.index.window_size as usize
    }

    fn window(&self, rect: Rect, size: (u32, u32)) -> Rect {
        let (width, height) = size;
        if !self.settings.window {
            return Rect { x: 0, y: 0, width, height };
        }
        let least = width.min(height) / 3;
        rect.window(self.components.index.window_zoom, least, size)
    }

    fn view(&self, picture: &RgbImage, window: Rect) -> Pixels {
        Pixels::from_rgb(&locate::cut(picture, window, self.components.index.window_size))
    }

    fn row(&mut self, role: &str, index: usize) -> Option<&mut SubjectReport> {
        self.report.subjects.iter_mut().filter(|row| row.role == role).nth(index)
    }

    fn note(&mut self, role: &str, index: usize, region: Rect, window: Rect) {
        if let Some(row) = self.row(role, index) {
            row.region = Some(region);
            row.window = Some(window);
        }
    }
}

/// A box in parts of the picture (centre, width, height) as pixels inside of it.
fn rect_of([x, y, w, h]: [f32; 4], (width, height): (u32, u32)) -> Rect {
    let span = |centre: f32, length: f32, pixels: u32| {
        let length = if length.is_finite() { length.clamp(SMALLEST_PART, 1.0) } else { 0.5 };
        let half = length / 2.0;
        let centre = if centre.is_finite() { centre.clamp(half, 1.0 - half) } else { 0.5 };
        let start = ((centre - half) * pixels as f32).round() as u32;
        let length = ((length * pixels as f32).round() as u32).max(1);
        (start.min(pixels.saturating_sub(length)), length.min(pixels))
    };
    let ((x, width), (y, height)) = (span(x, w, width), span(y, h, height));
    Rect { x, y, width, height }
}

/// A cut-out at another size; its colours are weighed by its alpha, so that no rim bleeds in.
fn scaled(cut: &RgbaImage, width: u32, height: u32) -> RgbaImage {
    let mut weighed = cut.clone();
    for pixel in weighed.pixels_mut() {
        let alpha = u32::from(pixel.0[3]);
        pixel.0[..3].iter_mut().for_each(|c| *c = ((u32::from(*c) * alpha + 127) / 255) as u8);
    }
    let smaller = width < cut.width() || height < cut.height();
    let filter = if smaller { imageops::Lanczos3 } else { imageops::CatmullRom };
    let mut result = imageops::resize(&weighed, width, height, filter);
    for pixel in result.pixels_mut() {
        let alpha = u32::from(pixel.0[3]);
        if alpha > 0 {
            let plain =
                |c: &mut u8| *c = ((u32::from(*c) * 255 + alpha / 2) / alpha).min(255) as u8;
            pixel.0[..3].iter_mut().for_each(plain);
        }
    }
    result
}

/// A layer's colours and alpha over a window, at the painter's resolution.
fn layer_in_window(layer: &Layer, window: Rect, side: usize) -> (Pixels, Plane) {
    let scale = side as f32 / window.width as f32;
    let down = side as f32 / window.height as f32;
    let length = |pixels: u32, scale: f32| ((pixels as f32 * scale).round() as u32).max(1);
    let small = scaled(
        &layer.image,
        length(layer.image.width(), scale),
        length(layer.image.height(), down),
    );
    let left = ((layer.x - i64::from(window.x)) as f32 * scale).round() as i64;
    let top = ((layer.y - i64::from(window.y)) as f32 * down).round() as i64;
    let at = |x: usize, y: usize, c: usize| {
        let column = u32::try_from(x as i64 - left).ok();
        let row = u32::try_from(y as i64 - top).ok();
        let pixel = column.zip(row).and_then(|(x, y)| small.get_pixel_checked(x, y));
        pixel.map_or(0.0, |pixel| f32::from(pixel.0[c]) / 255.0)
    };
    let channel = |c: usize| Plane::from_fn(side, side, |x, y| at(x, y, c));
    (Pixels([channel(0), channel(1), channel(2)]), channel(3))
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;

    #[test]
    fn a_box_becomes_pixels_inside_the_picture() {
        assert_eq!(
            rect_of([0.5, 0.5, 0.25, 0.5], (640, 320)),
            Rect { x: 240, y: 80, width: 160, height: 160 }
        );
        for bbox in [[0.0, 1.0, 0.4, 0.4], [2.0, -3.0, 9.0, 0.0], [f32::NAN; 4]] {
            let rect = rect_of(bbox, (640, 480));
            assert!(rect.x + rect.width <= 640 && rect.y + rect.height <= 480, "{rect:?}");
            assert!(rect.width > 20 && rect.height > 20, "{rect:?}");
        }
    }

    #[test]
    fn a_layer_lies_in_its_window_where_it_lies_in_the_picture() {
        let image = RgbaImage::from_pixel(40, 20, Rgba([255, 0, 51, 255]));
        let layer = Layer { image, x: 120, y: 90 };
        let window = Rect { x: 100, y: 50, width: 80, height: 80 };
        let (colours, alpha) = layer_in_window(&layer, window, 16);
        assert_eq!(alpha.values.iter().filter(|a| **a == 1.0).count(), 8 * 4);
        assert_eq!((alpha.at(4, 8), alpha.at(3, 8), alpha.at(11, 11)), (1.0, 0.0, 1.0));
        assert_eq!(colours.sample(0.5, 0.6), [1.0, 0.0, 0.2]);
    }

    #[test]
    fn a_scaled_cut_out_keeps_its_colours_to_the_rim() {
        let cut = RgbaImage::from_fn(64, 64, |x, _| {
            if x < 32 { Rgba([200, 100, 50, 255]) } else { Rgba([0, 0, 0, 0]) }
        });
        let small = scaled(&cut, 15, 15);
        for pixel in small.pixels().filter(|p| p.0[3] > 40) {
            for (value, wanted) in pixel.0.iter().zip([200u8, 100, 50]) {
                assert!(value.abs_diff(wanted) <= 6, "{pixel:?}");
            }
        }
    }
}
