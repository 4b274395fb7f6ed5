//! `Question`: what a judge is asked, in the chat protocol, with pictures as data URIs.

use std::io::Cursor;
use std::path::Path;

use any2pix_agent::Instruction;
use any2pix_agent::request::Segment;
use any2pix_encoders::image::{self as pictures, ImageLimits};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat};
use serde_json::{Value, json};

use crate::suite::Item;
use crate::{EvalError, Result};

const CONSISTENCY: &str = include_str!("../../../../prompts/evaluation/viescore_consistency.txt");
const QUALITY: &str = include_str!("../../../../prompts/evaluation/viescore_quality.txt");
const AGAIN: &str = include_str!("../../../../prompts/evaluation/viescore_again.txt");

/// The longer side of a picture that a judge is shown.
const SIDE: u32 = 768;
/// Room for the reasoning.
const MOST_TOKENS: u32 = 400;

/// A request of the chat protocol.
#[derive(Clone)]
pub(super) struct Question(Value);

impl Question {
    /// Whether `output` is what `instruction` makes of `source`.
    pub(super) fn consistency(model: &str, instruction: &str, source: &str, output: &str) -> Self {
        Self::of(model, &CONSISTENCY.replace("{instruction}", instruction), &[source, output])
    }

    /// How good `output` looks.
    pub(super) fn quality(model: &str, output: &str) -> Self {
        Self::of(model, QUALITY, &[output])
    }

    fn of(model: &str, text: &str, pictures: &[&str]) -> Self {
        let mut content: Vec<Value> = pictures
            .iter()
            .map(|uri| json!({ "type": "image_url", "image_url": { "url": uri } }))
            .collect();
        content.push(json!({ "type": "text", "text": text.trim_end() }));
        Self(json!({
            "model": model,
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
            "messages": [{ "role": "user", "content": content }],
        }))
    }

    /// The same with a useless answer and what was wrong with it.
    pub(super) fn ask_again(&mut self, said: &str, fault: &str) {
        if let Some(messages) = self.0["messages"].as_array_mut() {
            // One answer is reminder enough.
            messages.truncate(1);
            messages.push(json!({ "role": "assistant", "content": said }));
            let again = AGAIN.trim_end().replace("{fault}", fault);
            messages.push(json!({ "role": "user", "content": again }));
        }
    }

    /// As it is sent.
    pub(super) fn body(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}

/// A picture as a data URI, small enough for every judge.
pub(super) fn picture(path: &Path) -> Result<String> {
    let picture =
        pictures::open(path, &ImageLimits::default()).map_err(|e| EvalError::malformed(path, e))?;
    let mut picture = DynamicImage::ImageRgb8(picture.rgb);
    if picture.width().max(picture.height()) > SIDE {
        picture = picture.resize(SIDE, SIDE, FilterType::CatmullRom);
    }
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).map_err(|e| EvalError::malformed(path, e))?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes.into_inner())))
}

/// The instruction without references: the source is the image, an object its name. Nothing when
/// a reference has none.
pub(super) fn in_words(item: &Item) -> Option<String> {
    let instruction = Instruction::parse(&item.instruction).ok()?;
    let word = |name: &String| {
        if item.base.as_ref() == Some(name) {
            return Some("the image".to_string());
        }
        let subjects = item.wanted.iter().chain(&item.unwanted);
        let named = |subject: &&crate::suite::Subject| subject.reference.as_ref() == Some(name);
        let concept = subjects.filter(named).map(|subject| &subject.concept).next()?;
        Some(format!("the {concept}"))
    };
    let mut text = String::new();
    for segment in &instruction.segments {
        match segment {
            Segment::Text(words) => text.push_str(words),
            Segment::Reference(index) => text.push_str(&word(instruction.names.get(*index)?)?),
        }
    }
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_words_or_nothing() {
        let item = |instruction: &str| -> Item {
            serde_json::from_value(json!({
                "id": "1", "kind": "add", "operation": "add", "instruction": instruction,
                "base": "park.png", "target": "t.png",
                "subjects": [{
                    "name": "dog", "role": "add", "modality": "sound", "reference": "bark.wav",
                    "bbox": [0, 0, 1, 1],
                }],
            }))
            .unwrap()
        };
        let words = in_words(&item("add [bark.wav]  to [park.png]"));
        assert_eq!(words.as_deref(), Some("add the dog to the image"));
        assert_eq!(in_words(&item("make [park.png] sound like [rain.wav]")), None);
    }

    #[test]
    fn every_prompt_has_its_places_and_the_reminder_replaces_the_one_before() {
        assert!(CONSISTENCY.contains("{instruction}") && AGAIN.contains("{fault}"));
        let mut question = Question::consistency("m", "add a {dog}", "data:a", "data:b");
        assert!(
            question.0["messages"][0]["content"][2]["text"]
                .as_str()
                .unwrap()
                .contains("Instruction: add a {dog}")
        );
        question.ask_again("hm", "first");
        question.ask_again("hm", "second");
        assert_eq!(question.0["messages"].as_array().unwrap().len(), 3);
        assert!(question.0["messages"][2]["content"].as_str().unwrap().contains("second"));
    }
}
