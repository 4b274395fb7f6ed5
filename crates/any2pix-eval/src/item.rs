//! One item's figures: what was planned, painted and kept, against the truth.

use std::collections::BTreeMap;

use any2pix_agent::outcome::{PlanReport, Rect, SubjectReport};
use any2pix_encoders::judge;
use any2pix_encoders::resize::{self, Filter};
use image::{GrayImage, RgbImage};

use crate::Result;
use crate::metrics::pixels::{self, Where};
use crate::metrics::{region::Frame, retrieval, ssim::ssim};
use crate::perception::Perception;
use crate::suite::{Bounds, Item, Subject};

/// Figures by name; yes and no are 1 and 0, and what does not apply is absent.
pub type Figures = BTreeMap<String, f64>;

/// Shadows and soft edges around the mask belong to what was meant.
const MASK_MARGIN: u32 = 2;

/// A result under measurement.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The picture.
    pub picture: &'a RgbImage,
    /// What was understood, where that is known.
    pub plan: Option<&'a PlanReport>,
    /// What was painted towards, where that is known.
    pub aim: Option<&'a [f32]>,
    /// Size of the picture that the plan's regions are in.
    pub size: (u32, u32),
    /// Whether this is the truth itself, which says how good the judge is.
    pub is_truth: bool,
}

impl<'a> View<'a> {
    /// The truth itself, where somebody knows it.
    pub fn of_truth(truth: &'a Truth) -> Option<Self> {
        let picture = truth.target.as_ref()?;
        let size = picture.dimensions();
        Some(Self { picture, plan: None, aim: None, size, is_truth: true })
    }

    fn prefix(&self) -> &'static str {
        if self.is_truth { "judge_" } else { "" }
    }

    fn role(&self, name: &str) -> Vec<&'a SubjectReport> {
        self.plan.map(|plan| role(plan, name)).unwrap_or_default()
    }
}

/// The pictures of an item.
pub struct Truth {
    /// What is edited; none when the picture is made from nothing.
    pub source: Option<RgbImage>,
    /// What the result should be; not every suite knows.
    pub target: Option<RgbImage>,
    /// Where it should differ from the source.
    pub mask: Option<GrayImage>,
}

impl Truth {
    /// What boxes of the suite are measured in: the target's pixels, or the source's.
    pub fn size(&self) -> (u32, u32) {
        self.target.as_ref().or(self.source.as_ref()).map_or((1, 1), RgbImage::dimensions)
    }
}

fn put(figures: &mut Figures, name: &str, value: f64) {
    figures.insert(name.to_string(), value);
}

fn yes(figures: &mut Figures, name: &str, value: bool) {
    put(figures, name, f64::from(u8::from(value)));
}

fn same(a: &str, b: &str) -> bool {
    a.trim().eq_ignore_ascii_case(b.trim())
}

/// Whether a planned object is the one that was meant, by its name.
fn is_named(subject: &Subject, report: &SubjectReport) -> bool {
    same(&subject.concept, &report.name)
        || (subject.familiarity == "unseen" && is_shown(subject, report))
}

/// Whether a planned object is the picture that was given for it.
fn is_shown(subject: &Subject, report: &SubjectReport) -> bool {
    subject.reference.is_some() && subject.reference == report.reference
}

/// What was meant: an object given as a picture is that picture, whatever the plan calls it.
fn is_meant(subject: &Subject, report: &SubjectReport) -> bool {
    let by_picture = subject.modality == "image" && is_shown(subject, report);
    by_picture || is_named(subject, report)
}

/// Whether every expected object stands in the plan once, and nothing else does.
fn objects_match(
    expected: &[Subject],
    planned: &[&SubjectReport],
    fits: fn(&Subject, &SubjectReport) -> bool,
) -> bool {
    let mut left: Vec<&SubjectReport> = planned.to_vec();
    expected.len() == planned.len()
        && expected.iter().all(|subject| {
            left.iter().position(|report| fits(subject, report)).map(|at| left.remove(at)).is_some()
        })
}

fn role<'a>(plan: &'a PlanReport, role: &str) -> Vec<&'a SubjectReport> {
    plan.subjects.iter().filter(|subject| subject.role == role).collect()
}

/// The plan against the instruction's truth.
pub fn plan_figures(item: &Item, plan: &PlanReport) -> Figures {
    let base = plan.base == item.base;
    let operation = same(&plan.operation, &item.operation);
    let match_all = |fits| {
        objects_match(&item.wanted, &role(plan, "add"), fits)
            && objects_match(&item.unwanted, &role(plan, "remove"), fits)
    };
    let objects = match_all(is_meant);
    let mut figures = Figures::new();
    yes(&mut figures, "base_right", base);
    yes(&mut figures, "operation_right", operation);
    yes(&mut figures, "objects_right", objects);
    yes(&mut figures, "names_right", match_all(is_named));
    yes(&mut figures, "plan_right", base && operation && objects);
    figures
}

fn frame_of(rect: Rect, size: (u32, u32)) -> Frame {
    let Rect { x, y, width, height } = rect;
    Bounds { x, y, width, height }.frame(size)
}

/// The regions against the truth: overlap for what was there, words of place for what was not.
pub fn region_figures(item: &Item, truth: &Truth, view: &View<'_>) -> Figures {
    let mut figures = Figures::new();
    if view.plan.is_none() {
        return figures;
    }
    let size = view.size;
    let true_size = truth.size();
    let regions = |role_name: &str| -> Vec<Frame> {
        let regions = view.role(role_name).into_iter().filter_map(|s| s.region);
        regions.map(|rect| frame_of(rect, size)).collect()
    };
    if ["remove", "replace"].contains(&item.kind.as_str()) {
        let mut found = regions("remove");
        if found.is_empty() {
            found = regions("add");
        }
        let expected = item.unwanted.iter().map(|subject| subject.bbox.frame(true_size));
        let overlaps: Vec<f64> = expected
            .map(|frame| found.iter().map(|region| region.iou(&frame)).fold(0.0, f64::max))
            .collect();
        if !overlaps.is_empty() {
            let mean = overlaps.iter().sum::<f64>() / overlaps.len() as f64;
            put(&mut figures, "locator_iou", mean);
            yes(&mut figures, "locator_hit", overlaps.iter().all(|iou| *iou >= 0.5));
        }
    }
    if let (Some(place), "add") = (&item.place, item.kind.as_str()) {
        let first = regions("add").first().copied();
        match (first, first.and_then(|region| region.is_at(place))) {
            (None, _) => yes(&mut figures, "place_obeyed", false),
            (_, Some(obeyed)) => yes(&mut figures, "place_obeyed", obeyed),
            _ => {}
        }
    }
    figures
}

/// A square around `frame`, as the judge learned to see things.
pub(crate) fn crop(picture: &RgbImage, frame: &Frame) -> RgbImage {
    let [left, top, right, bottom] = frame.0.map(|value| value as f32);
    let (x, y) = ((left + right) * 0.5, (top + bottom) * 0.5);
    judge::crop_around(picture, [x, y, right - left, bottom - top])
}

/// Where the wanted objects of an item are in a result: where the model put them, or the truth.
pub(crate) fn wanted_frames(item: &Item, truth: &Truth, view: &View<'_>) -> Vec<Frame> {
    let (mut reports, size) = (view.role("add"), view.size);
    if reports.is_empty() && ["add", "replace"].contains(&item.kind.as_str()) {
        // A model without a plan says where it changed something.
        reports = view.role("change");
    }
    let frame = |(index, subject): (usize, &Subject)| {
        let named = reports.iter().find(|report| same(&report.name, &subject.concept));
        let region = named.or_else(|| reports.get(index)).and_then(|report| report.region);
        region.map_or_else(|| subject.bbox.frame(truth.size()), |rect| frame_of(rect, size))
    };
    item.wanted.iter().enumerate().map(frame).collect()
}

/// What a judge sees in `result`: wanted objects there, unwanted gone, the rest still there.
///
/// Objects that the judge does not know are left out; kinds other than add, remove, replace and
/// multi have none of these figures.
pub fn edit_figures(
    item: &Item,
    truth: &Truth,
    view: &View<'_>,
    eyes: &dyn Perception,
) -> Result<Figures> {
    let mut figures = Figures::new();
    if !["add", "remove", "replace", "multi"].contains(&item.kind.as_str()) {
        return Ok(figures);
    }
    let true_size = truth.size();
    let prefix = view.prefix();
    let wanted: Vec<(&str, Frame)> = item
        .wanted
        .iter()
        .zip(wanted_frames(item, truth, view))
        .map(|(subject, frame)| (subject.concept.as_str(), frame))
        .collect();
    let of = |concept: &'_ str, bbox: &Bounds| (concept.to_string(), bbox.frame(true_size));
    let unwanted: Vec<_> = item.unwanted.iter().map(|s| of(&s.concept, &s.bbox)).collect();
    let rest: Vec<_> = item.rest.iter().map(|thing| of(&thing.concept, &thing.bbox)).collect();
    let crops: Vec<RgbImage> = wanted
        .iter()
        .map(|(_, frame)| frame)
        .chain(unwanted.iter().chain(&rest).map(|(_, frame)| frame))
        .map(|frame| crop(view.picture, frame))
        .collect();
    let names = eyes.name(&crops)?;
    let (wanted_names, others) = names.split_at(wanted.len());
    let (unwanted_names, rest_names) = others.split_at(unwanted.len());
    let is = |name: &Option<String>, concept: &str| name.as_deref() == Some(concept);
    let mut whole = true;
    let mut tell = |name: &str, verdicts: Vec<bool>| {
        if !verdicts.is_empty() {
            let all = verdicts.iter().all(|verdict| *verdict);
            whole &= all;
            yes(&mut figures, &format!("{prefix}{name}"), all);
        }
    };
    let known = |(_, (concept, _)): &(&Option<String>, &(&str, Frame))| eyes.knows(concept);
    let there = wanted_names.iter().zip(&wanted).filter(known);
    tell("wanted_there", there.map(|(name, (concept, _))| is(name, concept)).collect());
    let gone = unwanted_names.iter().zip(&unwanted).filter(|(_, (c, _))| eyes.knows(c));
    tell("unwanted_gone", gone.map(|(name, (concept, _))| !is(name, concept)).collect());
    let stays = rest_names.iter().zip(&rest).filter(|(_, (c, _))| eyes.knows(c));
    tell("rest_there", stays.map(|(name, (concept, _))| is(name, concept)).collect());
    if !figures.is_empty() {
        yes(&mut figures, &format!("{prefix}edit_right"), whole);
    }
    Ok(figures)
}

/// What was meant: the true mask, and, for an object whose place was left open, the place that the
/// model chose.
fn meant(item: &Item, truth: &Truth, view: &View<'_>) -> Option<GrayImage> {
    let mut mask = pixels::grown(truth.mask.as_ref()?, MASK_MARGIN);
    let size = mask.dimensions();
    if ["add", "multi"].contains(&item.kind.as_str()) {
        for frame in wanted_frames(item, truth, view) {
            let [left, top, right, bottom] = frame.0;
            let inside = |at: u32, whole: u32, low: f64, high: f64| {
                let middle = (f64::from(at) + 0.5) / f64::from(whole.max(1));
                (low..=high).contains(&middle)
            };
            for (x, y, pixel) in mask.enumerate_pixels_mut() {
                if inside(x, size.0, left, right) && inside(y, size.1, top, bottom) {
                    pixel.0[0] = 255;
                }
            }
        }
    }
    Some(mask)
}

/// PSNR, L1, L2 and SSIM of two pictures, as `psnr` and so on with `suffix`.
fn pixel_figures(a: &RgbImage, b: &RgbImage, place: Where<'_>, suffix: &str) -> Figures {
    let mut figures = Figures::new();
    let distances = pixels::distances(a, b, place);
    let values = [
        ("psnr", pixels::psnr(a, b, place)),
        ("l1", distances.map(|(l1, _)| l1)),
        ("l2", distances.map(|(_, l2)| l2)),
        ("ssim", ssim(a, b, place)),
    ];
    for (kind, value) in values.into_iter().filter_map(|(kind, value)| Some((kind, value?))) {
        put(&mut figures, &format!("{kind}{suffix}"), value);
    }
    figures
}

/// How well the source's pixels are kept outside what was meant, as `psnr_NAME` and so on.
pub fn kept_figures(item: &Item, truth: &Truth, view: &View<'_>, name: &str) -> Figures {
    let (Some(source), Some(mask)) = (&truth.source, meant(item, truth, view)) else {
        return Figures::new();
    };
    pixel_figures(view.picture, source, Where::Outside(&mask), &format!("_{name}"))
}

/// How near a result is to the target: as a whole, as MagicBrush measures it (`l1`, `l2`, `psnr`,
/// `ssim`; the result is brought to the target's size as Pillow does), where the target differs
/// from the source (`l1_inside` and so on), and where it does not (`l1_outside`).
pub fn target_figures(truth: &Truth, result: &RgbImage) -> Figures {
    let Some(target) = &truth.target else { return Figures::new() };
    let result = resize::resize(result, target.dimensions(), Filter::Bicubic);
    let mut figures = pixel_figures(&result, target, Where::Everywhere, "");
    if let Some(mask) = &truth.mask {
        figures.extend(pixel_figures(&result, target, Where::Inside(mask), "_inside"));
        figures.extend(pixel_figures(&result, target, Where::Outside(mask), "_outside"));
    }
    figures
}

/// Whether the region of an object that was given as a picture shows that picture: it is nearer to
/// the reference than to any of `gallery`'s others.
pub fn reference_figures(
    item: &Item,
    truth: &Truth,
    view: &View<'_>,
    gallery: &BTreeMap<String, Vec<f32>>,
    eyes: &dyn Perception,
) -> Result<Figures> {
    const AMONG: usize = 100;
    let mut figures = Figures::new();
    if !["add", "replace"].contains(&item.kind.as_str()) {
        return Ok(figures);
    }
    let prefix = view.prefix();
    let frames = wanted_frames(item, truth, view);
    for (subject, frame) in item.wanted.iter().zip(frames).filter(|(s, _)| s.modality == "image") {
        let Some((name, own)) = subject.reference.as_ref().and_then(|n| gallery.get_key_value(n))
        else {
            continue;
        };
        let query = eyes.recognise(&[crop(view.picture, &frame)])?;
        let others: Vec<Vec<f32>> = gallery
            .iter()
            .filter(|(other, likeness)| *other != name && *likeness != own)
            .map(|(_, likeness)| likeness.clone())
            .take(AMONG - 1)
            .collect();
        let rank = query.first().map_or(others.len(), |q| retrieval::rank(q, own, &others));
        yes(&mut figures, &format!("{prefix}reference_found"), rank == 0);
        put(&mut figures, &format!("{prefix}reference_rank"), rank as f64);
    }
    Ok(figures)
}
