//! The help of every command in clap's tree, held to `tests/snapshots/help`.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Command, CommandFactory};

const FOLDER: &str = "../tests/snapshots/help";

/// The help of `command` and of every command under it, by name.
fn helps(command: &Command, helps_by_name: &mut BTreeMap<String, String>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_string();
    helps_by_name.insert(name, command.clone().render_long_help().to_string());
    command.get_subcommands().for_each(|command| helps(command, helps_by_name));
}

fn all() -> BTreeMap<String, String> {
    let mut command = crate::Cli::command().disable_help_subcommand(true).term_width(100);
    command.build();
    let mut found = BTreeMap::new();
    helps(&command, &mut found);
    found
}

#[test]
fn help_is_what_it_was() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(FOLDER);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(r"\[env: (\w+)=[^\]]*\]", "[env: $1]");
    settings.bind(|| {
        for (name, help) in all() {
            insta::assert_snapshot!(name, help);
        }
    });
}

#[test]
fn no_help_is_kept_of_a_command_that_is_gone() {
    let known = all();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(FOLDER);
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.strip_suffix(".snap").unwrap_or(&file);
        assert!(known.contains_key(name), "{file}: no such command");
    }
}

#[test]
fn every_command_and_flag_says_what_it_is() {
    fn mute(command: &Command, faults: &mut Vec<String>) {
        let name = command.get_display_name().unwrap_or_default();
        if command.get_about().is_none() {
            faults.push(name.to_string());
        }
        let silent = command.get_arguments().filter(|a| !a.is_hide_set() && a.get_help().is_none());
        faults.extend(silent.map(|argument| format!("{name}: {}", argument.get_id())));
        command.get_subcommands().for_each(|command| mute(command, faults));
    }
    let mut command = crate::Cli::command();
    command.build();
    let mut faults = Vec::new();
    mute(&command, &mut faults);
    assert!(faults.is_empty(), "without help: {faults:?}");
}
