//! `System`: whatever makes edits; the model, and the baselines that say what a figure is worth.

mod copies;
mod sdedit;
mod text_only;

use std::fmt;
use std::str::FromStr;

use any2pix_agent::outcome::{PlanReport, StageTime};
use any2pix_agent::{EditOutcome, EditRequest, EditSettings, Pipeline, Playroom, Silent};
use image::DynamicImage;

use crate::suite::{Item, Suite};
use crate::{EvalError, Result};

pub use copies::{Identity, Oracle, Stored};
pub use sdedit::SdEdit;
pub use text_only::TextOnly;

/// What came of an edit.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The picture.
    pub image: DynamicImage,
    /// What was understood, by systems that say so.
    pub plan: Option<PlanReport>,
    /// The embedding that was painted towards, by systems that say so.
    pub aim: Option<Vec<f32>>,
    /// Wall time of each stage.
    pub timings: Vec<StageTime>,
}

impl Edited {
    /// A picture about which nothing else is known.
    pub fn picture(image: DynamicImage) -> Self {
        Self { image, plan: None, aim: None, timings: Vec::new() }
    }
}

impl From<EditOutcome> for Edited {
    fn from(outcome: EditOutcome) -> Self {
        let EditOutcome { image, plan, aim, timings, .. } = outcome;
        Self { image, plan: Some(plan), aim, timings }
    }
}

/// Whatever makes edits: a pipeline, or a baseline that bounds the figures.
pub trait System: Sync {
    /// The edit of an item.
    ///
    /// # Errors
    /// Those of which [`EvalError::is_of_one_item`] is true count against the item, all others end
    /// the run.
    fn edit(&self, item: &Item, request: &EditRequest) -> Result<Edited>;

    /// Whether it composes: then it can be run without, to measure its decoder alone.
    fn composes(&self) -> bool {
        false
    }
}

/// A pipeline as it is.
pub struct Model<'a>(pub &'a dyn Pipeline);

impl System for Model<'_> {
    fn edit(&self, _item: &Item, request: &EditRequest) -> Result<Edited> {
        Ok(self.0.edit(request, &mut Silent)?.into())
    }

    fn composes(&self) -> bool {
        true
    }
}

/// A pipeline that uses the planned embedding as it is.
pub struct NoPrior<'a>(pub &'a dyn Pipeline);

impl System for NoPrior<'_> {
    fn edit(&self, _item: &Item, request: &EditRequest) -> Result<Edited> {
        let settings = EditSettings { refine: false, ..request.settings.clone() };
        let request = EditRequest { settings, ..request.clone() };
        Ok(self.0.edit(&request, &mut Silent)?.into())
    }

    fn composes(&self) -> bool {
        true
    }
}

/// The systems by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemName {
    /// The model as it is.
    Model,
    /// Copies the source.
    Identity,
    /// Copies the target.
    Oracle,
    /// The source under noise, denoised under the target's caption.
    SdEdit,
    /// The model, with references replaced by words.
    TextOnly,
    /// The model without its prior.
    NoPrior,
    /// The model with the published method's decoder, which starts from the inverted source.
    Inversion,
    /// Another model, which reads words alone and sees the source.
    InstructPix2Pix,
}

impl SystemName {
    /// All, the model first, then floor and ceiling, then what the method is compared with.
    pub const ALL: [Self; 8] = [
        Self::Model,
        Self::Identity,
        Self::Oracle,
        Self::SdEdit,
        Self::TextOnly,
        Self::NoPrior,
        Self::Inversion,
        Self::InstructPix2Pix,
    ];
    /// What the model is compared with when nothing else is said: rivals that it is made of.
    pub const OWN: [Self; 6] =
        [Self::Model, Self::Identity, Self::Oracle, Self::SdEdit, Self::TextOnly, Self::NoPrior];

    fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Identity => "identity",
            Self::Oracle => "oracle",
            Self::SdEdit => "sdedit",
            Self::TextOnly => "text-only",
            Self::NoPrior => "no-prior",
            Self::Inversion => "inversion",
            Self::InstructPix2Pix => "instruct-pix2pix",
        }
    }
}

impl fmt::Display for SystemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for SystemName {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|name| name.word() == text);
        found.ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|name| name.word()).collect();
            EvalError::syntax(text, format!("no such system; there are {}", words.join(", ")))
        })
    }
}

/// What systems are made of.
pub struct Parts<'a> {
    /// The model.
    pub pipeline: &'a dyn Pipeline,
    /// The same, where it has a decoder that SDEdit can use.
    pub playroom: Option<&'a Playroom>,
    /// The model that reads words alone, where it was opened.
    pub instruct_pix2pix: Option<&'a dyn Pipeline>,
    /// The items.
    pub suite: &'a Suite,
    /// Part of the noise that SDEdit puts the source under.
    pub sdedit_strength: f64,
}

impl<'a> Parts<'a> {
    /// The system of that name.
    pub fn system(&self, name: SystemName) -> Result<Box<dyn System + 'a>> {
        let Self { pipeline, suite, .. } = *self;
        Ok(match name {
            SystemName::Model | SystemName::Inversion => Box::new(Model(pipeline)),
            SystemName::Identity => Box::new(Identity(suite)),
            SystemName::Oracle => Box::new(Oracle(suite)),
            SystemName::TextOnly => Box::new(TextOnly(pipeline)),
            SystemName::NoPrior => Box::new(NoPrior(pipeline)),
            SystemName::InstructPix2Pix => {
                let reason = "no model that reads words alone was opened";
                let words = self.instruct_pix2pix;
                Box::new(TextOnly(words.ok_or_else(|| EvalError::inapplicable(reason))?))
            }
            SystemName::SdEdit => {
                let reason = "SDEdit is made with a decoder of Playroom's kind";
                let playroom = self.playroom.ok_or_else(|| EvalError::inapplicable(reason))?;
                Box::new(SdEdit { playroom, suite, strength: self.sdedit_strength })
            }
        })
    }
}
