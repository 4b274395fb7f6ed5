//! `Workbench`: one task of a plan, from where it happens to pixels in the picture.

use ::image::{RgbImage, RgbaImage, imageops};
use any2pix_diffusion::source_decoder::PriorDeviations;
use any2pix_encoders::image::{self, ImageLimits, Picture};
use any2pix_encoders::locator::Area;
use any2pix_encoders::resize::{self, Filter};
use any2pix_llm::plan::Subject;
use any2pix_nn::Generator;
use candle_core::Tensor;

use crate::alter;
use crate::components::Components;
use crate::compose::{self, Layer, Painted};
use crate::edit::Planned;
use crate::error::AgentError;
use crate::gallery::Gallery;
use crate::inputs::{Input, row};
use crate::layers;
use crate::locate::{self, Region};
use crate::matting::{self, Matte};
use crate::outcome::{PlanReport, Rect, SubjectReport};
use crate::painter::{Brief, Painter, Painting};
use crate::planes::{Pixels, Plane};
use crate::progress::Stage;
use crate::run::Run;
use crate::segment;
use crate::settings::{Decoder, EditSettings};
use crate::sighting;
use crate::tasks::Task;

/// Below this the locator is not sure of what it found.
const SURE: f32 = 0.3;
/// A region grows by this part of its longer side: shadows and rims belong to an edit.
const MARGIN: f32 = 0.12;
/// From here on a place is taken to belong to what is removed: a rim that stays is worse than a
/// little more that is filled.
const BELONGS: f32 = 0.4;
/// Pixels of the painter's picture by which a hole is larger than its thing.
const RIM: usize = 3;
/// Cells of the painter's picture over which a region fades out.
const FEATHER: f32 = 6.0;

/// Everything that a task needs.
pub(crate) struct Workbench<'a> {
    pub(crate) components: &'a Components,
    pub(crate) planned: &'a Planned,
    pub(crate) settings: &'a EditSettings,
    pub(crate) galleries: &'a [Gallery<'a>],
    pub(crate) generator: Generator,
    pub(crate) report: &'a mut PlanReport,
    /// What the steps before did.
    pub(crate) before: Option<&'a PlanReport>,
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
        let plan = &self.planned.plan;
        let setting = match task {
            Task::Make => return self.make(&painter, &picture, run),
            Task::Restyle => return self.restyle(&painter, picture, run),
            Task::Erase(removal) => run.stage(Stage::Locate, |run| {
                let region = self.find(&plan.removals[removal], &picture, run)?;
                let setting = self.hole(&region, region.rect, &picture)?;
                self.note("remove", removal, region.rect, setting.window);
                Ok(setting)
            })?,
            Task::Replace { removal, addition } => run.stage(Stage::Locate, |run| {
                let region = self.find(&plan.removals[removal], &picture, run)?;
                let mut setting = self.hole(&region, region.rect, &picture)?;
                self.note("remove", removal, region.rect, setting.window);
                setting.brief.condition = self.condition_of(&plan.additions[addition])?;
                let cut = self.reference(addition, run)?;
                self.lay_reference(addition, cut.as_ref(), region.rect, &mut setting);
                Ok(setting)
            })?,
            Task::Add(addition) => run.stage(Stage::Locate, |run| {
                let room = self.room(&plan.additions[addition], &picture)?;
                let cut = self.reference(addition, run)?;
                let rect = self.free(room, cut.as_ref(), picture.width());
                let mut setting = self.place(addition, rect, &picture)?;
                self.lay_reference(addition, cut.as_ref(), rect, &mut setting);
                Ok(setting)
            })?,
            Task::Alter(addition) => {
                run.stage(Stage::Locate, |run| self.alter(addition, &picture, run))?
            }
            Task::Move(addition) => return self.take_elsewhere(&painter, addition, picture, run),
            Task::Repeat(addition) => run.stage(Stage::Locate, |run| {
                let object = self.object(addition, &picture, run)?;
                self.put_again(addition, &object, &picture)
            })?,
        };
        self.paint_window(&painter, setting, picture, run)
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
                let Painting { draft: before, result: after } = painting;
                let Brief { region, drafted, .. } = brief;
                let painted = Painted { window, before, after, region, drafted, layer };
                compose::stitch(&mut picture, &painted);
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
        let brief = self.whole_brief(source, PriorDeviations::GLOBAL);
        let painting = painter.paint(&brief, self.settings, &mut self.generator, run)?;
        run.stage(Stage::Compose, |_| {
            if self.settings.compose {
                compose::relight(&mut picture, &painting.draft, &painting.result);
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
        let brief = self.whole_brief(source, unknown);
        let painting = painter.paint(&brief, self.settings, &mut self.generator, run)?;
        let (width, height) = canvas.dimensions();
        let made = painting.result.to_rgb();
        Ok(resize::resize(&made, (width, height), Filter::Bicubic))
    }

    fn whole_brief(&self, source: Pixels, deviations: PriorDeviations) -> Brief {
        let side = self.side();
        Brief {
            draft: source.clone(),
            source,
            drafted: Plane::filled(side, side, 0.0),
            region: Plane::filled(side, side, 1.0),
            deviations,
            condition: self.planned.condition.clone(),
        }
    }

    /// Where an object stands becomes a hole, filled from around it; the window holds `also` too.
    fn hole(
        &mut self,
        region: &Region,
        also: Rect,
        picture: &RgbImage,
    ) -> Result<Setting, AgentError> {
        let size = picture.dimensions();
        let window = self.window(region.rect.grown(MARGIN, size).united(&also), size);
        let source = self.view(picture, window);
        let mask = locate::mask_in_window(&region.mask, window, size, self.side());
        let hole = segment::belonging(&source, &mask)
            .map(|share| f32::from(share > BELONGS))
            .dilated(RIM)
            .blurred(1);
        let brief = Brief {
            draft: source.clone(),
            source,
            drafted: Plane::filled(self.side(), self.side(), 0.0),
            region: hole.clone(),
            deviations: PriorDeviations::default(),
            condition: self.planned.condition.clone(),
        };
        let mut setting = Setting { window, layer: None, brief };
        let filled = layers::filled(picture, window, &hole, &mut self.generator);
        self.lay_over(filled, 1.0, &mut setting);
        Ok(setting)
    }

    /// Where an object shall stand becomes a window.
    fn place(
        &mut self,
        addition: usize,
        rect: Rect,
        picture: &RgbImage,
    ) -> Result<Setting, AgentError> {
        let (size, side) = (picture.dimensions(), self.side());
        let window = self.window(rect, size);
        let source = self.view(picture, window);
        let grown = rect.grown(MARGIN / 2.0, size);
        let brief = Brief {
            draft: source.clone(),
            source,
            drafted: Plane::filled(side, side, 0.0),
            region: locate::rect_in_window(grown, window, side, FEATHER),
            deviations: PriorDeviations::default(),
            condition: self.condition_of(&self.planned.plan.additions[addition])?,
        };
        self.note("add", addition, rect, window);
        Ok(Setting { window, layer: None, brief })
    }

    /// An object of the picture itself, with where it stands.
    fn object(
        &self,
        addition: usize,
        picture: &RgbImage,
        run: &mut Run,
    ) -> Result<(Region, RgbaImage), AgentError> {
        let subject = &self.planned.plan.additions[addition];
        let region = self.find(subject, picture, run)?;
        let cut = layers::taken_out(picture, &region);
        Ok((region, cut))
    }

    /// The object in another colour or at another size, where it stands.
    fn alter(
        &mut self,
        addition: usize,
        picture: &RgbImage,
        run: &mut Run,
    ) -> Result<Setting, AgentError> {
        let (region, cut) = self.object(addition, picture, run)?;
        let look = self.planned.plan.look.clone().unwrap_or_default();
        let rect = alter::resized(region.rect, &look, picture.dimensions());
        let cut = alter::recoloured(&cut, &look).unwrap_or(cut);
        let mut setting = self.hole(&region, rect, picture)?;
        setting.brief.condition = self.condition_of(&self.planned.plan.additions[addition])?;
        self.note("add", addition, rect, setting.window);
        self.lay(&cut, rect, &mut setting);
        Ok(setting)
    }

    /// Erases the object where it stands, then paints it where it shall stand.
    fn take_elsewhere(
        &mut self,
        painter: &Painter,
        addition: usize,
        picture: RgbImage,
        run: &mut Run,
    ) -> Result<RgbImage, AgentError> {
        let (object, setting) = run.stage(Stage::Locate, |run| {
            let object = self.object(addition, &picture, run)?;
            let setting = self.hole(&object.0, object.0.rect, &picture)?;
            Ok((object, setting))
        })?;
        let picture = self.paint_window(painter, setting, picture, run)?;
        let setting = run.stage(Stage::Locate, |_| self.put_again(addition, &object, &picture))?;
        self.paint_window(painter, setting, picture, run)
    }

    /// An object of the picture once more, at its size, around where the locator wants it.
    fn put_again(
        &mut self,
        addition: usize,
        (region, cut): &(Region, RgbaImage),
        picture: &RgbImage,
    ) -> Result<Setting, AgentError> {
        let subject = &self.planned.plan.additions[addition];
        let wanted = self.room(subject, picture)?;
        let rect = wanted.with_size(region.rect.width, region.rect.height, picture.dimensions());
        let mut setting = self.place(addition, rect, picture)?;
        self.lay(cut, rect, &mut setting);
        Ok(setting)
    }

    /// Draws the addition's reference, where there is one, exactly where the object shall be.
    fn lay_reference(
        &mut self,
        addition: usize,
        cut: Option<&RgbaImage>,
        rect: Rect,
        setting: &mut Setting,
    ) {
        let place = match cut {
            Some(cut) if self.settings.strength > 0.0 => self.lay(cut, rect, setting),
            // Nothing is known of what shall be there.
            _ => {
                setting.brief.deviations.reference = setting.brief.deviations.imagined;
                setting.layer = None;
                rect
            }
        };
        self.note("add", addition, place, setting.window);
    }

    /// Lays a cut-out into a setting's draft, and says where it is then.
    fn lay(&self, cut: &RgbaImage, rect: Rect, setting: &mut Setting) -> Rect {
        let place = rect.fitted(cut.width(), cut.height());
        let image = layers::scaled(cut, place.width, place.height);
        let layer = Layer { image, x: i64::from(place.x), y: i64::from(place.y) };
        self.lay_over(layer, self.settings.strength as f32, setting);
        place
    }

    /// Lays a layer over a setting's draft and its other layers.
    fn lay_over(&self, layer: Layer, strength: f32, setting: &mut Setting) {
        let (colours, alpha) = layers::layer_in_window(&layer, setting.window, self.side());
        let alpha = alpha.map(|a| a * strength);
        let brief = &mut setting.brief;
        let over = |c: usize| {
            let colour = &colours.0[c];
            let mixed = brief.draft.0[c].zip(&alpha, |under, a| under * (1.0 - a));
            mixed.zip(&colour.zip(&alpha, |colour, a| colour * a), |under, over| under + over)
        };
        brief.draft = Pixels([over(0), over(1), over(2)]);
        brief.drafted = brief.drafted.zip(&alpha, f32::max);
        brief.region = brief.region.zip(&alpha.dilated(3).blurred(1), f32::max);
        // Only what the painter starts from, and all of it, may be drawn at full size.
        let is_followed = strength >= 1.0 && self.settings.decoder == Decoder::Source;
        setting.layer = match setting.layer.take().filter(|_| is_followed) {
            Some(mut under) => {
                let (x, y) = (layer.x - under.x, layer.y - under.y);
                imageops::overlay(&mut under.image, &layer.image, x, y);
                Some(under)
            }
            None => is_followed.then_some(layer),
        };
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
            return Ok(Some(self.cut(picture, &subject.name, run)?));
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
            row.similarity = found.similarity;
        }
        Ok(Some(self.cut(&picture, &subject_name, run)?))
    }

    fn cut(&self, picture: &Picture, name: &str, run: &mut Run) -> Result<RgbaImage, AgentError> {
        let locator = self.components.locator()?;
        let (cut, matte) =
            matting::cut_out(picture, &locator).map_err(AgentError::compute(Stage::Locate))?;
        if matte == Matte::SoftCentre {
            run.warn(format!(
                "nothing stands out in the picture of `{name}`; its middle was taken"
            ));
        }
        Ok(cut)
    }

    /// Where an object of the picture is.
    fn find(
        &self,
        subject: &Subject,
        picture: &RgbImage,
        run: &mut Run,
    ) -> Result<Region, AgentError> {
        let queries = self.by_name_too(self.query(subject)?, &subject.name)?;
        let answer = sighting::find(self.components, picture, &queries)?;
        if answer.confidence < SURE {
            run.warn(format!("`{}` is hard to find in the picture", subject.name));
        }
        let size = picture.dimensions();
        let rect = locate::rect_of(answer.bbox, size);
        let mask = Plane { width: answer.side, height: answer.side, values: answer.mask };
        Ok(Region::within(rect, &mask, size))
    }

    /// Where an object may be put.
    fn room(&self, subject: &Subject, picture: &RgbImage) -> Result<Rect, AgentError> {
        let place = self.planned.plan.place.as_deref();
        let area = place.and_then(Area::named).unwrap_or(Area::ANYWHERE);
        let answer = self.components.locator()?.room(picture, &self.query(subject)?, area);
        let answer = answer.map_err(AgentError::compute(Stage::Locate))?;
        Ok(locate::rect_of(answer.bbox, picture.dimensions()))
    }

    /// `room`, or a place beside it that is not taken by what this instruction has added so far.
    fn free(&self, room: Rect, cut: Option<&RgbaImage>, width: u32) -> Rect {
        let reports = self.before.into_iter().chain([&*self.report]);
        let added = reports.flat_map(|report| &report.subjects).filter(|s| s.role == "add");
        let taken: Vec<Rect> = added.filter_map(|added| added.region).collect();
        let rect = cut.map_or(room, |cut| room.fitted(cut.width(), cut.height()));
        match rect.beside(&taken, width) {
            free if free == rect => room,
            free => free,
        }
    }

    /// What stands for an object: its reference, else what the plan says of it.
    fn meaning<'s>(&'s self, subject: &'s Subject) -> &'s [f32] {
        let input = subject.reference.and_then(|index| self.planned.inputs.get(index));
        input.map_or(&subject.embedding, |input| &input.embedding)
    }

    fn query(&self, subject: &Subject) -> Result<Tensor, AgentError> {
        row(self.meaning(subject)).map_err(AgentError::compute(Stage::Locate))
    }

    /// A query and, for a name that the model was trained on, the name as another.
    fn by_name_too(&self, own: Tensor, name: &str) -> Result<Tensor, AgentError> {
        let vocabulary = &self.planned.vocabulary;
        let Some(known) = vocabulary.trained().iter().position(|c| c.name == name) else {
            return Ok(own);
        };
        row(&vocabulary.spoken(self.components)?[known])
            .and_then(|spoken| Tensor::cat(&[own, spoken], 0))
            .map_err(AgentError::compute(Stage::Locate))
    }

    fn condition_of(
        &self,
        subject: &Subject,
    ) -> Result<crate::conditioning::Condition, AgentError> {
        let condition = self.planned.condition.with_subject(self.meaning(subject));
        condition.map_err(AgentError::compute(Stage::Condition))
    }

    /// Side of the painter's picture.
    fn side(&self) -> usize {
        self.components.index.window_size as usize
    }

    fn window(&self, rect: Rect, size: (u32, u32)) -> Rect {
        let (width, height) = size;
        let whole = Rect { x: 0, y: 0, width, height };
        let is_too_large = rect.width.max(rect.height) > width.min(height);
        if !self.settings.window || is_too_large {
            return whole;
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
