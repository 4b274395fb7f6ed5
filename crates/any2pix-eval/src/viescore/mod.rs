//! VIEScore: a vision-language model judges edits, as published (SC, PQ, O = √(SC·PQ)), by
//! prompts in this project's words and through any endpoint that speaks the chat protocol of
//! OpenAI.
//!
//! What a judge said is kept by the hash of what it was asked: another run asks nothing again.

mod cache;
mod request;
mod verdict;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

pub use verdict::Verdict;

use crate::chat::{Endpoint, Reply};
use crate::journal::output_path;
use crate::report::Sample;
use crate::suite::{Item, Suite};
use crate::{EvalError, Result};
use request::Question;

/// The figures, and what they mean.
pub const FIGURES: [&str; 3] = ["vie_sc", "vie_pq", "vie_overall"];
/// How often a judge is asked before its answers count as none.
const ATTEMPTS: usize = 3;
/// After so many failures of the endpoint in a row nothing more is asked.
const FAILURES: usize = 3;

/// A judge: a model behind an endpoint, with what it said before.
pub struct Judge<'a> {
    /// Where it is asked.
    pub endpoint: &'a dyn Endpoint,
    /// The model's name there.
    pub model: String,
    /// The folder of what it said.
    pub cache: PathBuf,
    /// How many questions it is asked at once.
    pub parallel: usize,
}

/// What came of judging a run.
#[derive(Debug, Default)]
pub struct Judged {
    /// Items that have all figures.
    pub complete: usize,
    /// Items that lack some, each with why.
    pub missing: Vec<(String, String)>,
    /// Questions that the endpoint was asked; the others were answered from the cache.
    pub asked: usize,
}

/// Is told how many items are done; says whether to go on.
pub type Tell<'a> = dyn FnMut(usize, usize) -> bool + Send + 'a;

impl Judge<'_> {
    /// Puts the figures of every sample that has a picture in `dir` into it.
    ///
    /// # Errors
    /// Files that cannot be read or written, and [`EvalError::Stopped`]. What the judge does not
    /// say is no error: the figures are absent.
    pub fn judge(
        &self,
        suite: &Suite,
        dir: &Path,
        samples: &mut [Sample],
        tell: &mut Tell<'_>,
    ) -> Result<Judged> {
        std::fs::create_dir_all(&self.cache).map_err(EvalError::io(&self.cache))?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.parallel.max(1))
            .build()
            .map_err(|e| EvalError::io(dir)(std::io::Error::other(e)))?;
        let total = samples.len();
        let failures = AtomicUsize::new(0);
        let progress = Mutex::new((0, Judged::default(), tell));
        pool.install(|| {
            samples.par_iter_mut().try_for_each(|sample| {
                let item = suite.items.iter().find(|item| item.id == sample.id);
                let judged = self.item((suite, dir), item, sample, &failures)?;
                let mut progress =
                    progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let (done, all, tell) = &mut *progress;
                *done += 1;
                all.asked += judged.asked;
                match judged.fault {
                    None => all.complete += 1,
                    Some(fault) => all.missing.push((sample.id.clone(), fault)),
                }
                if tell(*done, total) { Ok(()) } else { Err(EvalError::Stopped) }
            })
        })?;
        let (_, mut judged, _) =
            progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        judged.missing.sort();
        Ok(judged)
    }

    fn item(
        &self,
        (suite, dir): (&Suite, &Path),
        item: Option<&Item>,
        sample: &mut Sample,
        failures: &AtomicUsize,
    ) -> Result<One> {
        sample.figures.retain(|figure, _| !FIGURES.contains(&figure.as_str()));
        let without = |fault: &str| Ok(One { asked: 0, fault: Some(fault.to_string()) });
        let output = output_path(dir, &sample.id);
        let Some(item) = item else { return without("the suite has no such item") };
        if !output.is_file() {
            return without("there is no picture");
        }
        let Some(base) = &item.base else { return without("nothing was edited") };
        let Some(instruction) = request::in_words(item) else {
            return without("a reference has no words");
        };
        let source = request::picture(&suite.path(base)?)?;
        let output = request::picture(&output)?;
        let consistency = Question::consistency(&self.model, &instruction, &source, &output);
        let quality = Question::quality(&self.model, &output);
        let mut one = One::default();
        let mut ask = |question: &Question| match self.ask(question, &mut one.asked, failures)? {
            Ok(verdict) => Ok(Some(verdict.lowest())),
            Err(fault) => {
                one.fault = Some(fault);
                Ok::<_, EvalError>(None)
            }
        };
        let (sc, pq) = (ask(&consistency)?, ask(&quality)?);
        let overall = sc.zip(pq).map(|(sc, pq)| (sc * pq).sqrt());
        for (figure, value) in FIGURES.iter().zip([sc, pq, overall]) {
            if let Some(value) = value {
                sample.figures.insert(figure.to_string(), value);
            }
        }
        Ok(one)
    }

    /// The judge's verdict, from the cache when it is there; the inner error is why there is none.
    fn ask(
        &self,
        question: &Question,
        asked: &mut usize,
        failures: &AtomicUsize,
    ) -> Result<Result<Verdict, String>> {
        let path = cache::path(&self.cache, question);
        if let Some(verdict) = cache::read(&path) {
            return Ok(Ok(verdict));
        }
        let mut talk = question.clone();
        let mut fault = String::new();
        for _ in 0..ATTEMPTS {
            if failures.load(Ordering::Relaxed) >= FAILURES {
                return Ok(Err("the endpoint had failed too often".to_string()));
            }
            *asked += 1;
            let answer = match self.endpoint.complete(&talk.body()) {
                Ok(answer) => answer,
                // The endpoint tried again itself, if that had any hope.
                Err(reason) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    return Ok(Err(reason));
                }
            };
            failures.store(0, Ordering::Relaxed);
            let said = match Reply::read(&answer).map(|reply| reply.text) {
                Ok(said) => said,
                Err(reason) => return Ok(Err(reason)),
            };
            match Verdict::parse(&said) {
                Ok(verdict) => {
                    cache::write(&path, &self.model, &said)?;
                    return Ok(Ok(verdict));
                }
                Err(reason) => {
                    talk.ask_again(&said, &reason);
                    fault = reason;
                }
            }
        }
        Ok(Err(format!("no verdict in {ATTEMPTS} answers: {fault}")))
    }
}

/// What came of judging one item.
#[derive(Default)]
struct One {
    asked: usize,
    fault: Option<String>,
}
