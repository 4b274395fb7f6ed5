//! `Identity`: what makes the results of a batch; results of two identities never share a folder.

use serde_json::{Value, json};

use super::manifest::Manifest;
use crate::claim::Parts;
use crate::error::AgentError;
use crate::outcome::{precision_name, sha256};
use crate::pipeline::Pipeline;

/// What makes the results of a batch.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    document: Value,
}

/// Keys of the document with what to call them.
pub(super) const PARTS: Parts = &[
    ("manifest", "another manifest"),
    ("rows", "another manifest"),
    ("shards", "another number of shards"),
    ("any2pix", "another version of any2pix"),
    ("model", "another model"),
    ("settings", "other settings"),
];

impl Identity {
    /// The identity of `manifest` done by `pipeline` in `shards` parts.
    pub(super) fn new(
        manifest: &Manifest,
        pipeline: &dyn Pipeline,
        shards: usize,
    ) -> Result<Self, AgentError> {
        let document = json!({
            "any2pix": env!("CARGO_PKG_VERSION"),
            "manifest": manifest.sha256,
            "rows": manifest.len(),
            "shards": shards,
            "model": pipeline.identity()?,
            "settings": { "precision": precision_name(any2pix_nn::ops::precision()), "edit": manifest.settings },
        });
        // As it will be read again: two readings of one text are equal, whatever their numbers.
        Self::parse(&document.to_string())
            .ok_or_else(|| AgentError::BadModel { model: "batch".into(), reason: "no JSON".into() })
    }

    /// Reads the text of a document; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::of(serde_json::from_str(text).ok()?)
    }

    /// What a document says; `None` when it says something else.
    pub(super) fn of(document: Value) -> Option<Self> {
        let identity = Self { document };
        (PARTS.iter().all(|(key, _)| identity.document.get(key).is_some()) && identity.shards() > 0)
            .then_some(identity)
    }

    /// What `batch.json` holds.
    pub(super) fn document(&self) -> &Value {
        &self.document
    }

    /// A hash of all of it.
    pub(super) fn digest(&self) -> String {
        sha256(self.document.to_string().as_bytes())
    }

    /// How many rows the manifest has.
    pub(super) fn rows(&self) -> usize {
        self.document["rows"].as_u64().unwrap_or(0) as usize
    }

    /// How many shards the batch has.
    pub(super) fn shards(&self) -> usize {
        self.document["shards"].as_u64().unwrap_or(0) as usize
    }

    /// What a report repeats: all but the number of shards, on which nothing depends.
    pub(super) fn for_report(&self) -> Value {
        let mut document = self.document.clone();
        if let Value::Object(map) = &mut document {
            map.shift_remove("shards");
        }
        document
    }
}
