//! `Sample`: one edit with everything that is true of it.

use image::{GrayImage, RgbImage, RgbaImage};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::recipe::Recipe;
use super::scene::BBox;

/// The ten kinds of instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Put an object in.
    Add,
    /// Take an object out.
    Remove,
    /// Put one object in another's place.
    Replace,
    /// Two objects at once: add and remove, or add two.
    Multi,
    /// Change what is behind the objects.
    Background,
    /// Take the palette of another picture.
    Style,
    /// Change weather, time of day or treatment.
    Look,
    /// Fit the mood of a piece of music.
    Music,
    /// Recolour, resize, move or duplicate an object.
    Adjust,
    /// Make a picture from nothing.
    Generate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Add,
        Self::Remove,
        Self::Replace,
        Self::Multi,
        Self::Background,
        Self::Style,
        Self::Look,
        Self::Music,
        Self::Adjust,
        Self::Generate,
    ];
}

/// A part of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Words.
    Text(String),
    /// A reference, by its index in [`Sample::media`].
    Media(usize),
}

/// A picture or a sound that an instruction refers to.
#[derive(Clone, Debug)]
pub enum Media {
    /// A picture.
    Image {
        /// Its pixels.
        picture: RgbaImage,
        /// What it shows, when it is one thing.
        concept: Option<String>,
    },
    /// A sound.
    Audio {
        /// 16 kHz mono.
        samples: Vec<f32>,
        /// What makes it: a concept, or a look ("rain"), or "music".
        concept: String,
    },
}

/// How an object is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// By its name.
    Text,
    /// By a picture of it.
    Image,
    /// By its sound.
    Sound,
}

/// How well training knows a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Familiarity {
    /// Seen or heard in training (perhaps otherwise perturbed).
    Known,
    /// Another picture or clip of a concept of training.
    HeldOut,
    /// A concept that training never shows.
    Unseen,
}

/// An object that an instruction is about.
#[derive(Clone, Debug)]
pub struct ObjectSlot {
    /// Its concept.
    pub concept: String,
    /// What the instruction calls it; the concept's name when it is shown or sounded.
    pub name: String,
    /// How it is referred to.
    pub modality: Modality,
    /// The reference in [`Sample::media`].
    pub media: Option<usize>,
    /// How well training knows the reference.
    pub familiarity: Familiarity,
    /// Where it is: in the target for a wanted object, in the source for an unwanted one.
    pub bbox: BBox,
    /// Its cut-out at the size and in the direction in which it stands in `bbox`, in its own
    /// colours: what a reference picture would give.
    pub cutout: RgbaImage,
}

/// Where an answer takes an embedding from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotTarget {
    /// The base picture's embedding.
    Base,
    /// The target picture's embedding.
    Target,
    /// That of `wanted[i]`.
    Wanted(usize),
    /// That of `unwanted[i]`.
    Unwanted(usize),
}

/// A part of the answer that is to be learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerPiece {
    /// Words and control tokens.
    Text(String),
    /// One `<video>` token, whose embedding shall be the target's.
    Slot(SlotTarget),
}

/// A thing that is in the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Its concept.
    pub concept: String,
    /// Where it is.
    pub bbox: BBox,
}

/// One edit with everything that is true of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The kind of instruction.
    pub kind: Kind,
    /// The operation's word in a plan: `add`, `add and remove`, `recolour`.
    pub operation: &'static str,
    /// The instruction.
    pub pieces: Vec<Piece>,
    /// What it refers to, in the order of appearance.
    pub media: Vec<Media>,
    /// Which reference is edited.
    pub base: Option<usize>,
    /// The picture before, 128×128; grey when there is no base.
    pub source: RgbImage,
    /// The picture after, 128×128.
    pub target: RgbImage,
    /// 255 where they differ; everywhere for edits of the whole picture.
    pub mask: GrayImage,
    /// Objects that shall be there.
    pub wanted: Vec<ObjectSlot>,
    /// Objects that shall not.
    pub unwanted: Vec<ObjectSlot>,
    /// Where the instruction wants the object.
    pub place: Option<Place>,
    /// The look, colour, size or scene that the instruction wants.
    pub look: Option<String>,
    /// The target in words.
    pub caption: String,
    /// The source in words; empty when there is no base.
    pub source_caption: String,
    /// Quality of the target, 0 to 10.
    pub aesthetic: f32,
    /// Everything in the target.
    pub objects_after: Vec<Present>,
    /// How source and target are drawn, for other sizes.
    pub recipe: Recipe,
}

impl Sample {
    /// Whether the whole picture changes.
    pub fn is_global(&self) -> bool {
        matches!(
            self.kind,
            Kind::Background | Kind::Style | Kind::Look | Kind::Music | Kind::Generate
        )
    }

    /// The instruction with references as `[1]`, `[2]` in the order of appearance.
    pub fn instruction(&self) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Media(index) => format!("[{}]", index + 1),
            })
            .collect()
    }

    /// The answer that the planner shall give, without the closing `</s>`.
    pub fn assistant_text(&self) -> Vec<AnswerPiece> {
        let mut text = String::from("Absolutely, its,");
        let mut answer = Vec::new();
        let mut slot = |text: &mut String, target| {
            answer.push(AnswerPiece::Text(std::mem::take(text)));
            answer.push(AnswerPiece::Slot(target));
        };
        if self.base.is_some() {
            text.push_str("<base>");
            slot(&mut text, SlotTarget::Base);
        } else {
            text.push_str("<base_null>");
        }
        text.push_str(&format!("<im_gen_start><im_gen>[{}]", self.caption));
        slot(&mut text, SlotTarget::Target);
        for (i, object) in self.wanted.iter().enumerate() {
            text.push_str(&format!("additions:{}:", object.concept));
            slot(&mut text, SlotTarget::Wanted(i));
            text.push('.');
        }
        // Both ends of an adjustment are one thing: it is named once.
        let removed = if self.kind == Kind::Adjust { &[][..] } else { &self.unwanted[..] };
        for (i, object) in removed.iter().enumerate() {
            text.push_str(&format!("removals:{}:", object.concept));
            slot(&mut text, SlotTarget::Unwanted(i));
            text.push('.');
        }
        if let Some(place) = self.place {
            text.push_str(&format!("place:{}.", place.word()));
        }
        if let Some(look) = &self.look {
            text.push_str(&format!("look:{look}."));
        }
        text.push_str(&format!("operation:{}.", self.operation));
        answer.push(AnswerPiece::Text(text));
        answer
    }
}
