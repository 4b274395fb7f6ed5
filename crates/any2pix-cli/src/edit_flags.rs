//! `EditFlags`: the flags of a command that edits, and the same as words for a process elsewhere.

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::compute::ComputeArgs;
use crate::model_args::ModelArgs;

/// Which model edits and how, for this process and for others.
pub(crate) struct EditFlags {
    /// For this process.
    pub(crate) model: ModelArgs,
    /// What was typed or stands in the environment, as `--name=value`.
    pub(crate) words: Vec<String>,
}

impl Args for EditFlags {
    fn augment_args(command: Command) -> Command {
        ModelArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        ModelArgs::augment_args_for_update(command)
    }
}

impl FromArgMatches for EditFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { words: words(matches), model: ModelArgs::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.words = words(matches);
        self.model.update_from_arg_matches(matches)
    }
}

/// The flags of model, settings and computing that somebody gave.
fn words(matches: &ArgMatches) -> Vec<String> {
    let known = ComputeArgs::augment_args(ModelArgs::augment_args(Command::new("any")));
    let mut words = Vec::new();
    for arg in known.get_arguments() {
        let (id, Some(name)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        let is_given = matches.value_source(id).is_some_and(|s| s != ValueSource::DefaultValue);
        if !is_given {
            continue;
        }
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            words.push(format!("--{name}"));
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            words.push(format!("--{name}={}", value.to_string_lossy()));
        }
    }
    words
}
