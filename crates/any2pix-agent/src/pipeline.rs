//! `Pipeline`: the one way to an edit; command line, batch and evaluation call nothing else.

use crate::error::AgentError;
use crate::outcome::EditOutcome;
use crate::progress::Progress;
use crate::request::EditRequest;

/// A model that edits pictures.
pub trait Pipeline {
    /// Does the edit that `request` asks for. The same request gives the same picture, on any
    /// number of threads.
    fn edit(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError>;
}
