//! A manifest as one conversation: its turns, one by one, as a batch would do them.

use std::path::Path;

use super::manifest::{Fault, Manifest};
use super::names::row_seed;
use super::row::Source;
use crate::error::AgentError;
use crate::request::{EditRequest, Reference};
use crate::settings::EditSettings;

impl Manifest {
    /// An error when the manifest at `path` holds more than one conversation.
    pub(crate) fn refuse_several_sessions(&self, path: &Path) -> Result<(), AgentError> {
        let Some(second) = self.sessions.get(1) else { return Ok(()) };
        let line = second.rows.first().map_or(1, |index| self.rows[*index].line);
        let reason = "belongs to another session; one conversation is needed".to_string();
        let faults = vec![Fault { line, reason }];
        Err(AgentError::Manifest { path: path.to_path_buf(), faults })
    }

    /// The edit of the turn at `index` of the first session, counted from 0; `last` is the result
    /// of the turn before.
    pub(crate) fn turn(
        &self,
        index: usize,
        last: Option<&Reference>,
        defaults: &EditSettings,
    ) -> Result<EditRequest, AgentError> {
        let rows = self.sessions.first().map_or(&[][..], |session| &session.rows);
        let row = rows.get(index).and_then(|index| self.rows.get(*index));
        let row = row.ok_or(AgentError::NothingYet)?;
        let mut settings = defaults.clone();
        row.settings.apply(&mut settings);
        settings.seed = row.settings.seed.unwrap_or_else(|| row_seed(defaults.seed, &row.id));
        let open = |(name, source): (&String, &Source)| match source {
            Source::Last => last.cloned().ok_or(AgentError::NothingYet),
            Source::File(text) => Ok(self.media.open(name, text)?.0),
        };
        let names = row.instruction.names.iter().zip(&row.sources);
        let references = names.map(open).collect::<Result<_, _>>()?;
        Ok(EditRequest { instruction: row.instruction.clone(), references, settings })
    }
}
