//! `RowEditor`: one row, from the manifest to its picture on the disk.

use std::path::PathBuf;
use std::time::Instant;

use any2pix_nn::Hint;

use super::folder::BatchFolder;
use super::manifest::Manifest;
use super::names::row_seed;
use super::result::{PictureFile, RowFailure, RowResult, RowStatus, RunFigures};
use super::row::{Row, Source};
use crate::error::{AgentError, ErrorClass};
use crate::outcome::{EditOutcome, peak_memory, sha256};
use crate::pipeline::{Pipeline, edit_guarded};
use crate::progress::Progress;
use crate::request::{EditRequest, Reference};
use crate::storage;

/// Makes rows.
pub(super) struct RowEditor<'a> {
    pub(super) pipeline: &'a dyn Pipeline,
    pub(super) manifest: &'a Manifest,
    pub(super) folder: &'a BatchFolder,
}

/// What the turn before came to.
pub(super) enum Before {
    /// There was none.
    Nothing,
    /// A picture, relative to the batch's folder.
    Picture(String),
    /// A failure.
    Failure { id: String, error: String },
}

/// A row that is finished.
pub(super) struct Made {
    pub(super) result: RowResult,
    pub(super) run: RunFigures,
}

/// Asks whether to go on.
struct Asked<'a>(&'a dyn Fn() -> bool);

impl Progress for Asked<'_> {
    fn is_cancelled(&self) -> bool {
        (self.0)()
    }
}

impl RowEditor<'_> {
    /// Makes the row of that index. Its picture, if it gets one, is durable when this returns.
    ///
    /// # Errors
    /// What is not the row's own fault: a model, storage, or that somebody asked to stop.
    pub(super) fn make(
        &self,
        index: usize,
        before: &Before,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Made, AgentError> {
        let start = Instant::now();
        let row = &self.manifest.rows[index];
        let mut made = Made { result: self.blank(row), run: RunFigures::default() };
        if let Before::Failure { id, error } = before {
            made.result.failure = Some(RowFailure {
                reason: "an earlier turn failed".to_string(),
                error: format!("the turn before, `{id}`, failed: {error}"),
                hint: None,
            });
        } else {
            match self.picture(row, before, made.result.seed, &mut Asked(is_stopped)) {
                Ok((picture, outcome)) => {
                    made.result.status = RowStatus::Done;
                    made.result.picture = Some(picture);
                    made.run.timings = outcome.timings;
                }
                Err(error) => made.result.failure = Some(failure(error)?),
            }
        }
        made.run.seconds = start.elapsed().as_secs_f64();
        made.run.peak_memory_bytes = peak_memory();
        Ok(made)
    }

    fn blank(&self, row: &Row) -> RowResult {
        RowResult {
            id: row.id.clone(),
            status: RowStatus::Failed,
            session: row.session.clone(),
            turn: row.turn,
            instruction: row.instruction.to_string(),
            seed: row
                .settings
                .seed
                .unwrap_or_else(|| row_seed(self.manifest.settings.seed, &row.id)),
            picture: None,
            failure: None,
        }
    }

    fn picture(
        &self,
        row: &Row,
        before: &Before,
        seed: u64,
        progress: &mut Asked<'_>,
    ) -> Result<(PictureFile, EditOutcome), AgentError> {
        let (references, inputs) = self.references(row, before)?;
        let mut settings = self.manifest.settings.clone();
        row.settings.apply(&mut settings);
        settings.seed = seed;
        let request = EditRequest { instruction: row.instruction.clone(), references, settings };
        let outcome = edit_guarded(self.pipeline, &request, progress)?;
        let png = outcome.png()?;
        let output = BatchFolder::output_name(&row.stem);
        let path = self.folder.join(&output);
        storage::refuse_inputs(&path, &inputs)?;
        storage::write_atomically(&path, &png)?;
        let picture = PictureFile {
            output,
            sha256: sha256(&png),
            bytes: png.len() as u64,
            width: outcome.image.width(),
            height: outcome.image.height(),
            plan: outcome.plan.clone(),
            references: outcome.references.clone(),
            warnings: outcome.warnings.clone(),
        };
        Ok((picture, outcome))
    }

    /// The row's inputs, and the files that must not be written to.
    fn references(
        &self,
        row: &Row,
        before: &Before,
    ) -> Result<(Vec<Reference>, Vec<PathBuf>), AgentError> {
        let (mut references, mut files) = (Vec::new(), Vec::new());
        for (name, source) in row.instruction.names.iter().zip(&row.sources) {
            let (reference, file) = match (source, before) {
                (Source::File(text), _) => self.manifest.media.open(name, text)?,
                (Source::Last, Before::Picture(output)) => {
                    let file = self.folder.join(output);
                    let read = Reference::open(name, &file)?;
                    (Reference { path: None, ..read }, file)
                }
                (Source::Last, _) => return Err(AgentError::Unbound { name: name.clone() }),
            };
            references.push(reference);
            files.push(file);
        }
        Ok((references, files))
    }
}

/// The row's failure, unless the error is one that no other row would be spared.
fn failure(error: AgentError) -> Result<RowFailure, AgentError> {
    match error.class() {
        ErrorClass::Refused | ErrorClass::Internal => Ok(RowFailure {
            reason: error.reason().to_string(),
            error: error.line(),
            hint: error.hints().into_iter().next(),
        }),
        _ => Err(error),
    }
}
