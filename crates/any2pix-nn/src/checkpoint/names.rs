//! `names.toml`: how a published file names tensors, and which of them no model reads.

use serde::Deserialize;

use super::error::{CheckpointError, Fault};

/// What stands in a `names.toml` beside a model's `config.json`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// The first rule that fits a name is applied, and no other.
    #[serde(default)]
    pub rename: Vec<Rename>,
    /// Tensors that are left unread, under the names that the rules give them.
    #[serde(default)]
    pub ignore: Vec<Ignore>,
}

/// One rule. A `*` at the end of both names replaces a prefix, one at the beginning a suffix;
/// without it the whole name is replaced.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// As the file has it.
    pub from: String,
    /// As the model reads it.
    pub to: String,
}

/// Tensors that published files hold and no model reads.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// What their names begin with.
    pub prefix: String,
    /// Why they are not read.
    pub reason: String,
}

/// A side of a rule, without its `*`; a lone `*` is the prefix of every name.
enum Part<'a> {
    Prefix(&'a str),
    Suffix(&'a str),
    Whole(&'a str),
}

fn part(pattern: &str) -> Option<Part<'_>> {
    let part = match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), None) => Part::Prefix(prefix),
        (None, Some(suffix)) => Part::Suffix(suffix),
        (Some(_), Some(_)) if pattern == "*" => Part::Prefix(""),
        _ => Part::Whole(pattern),
    };
    let (Part::Prefix(text) | Part::Suffix(text) | Part::Whole(text)) = &part;
    (!text.contains('*')).then_some(part)
}

impl Rename {
    /// The new name, if the rule fits `name`.
    fn apply(&self, name: &str) -> Option<String> {
        match (part(&self.from)?, part(&self.to)?) {
            (Part::Prefix(from), Part::Prefix(to)) => {
                name.strip_prefix(from).map(|rest| format!("{to}{rest}"))
            }
            (Part::Suffix(from), Part::Suffix(to)) => {
                name.strip_suffix(from).map(|rest| format!("{rest}{to}"))
            }
            (Part::Whole(from), Part::Whole(to)) => (name == from).then(|| to.to_string()),
            _ => None,
        }
    }

    fn is_valid(&self) -> bool {
        use Part::{Prefix, Suffix, Whole};
        match (part(&self.from), part(&self.to)) {
            (Some(from), Some(to)) => matches!(
                (from, to),
                (Prefix(_), Prefix(_)) | (Suffix(_), Suffix(_)) | (Whole(_), Whole(_))
            ),
            _ => false,
        }
    }
}

impl Names {
    /// Reads a `names.toml`; `origin` names it in errors.
    pub fn from_toml(origin: &str, text: &str) -> Result<Self, CheckpointError> {
        let malformed = |reason: String| Fault::Malformed(reason).at(origin);
        let names: Self = toml::from_str(text).map_err(|e| malformed(e.message().to_string()))?;
        match names.rename.iter().find(|rule| !rule.is_valid()) {
            None => Ok(names),
            Some(Rename { from, to }) => {
                let reason = "both sides need a `*` at the same end, or neither one";
                Err(malformed(format!("`{from}` cannot become `{to}`: {reason}")))
            }
        }
    }

    /// The name under which a model reads the tensor that a file calls `name`.
    pub fn apply(&self, name: &str) -> String {
        self.rename.iter().find_map(|rule| rule.apply(name)).unwrap_or_else(|| name.to_string())
    }
}
