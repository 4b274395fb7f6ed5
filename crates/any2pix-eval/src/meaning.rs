//! What embeddings say of an edit: the published comparisons' formulas over the embedded model's
//! own encoder. They carry its name, never that of CLIP or DINO.

use std::collections::BTreeMap;

use image::RgbImage;

use crate::Result;
use crate::item::{Figures, Truth, View, crop, wanted_frames};
use crate::metrics::{retrieval::cosine, similarity::directional};
use crate::perception::Perception;
use crate::suite::{Item, Suite};

/// The figures of this file that need captions, and whether the source's too.
const CAPTIONED: [(&str, bool); 3] =
    [("PlayroomCLIP_dir", true), ("PlayroomCLIP_out", false), ("PlayroomCLIP_caption", false)];

/// Why those figures are in no sample; `captions` says whether any item describes its target, and
/// its source.
pub fn absent(captions: (bool, bool)) -> BTreeMap<&'static str, String> {
    let why = |(name, both): (&'static str, bool)| {
        let silent = match captions {
            (false, _) => "target",
            (true, false) if both => "source",
            _ => return None,
        };
        Some((name, format!("the suite has no captions of the {silent}")))
    };
    CAPTIONED.into_iter().filter_map(why).collect()
}

/// `similarity` (result and target), `PlayroomCLIP_aim` (the embedding that was painted towards,
/// after the prior, and the target), `PlayroomCLIP_im` (result and source), `_out` (result and the
/// target's caption), `_dir` (their differences from the source and its caption), `_caption` (the
/// planned caption and the target's), `_sound` (where the object of a sound shall be, and the
/// sound; the whole result where the sound is no object).
pub fn figures(
    item: &Item,
    truth: &Truth,
    view: &View<'_>,
    suite: &Suite,
    eyes: &dyn Perception,
) -> Result<Figures> {
    let mut figures = Figures::new();
    let mut put = |name: &str, value: f64| figures.insert(name.to_string(), value);
    let see = |picture: &RgbImage| -> Result<Vec<f32>> {
        Ok(eyes.embed(std::slice::from_ref(picture))?.into_iter().next().unwrap_or_default())
    };
    let result = see(view.picture)?;
    let target = truth.target.as_ref().map(see).transpose()?;
    let source = truth.source.as_ref().map(see).transpose()?;
    if let Some(target) = &target {
        put("similarity", cosine(&result, target));
        // A model with another encoder paints towards something that cannot be compared.
        if let Some(aim) = view.aim.filter(|aim| aim.len() == target.len()) {
            put("PlayroomCLIP_aim", cosine(aim, target));
        }
    }
    if let Some(source) = &source {
        put("PlayroomCLIP_im", cosine(source, &result));
    }
    let words = |caption: &Option<String>| -> Result<Option<Vec<f32>>> {
        Ok(caption.as_deref().map(|caption| eyes.embed_text(caption)).transpose()?.flatten())
    };
    let (before, after) = (words(&item.source_caption)?, words(&item.caption)?);
    if let Some(after) = &after {
        put("PlayroomCLIP_out", cosine(&result, after));
        let planned = view.plan.map(|plan| plan.caption.clone()).filter(|text| !text.is_empty());
        if let Some(planned) = words(&planned)? {
            put("PlayroomCLIP_caption", cosine(&planned, after));
        }
    }
    if let (Some(source), Some(before), Some(after)) = (&source, &before, &after) {
        put("PlayroomCLIP_dir", directional([source, &result], [before, after]));
    }
    if let Some(alignment) = sound_alignment(item, truth, view, suite, eyes)? {
        put("PlayroomCLIP_sound", alignment);
    }
    Ok(figures)
}

/// How near each sound is to what is seen where its object shall be; the mean over all.
fn sound_alignment(
    item: &Item,
    truth: &Truth,
    view: &View<'_>,
    suite: &Suite,
    eyes: &dyn Perception,
) -> Result<Option<f64>> {
    let mut alike = Vec::new();
    let mut compare = |name: &str, seen: RgbImage| -> Result<()> {
        if let (Some(heard), [seen]) = (eyes.hear(&suite.path(name)?)?, &eyes.embed(&[seen])?[..]) {
            alike.push(cosine(&heard, seen));
        }
        Ok(())
    };
    let objects = item.wanted.iter().zip(wanted_frames(item, truth, view));
    for (subject, frame) in objects.filter(|(subject, _)| subject.modality == "sound") {
        if let Some(name) = &subject.reference {
            compare(name, crop(view.picture, &frame))?;
        }
    }
    if item.wanted.is_empty() && item.unwanted.is_empty() {
        for name in item.references().iter().filter(|name| item.base.as_ref() != Some(*name)) {
            compare(name, view.picture.clone())?;
        }
    }
    let mean = alike.iter().sum::<f64>() / alike.len().max(1) as f64;
    Ok((!alike.is_empty()).then_some(mean))
}
