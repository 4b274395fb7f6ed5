//! DreamBench as published with DreamBooth: a folder a subject with its photos, and
//! `prompts_and_classes.txt`. Every subject under every prompt of its kind; the first photo is the
//! reference.

use std::fs;

use any2pix_agent::Instruction;
use any2pix_agent::request::Segment;

use super::{Importer, Row, plain, text};
use crate::{EvalError, Result};

const FILE: &str = "prompts_and_classes.txt";
const REQUEST: &str = include_str!("../../../../prompts/evaluation/dreambench.txt");
/// Classes that are alive have prompts of their own.
const LIVE: [&str; 2] = ["cat", "dog"];
/// Stands in a published prompt for the token of the subject and its class.
const SUBJECT: &str = "{0} {1}";

/// Subjects with their classes, prompts for objects, prompts for what lives.
#[derive(Debug, Default, PartialEq)]
struct Published {
    subjects: Vec<(String, String)>,
    objects: Vec<String>,
    live: Vec<String>,
}

impl Published {
    fn parse(text: &str) -> Self {
        let mut published = Self::default();
        let mut live = false;
        for line in text.lines().map(str::trim) {
            live |= line.starts_with("Live ");
            if let Some(prompt) = line.strip_prefix('\'').and_then(|rest| rest.split_once('\'')) {
                let list = if live { &mut published.live } else { &mut published.objects };
                list.push(prompt.0.to_string());
            } else if let Some((name, class)) = line.split_once(',')
                && !name.starts_with("subject_name")
                && !class.is_empty()
            {
                published.subjects.push((name.to_string(), class.to_string()));
            }
        }
        published
    }
}

pub(super) fn read(importer: &mut Importer) -> Result<()> {
    let file = importer.path(FILE)?;
    let published = Published::parse(&text(&file)?);
    if published.objects.is_empty() || published.subjects.is_empty() {
        return Err(EvalError::malformed(&file, "it has no subjects or no prompts"));
    }
    for (subject, class) in &published.subjects {
        let folder = importer.path(subject)?;
        let entries = fs::read_dir(&folder).map_err(EvalError::io(&folder))?;
        let mut photos: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        photos.retain(|path| path.extension().is_some_and(|e| e == "jpg" || e == "png"));
        photos.sort();
        let Some(photo) = photos.first() else {
            return Err(EvalError::malformed(&folder, "it has no photos"));
        };
        let reference = importer.take(photo, &plain(subject))?;
        let alive = LIVE.contains(&class.as_str());
        let prompts = if alive { &published.live } else { &published.objects };
        for (index, prompt) in prompts.iter().enumerate() {
            let row = Row {
                id: format!("{}-{index:02}", plain(subject)),
                kind: if alive { "live subject" } else { "object" }.into(),
                operation: String::new(),
                instruction: instruction(prompt, &reference),
                base: None,
                target: None,
                mask: None,
                caption: Some(prompt.replace(SUBJECT, class)),
                source_caption: None,
                seed: 0,
            };
            importer.rows.push(row);
        }
    }
    Ok(())
}

/// The prompt as a request, with the reference in the subject's place.
fn instruction(prompt: &str, reference: &str) -> String {
    let words = REQUEST.trim_end().replace("{prompt}", prompt);
    let (before, after) = words.split_once(SUBJECT).unwrap_or((&words, ""));
    let text = |words: &str| (!words.is_empty()).then(|| Segment::Text(words.to_string()));
    let segments = [text(before), Some(Segment::Reference(0)), text(after)];
    let segments = segments.into_iter().flatten().collect();
    Instruction { segments, names: vec![reference.to_string()] }.to_string()
}
