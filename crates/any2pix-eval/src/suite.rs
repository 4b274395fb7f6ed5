//! A suite: instructions with their exact truth, as `any2pix data playroom` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use any2pix_agent::Instruction;
use any2pix_agent::outcome::{sha256, sha256_of_file};
use any2pix_encoders::image::ImageLimits;
use image::{GrayImage, RgbImage};
use rayon::prelude::*;
use serde::Deserialize;

use crate::metrics::region::Frame;
use crate::{EvalError, Result};

/// A box in pixels of the suite's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "[u32; 4]")]
pub struct Bounds {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl From<[u32; 4]> for Bounds {
    fn from([x, y, width, height]: [u32; 4]) -> Self {
        Self { x, y, width, height }
    }
}

impl Bounds {
    /// As fractions of a picture of `size`.
    pub fn frame(&self, size: (u32, u32)) -> Frame {
        let part = |value: u32, whole: u32| f64::from(value) / f64::from(whole.max(1));
        let (right, bottom) = (self.x + self.width, self.y + self.height);
        let (x, y) = (part(self.x, size.0), part(self.y, size.1));
        Frame([x, y, part(right, size.0), part(bottom, size.1)])
    }
}

/// Something in the target.
#[derive(Clone, Debug, Deserialize)]
pub struct Thing {
    /// Its concept.
    #[serde(rename = "name")]
    pub concept: String,
    /// Where it is.
    pub bbox: Bounds,
}

/// An object of an instruction.
#[derive(Clone, Debug, Deserialize)]
pub struct Subject {
    /// Its concept.
    #[serde(rename = "name")]
    pub concept: String,
    /// `add` or `remove`.
    pub role: String,
    /// `text`, `image` or `sound`.
    pub modality: String,
    /// The file that shows or sounds it.
    #[serde(default)]
    pub reference: Option<String>,
    /// `known`, `held-out` or `unseen`: what training knows of it.
    #[serde(default)]
    pub familiarity: String,
    /// Where it is: in the target when it is wanted, in the source when it is not.
    pub bbox: Bounds,
}

/// A row of `suite.jsonl`.
#[derive(Deserialize)]
struct Row {
    id: String,
    kind: String,
    operation: String,
    instruction: String,
    base: Option<String>,
    #[serde(default)]
    target: Option<String>,
    mask: Option<String>,
    #[serde(default)]
    subjects: Vec<Subject>,
    #[serde(default)]
    rest: Vec<Thing>,
    place: Option<String>,
    look: Option<String>,
    #[serde(default)]
    caption: Option<String>,
    #[serde(default)]
    source_caption: Option<String>,
    #[serde(default)]
    seed: u64,
}

/// One instruction with its truth.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Row")]
pub struct Item {
    /// Names it.
    pub id: String,
    /// add, remove, replace, multi, background, …
    pub kind: String,
    /// The operation's word in a plan.
    pub operation: String,
    /// With references in brackets, as names of files in the suite's folder.
    pub instruction: String,
    /// The file that is edited; none when the picture is made from nothing.
    pub base: Option<String>,
    /// What the result should be, when somebody knows: a picture in the suite's folder.
    pub target: Option<String>,
    /// Where it should differ from the base: a picture in the suite's folder.
    pub mask: Option<String>,
    /// Objects that shall be there.
    pub wanted: Vec<Subject>,
    /// Objects that shall not.
    pub unwanted: Vec<Subject>,
    /// What else is in the target, and shall stay.
    pub rest: Vec<Thing>,
    /// The word of place.
    pub place: Option<String>,
    /// The look.
    pub look: Option<String>,
    /// The target in words.
    pub caption: Option<String>,
    /// The source in words; suites of older versions do not say it.
    pub source_caption: Option<String>,
    /// Chooses the noise.
    pub seed: u64,
}

impl From<Row> for Item {
    fn from(row: Row) -> Self {
        let (wanted, unwanted) = row.subjects.into_iter().partition(|s| s.role == "add");
        Self {
            id: row.id,
            kind: row.kind,
            operation: row.operation,
            instruction: row.instruction,
            base: row.base,
            target: row.target,
            mask: row.mask,
            wanted,
            unwanted,
            rest: row.rest,
            place: row.place,
            look: row.look,
            caption: row.caption.filter(|caption| !caption.is_empty()),
            source_caption: row.source_caption.filter(|caption| !caption.is_empty()),
            seed: row.seed,
        }
    }
}

impl Item {
    /// What its objects are given as: `text`, `image`, `sound`, `mixed`, or `none` without
    /// objects; references that training does not know are told apart.
    pub fn modality(&self) -> String {
        let name = |subject: &Subject| match (subject.modality.as_str(), &*subject.familiarity) {
            ("text", "unseen") => "text unseen".to_string(),
            ("text", _) | (_, "known" | "") => subject.modality.clone(),
            (modality, familiarity) => format!("{modality} {familiarity}"),
        };
        let mut names: Vec<String> = self.wanted.iter().chain(&self.unwanted).map(name).collect();
        names.sort();
        names.dedup();
        match names.as_slice() {
            [] => "none".into(),
            [one] => one.clone(),
            _ => "mixed".into(),
        }
    }

    /// How many objects it is about; what is put where something else was taken away counts once.
    pub fn objects(&self) -> &'static str {
        let (wanted, unwanted) = (self.wanted.len(), self.unwanted.len());
        let count = if self.kind == "replace" { wanted.max(unwanted) } else { wanted + unwanted };
        match count {
            0 => "no object",
            1 => "one object",
            _ => "several objects",
        }
    }

    /// The files that its instruction names; none of one that does not parse.
    pub fn references(&self) -> Vec<String> {
        Instruction::parse(&self.instruction).map(|parsed| parsed.names).unwrap_or_default()
    }

    fn files(&self) -> Vec<String> {
        let named = self.base.iter().chain(&self.target).chain(&self.mask).cloned();
        let subjects = self.wanted.iter().chain(&self.unwanted);
        let shown = subjects.filter_map(|subject| subject.reference.clone());
        named.chain(shown).chain(self.references()).collect()
    }
}

/// Whether an item can be named so: files are named after it.
fn is_name(id: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.+=@".contains(c);
    !id.is_empty() && id.len() <= 200 && !id.starts_with('.') && id.chars().all(is_plain)
}

/// A folder of items.
#[derive(Clone, Debug)]
pub struct Suite {
    root: PathBuf,
    /// The items, in the order of the file.
    pub items: Vec<Item>,
}

impl Suite {
    /// Whether any item says its target in words, and its source.
    pub fn has_captions(&self) -> (bool, bool) {
        let any = |said: fn(&Item) -> bool| self.items.iter().any(said);
        (any(|item| item.caption.is_some()), any(|item| item.source_caption.is_some()))
    }

    /// Reads `DIR/suite.jsonl`.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("suite.jsonl");
        let text = fs::read_to_string(&path).map_err(EvalError::io(&path))?;
        let mut items: Vec<Item> = Vec::new();
        let mut ids = BTreeSet::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let item: Item = serde_json::from_str(line)
                .map_err(|e| EvalError::malformed(&path, format!("line {}: {e}", number + 1)))?;
            if !is_name(&item.id) || !ids.insert(item.id.clone()) {
                let reason = "cannot name an item, or names another one already";
                let line = number + 1;
                return Err(EvalError::malformed(
                    &path,
                    format!("line {line}: `{}` {reason}", item.id),
                ));
            }
            items.push(item);
        }
        if items.is_empty() {
            return Err(EvalError::malformed(&path, "it is empty"));
        }
        Ok(Self { root: root.to_path_buf(), items })
    }

    /// Keeps the items that are told in words alone: nothing is referred to but the picture that is
    /// edited.
    pub fn only_in_words(&mut self) {
        self.items.retain(|item| {
            let files = item.references();
            files.iter().all(|name| item.base.as_ref() == Some(name))
        });
    }

    /// SHA-256 over the truth and every file that an item names.
    pub fn fingerprint(&self) -> Result<String> {
        let mut names: Vec<String> = self.items.iter().flat_map(Item::files).collect();
        names.push("suite.jsonl".into());
        names.sort();
        names.dedup();
        let line = |name: &String| {
            let path = self.path(name)?;
            let hash = sha256_of_file(&path).map_err(EvalError::io(&path))?;
            Ok(format!("{name} {hash}\n"))
        };
        let lines = names.par_iter().map(line).collect::<Result<Vec<String>>>()?;
        Ok(sha256(lines.concat().as_bytes()))
    }

    /// Keeps `limit` items, the same share of every operation and modality as far as that goes.
    pub fn limit(&mut self, limit: usize) {
        let mut groups = BTreeMap::<(String, String), Vec<usize>>::new();
        for (index, item) in self.items.iter().enumerate() {
            groups.entry((item.kind.clone(), item.modality())).or_default().push(index);
        }
        // The first of each group, then the second of each, and so on.
        let longest = groups.values().map(Vec::len).max().unwrap_or(0);
        let turns = (0..longest).flat_map(|turn| groups.values().filter_map(move |g| g.get(turn)));
        let mut kept: Vec<usize> = turns.copied().take(limit).collect();
        kept.sort_unstable();
        self.items = kept.into_iter().map(|index| self.items[index].clone()).collect();
    }

    /// The path of a file that an item names, which may not leave the folder.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let inside = Path::new(name)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            return Err(EvalError::malformed(&self.root, format!("`{name}` leaves the folder")));
        }
        Ok(self.root.join(name))
    }

    /// A picture that an item names.
    pub fn picture(&self, name: &str) -> Result<RgbImage> {
        let path = self.path(name)?;
        Ok(image::open(&path).map_err(|e| EvalError::malformed(&path, e))?.to_rgb8())
    }

    /// A reference that an item names, on white where it is transparent.
    pub fn reference(&self, name: &str) -> Result<RgbImage> {
        let path = self.path(name)?;
        let picture = any2pix_encoders::image::open(&path, &ImageLimits::default());
        Ok(picture.map_err(|e| EvalError::malformed(&path, e))?.rgb)
    }

    /// A mask that an item names.
    pub fn mask(&self, name: &str) -> Result<GrayImage> {
        let path = self.path(name)?;
        Ok(image::open(&path).map_err(|e| EvalError::malformed(&path, e))?.to_luma8())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: usize, kind: &str) -> Item {
        let text = format!(
            r#"{{"id":"{id}","kind":"{kind}","operation":"x","instruction":"x","target":"t"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_limit_takes_the_same_share_of_every_kind() {
        let mut items: Vec<Item> = (0..8).map(|id| item(id, "add")).collect();
        items.extend((8..10).map(|id| item(id, "remove")));
        let mut suite = Suite { root: PathBuf::new(), items };
        suite.limit(5);
        let ids: Vec<_> = suite.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["0", "1", "2", "8", "9"]);
    }

    #[test]
    fn items_in_words_refer_to_nothing_but_what_is_edited() {
        let told = |id: usize, instruction: &str| Item {
            instruction: instruction.into(),
            base: Some("b.png".into()),
            ..item(id, "add")
        };
        let items = vec![
            told(0, "add a dog to [b.png]"),
            told(1, "add [dog.png] to [b.png]"),
            told(2, "night in [b.png], please"),
            Item { base: None, ..told(3, "paint a cat") },
            Item { base: None, ..told(4, "paint [cat.ogg]") },
        ];
        let mut suite = Suite { root: PathBuf::new(), items };
        suite.only_in_words();
        let ids: Vec<_> = suite.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["0", "2", "3"]);
    }

    #[test]
    fn files_stay_in_the_folder() {
        let suite = Suite { root: PathBuf::from("suite"), items: Vec::new() };
        assert!(suite.path("../x").is_err() && suite.path("/etc/passwd").is_err());
        assert_eq!(suite.path("a/b.png").unwrap(), PathBuf::from("suite/a/b.png"));
    }
}
