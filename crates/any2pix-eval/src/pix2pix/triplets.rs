//! The first stage: a language model writes an edit to every caption.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use any2pix_agent::batch::{Entry, Header, Journal, Shard};
use any2pix_agent::claim::{self, Parts};
use any2pix_agent::outcome::sha256;
use any2pix_agent::storage::write_atomically;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ask::Form;
use super::{Place, Tell, Triplet, lines, text_of, version, wrong};
use crate::chat::Endpoint;
use crate::{EvalError, Result};

/// The file of the triplets in their folder.
pub const TRIPLETS: &str = "triplets.jsonl";
const JOURNAL: &str = "journal.jsonl";
/// How often a model is asked before a caption is given up, as published.
const ATTEMPTS: usize = 1 + 3;
/// After so many failures of the endpoint in a row nothing more is asked.
const FAILURES: usize = 3;
/// Longest caption, in characters.
const MAX_CAPTION: usize = 2000;
const PARTS: Parts = &[
    ("stage", "another stage"),
    ("any2pix", "another version of any2pix"),
    ("captions", "other captions"),
    ("model", "another model"),
    ("prompts", "other prompts"),
];

/// A picture in words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Caption {
    /// The words.
    #[serde(alias = "input", alias = "TEXT")]
    pub caption: String,
    /// Where they are from.
    #[serde(default, alias = "URL")]
    pub url: Option<String>,
}

/// Captions, each once.
#[derive(Clone, Debug, Default)]
pub struct Captions {
    list: Vec<Caption>,
    /// How many were left out because their words or their address were there before.
    pub duplicates: usize,
}

impl Captions {
    /// Every caption of which neither words nor address were there before.
    pub fn of(all: impl IntoIterator<Item = Caption>) -> Self {
        let (mut words, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let mut captions = Self::default();
        for caption in all {
            let url = caption.url.as_ref().filter(|url| !url.is_empty());
            let is_known =
                words.contains(&caption.caption) || url.is_some_and(|url| addresses.contains(url));
            if is_known {
                captions.duplicates += 1;
                continue;
            }
            words.insert(caption.caption.clone());
            addresses.extend(url.cloned());
            captions.list.push(caption);
        }
        captions
    }

    /// Reads a file of a caption a line: text, or JSON with `caption` (or `input`, `TEXT`) and
    /// perhaps `url`.
    ///
    /// # Errors
    /// The first line that is neither; a file without any.
    pub fn open(path: &Path) -> Result<Self> {
        let mut all = Vec::new();
        for (number, line) in lines(path)? {
            let wrong = |reason: String| wrong(path, format!("line {number}: {reason}"));
            let caption = match line.trim_start().starts_with('{') {
                true => serde_json::from_str(&line).map_err(|e| wrong(e.to_string()))?,
                false => Caption { caption: line.trim().to_string(), url: None },
            };
            let count = caption.caption.chars().count();
            if count == 0 || count > MAX_CAPTION {
                let reason = format!("a caption of {count} characters, not 1 to {MAX_CAPTION}");
                return Err(wrong(reason));
            }
            all.push(caption);
        }
        if all.is_empty() {
            return Err(wrong(path, "there is no caption in it"));
        }
        Ok(Self::of(all))
    }

    fn hash(&self) -> String {
        let line = |caption: &Caption| format!("{}\n", json!([caption.caption, caption.url]));
        sha256(self.list.iter().map(line).collect::<String>().as_bytes())
    }
}

/// What came of a caption.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answered {
    triplet: Option<Triplet>,
    /// Why there is none.
    fault: Option<String>,
}

/// What came of all captions.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Captions that have an edit.
    pub triplets: usize,
    /// Captions that were given up, by what was wrong with the last answer.
    pub given_up: BTreeMap<String, usize>,
    /// Captions that nobody answered for, because the endpoint fails.
    pub unanswered: usize,
    /// The first failure of the endpoint.
    pub failure: Option<String>,
    /// Questions that were asked.
    pub asked: usize,
}

/// A language model behind an endpoint.
pub struct WrittenBy<'a> {
    /// Where it is asked; failed requests are made again there, if that has any hope.
    pub endpoint: &'a dyn Endpoint,
    /// Its name there.
    pub model: String,
    /// How many questions it is asked at once.
    pub parallel: usize,
    /// Go on where an earlier run stopped.
    pub resume: bool,
}

/// Under way.
struct Shared<'a, 'b> {
    journal: Journal,
    known: Vec<Option<Answered>>,
    written: Written,
    done: usize,
    tell: &'a mut Tell<'b>,
}

impl WrittenBy<'_> {
    /// Asks for an edit of every caption and writes those that are good to `triplets.jsonl` in
    /// `out`, once every caption is done with.
    ///
    /// # Errors
    /// Files that cannot be read or written, a folder that is somebody else's, and
    /// [`EvalError::Stopped`]. What the model does not say is no error.
    pub fn write(&self, captions: &Captions, out: &Path, tell: &mut Tell<'_>) -> Result<Written> {
        let form = Form::read().map_err(|reason| EvalError::malformed(TRIPLETS, reason))?;
        let prompts = sha256(Form::text().as_bytes());
        let document = document(&captions.hash(), &json!(self.model), &json!(prompts));
        let place = place(out, &document, self.resume)?;
        let total = captions.list.len();
        let header = Header { batch: place.digest.clone(), shard: 0, shards: 1, rows: total };
        let mut known: Vec<Option<Answered>> = vec![None; total];
        let path = place.join(JOURNAL);
        let (journal, _) = Journal::open(&path, &header, |entry: Entry<Answered>| {
            if let Some(slot) = known.get_mut(entry.index) {
                *slot = Some(entry.result);
            }
            Ok(())
        })?;
        let left: Vec<usize> = (0..total).filter(|index| known[*index].is_none()).collect();
        let (done, written) = (total - left.len(), Written::default());
        let shared = Mutex::new(Shared { journal, known, written, done, tell });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.parallel.max(1)).build();
        let pool = pool.map_err(|e| EvalError::io(out)(std::io::Error::other(e)))?;
        let failures = AtomicUsize::new(0);
        pool.install(|| {
            left.par_iter().try_for_each(|index| {
                self.caption(&form, *index, &captions.list[*index], &failures, &shared)
            })
        })?;
        let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        summed_up(shared.known, shared.written, &place)
    }

    fn caption(
        &self,
        form: &Form,
        index: usize,
        caption: &Caption,
        failures: &AtomicUsize,
        shared: &Mutex<Shared<'_, '_>>,
    ) -> Result<()> {
        let mut asked = 0;
        let answered = self.ask(form, caption, failures, &mut asked);
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.written.asked += asked;
        match answered {
            Ok(answered) => {
                shared.journal.append(index, &answered, &json!({ "asked": asked }))?;
                shared.known[index] = Some(answered);
                shared.done += 1;
            }
            Err(failure) => {
                shared.written.failure.get_or_insert(failure);
            }
        }
        let Shared { tell, known, done, .. } = &mut *shared;
        match tell(*done, known.len()) {
            true => Ok(()),
            false => Err(EvalError::Stopped),
        }
    }

    /// The edit of a caption, or why it is given up; an error when the endpoint fails.
    fn ask(
        &self,
        form: &Form,
        Caption { caption, url }: &Caption,
        failures: &AtomicUsize,
        asked: &mut usize,
    ) -> Result<Answered, String> {
        let mut fault = "";
        for _ in 0..ATTEMPTS {
            if failures.load(Ordering::Relaxed) >= FAILURES {
                return Err("the endpoint had failed too often".to_string());
            }
            *asked += 1;
            let answer = self.endpoint.complete(&form.request(&self.model, caption));
            let answer = answer.inspect_err(|_| {
                failures.fetch_add(1, Ordering::Relaxed);
            })?;
            failures.store(0, Ordering::Relaxed);
            match form.parse(caption, &answer) {
                Ok((edit, output)) => {
                    let (caption, url) = (caption.clone(), url.clone());
                    let triplet = Some(Triplet { caption, edit, output, url });
                    return Ok(Answered { triplet, fault: None });
                }
                Err(why) => fault = why,
            }
        }
        Ok(Answered { triplet: None, fault: Some(fault.to_string()) })
    }
}

fn document(captions: &str, model: &Value, prompts: &Value) -> Value {
    json!({
        "stage": "triplets", "any2pix": version(), "captions": captions, "model": model,
        "prompts": prompts,
    })
}

/// The folder of triplets, without what a killed process left in it.
fn place(out: &Path, document: &Value, resume: bool) -> Result<Place> {
    let place = Place::claim(out, document, PARTS, Shard::new(0, 1)?, resume)?;
    claim::sweep(out, |owner| matches!(owner, TRIPLETS | JOURNAL))?;
    Ok(place)
}

/// Counts what is known, and writes the triplets if all is.
fn summed_up(known: Vec<Option<Answered>>, mut written: Written, place: &Place) -> Result<Written> {
    let mut triplets = Vec::new();
    for answered in known {
        match answered {
            None => written.unanswered += 1,
            Some(Answered { triplet: Some(triplet), .. }) => triplets.push(triplet),
            Some(Answered { fault, .. }) => {
                *written.given_up.entry(fault.unwrap_or_default()).or_default() += 1;
            }
        }
    }
    written.triplets = triplets.len();
    if written.unanswered == 0 {
        write_atomically(&place.join(TRIPLETS), text_of(&triplets).as_bytes())?;
    }
    Ok(written)
}

/// Writes triplets that nobody has to be asked for; of those with the same caption the first.
/// `written_by` says who wrote them.
pub fn keep(given: Vec<Triplet>, written_by: &str, out: &Path, resume: bool) -> Result<Written> {
    let hash = sha256(text_of(&given).as_bytes());
    let document = document(&hash, &json!(written_by), &Value::Null);
    let place = place(out, &document, resume)?;
    let mut seen = BTreeSet::new();
    let known = given.into_iter().filter(|triplet| seen.insert(triplet.caption.clone()));
    let answered = |triplet| Some(Answered { triplet: Some(triplet), fault: None });
    summed_up(known.map(answered).collect(), Written::default(), &place)
}
