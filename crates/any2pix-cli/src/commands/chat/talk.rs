//! What is said and done in a conversation, line by line.

use std::path::Path;

use any2pix_agent::session::{Change, LAST, Turn};
use any2pix_agent::{AgentError, EditOutcome, EditRequest, Pipeline, Reference, Session};

use super::command::{self, Line};
use super::preview::Preview;
use crate::diagnostics::{Exit, Failure};
use crate::printer::{Printer, printable_line};
use crate::progress::Terminal;

/// A conversation under way.
pub(super) struct Talk<'a> {
    pub(super) session: Session,
    pipeline: &'a dyn Pipeline,
    preview: Preview,
    printer: &'a Printer,
}

/// A file as it is called in what is said, on one line.
fn file_name(path: &Path) -> String {
    printable_line(&path.file_name().unwrap_or_default().to_string_lossy())
}

fn name(picture: &Reference) -> String {
    file_name(picture.path.as_deref().unwrap_or(Path::new(&picture.name)))
}

/// An error of an edit, in the words of a conversation.
fn told(error: AgentError) -> Failure {
    let cancelled = matches!(error, AgentError::Cancelled { .. });
    let mut failure = Failure::from(error);
    for hint in &mut failure.hints {
        *hint = hint.replace("--force ", "/set force on ");
    }
    if cancelled { failure.hint("the conversation is as it was before") } else { failure }
}

impl<'a> Talk<'a> {
    /// A conversation that begins.
    pub(super) fn new(
        session: Session,
        pipeline: &'a dyn Pipeline,
        preview: Preview,
        printer: &'a Printer,
    ) -> Self {
        Self { session, pipeline, preview, printer }
    }

    /// The prompt, which names the picture that is gone on from.
    pub(super) fn prompt(&self) -> String {
        let name = self.session.current().map_or_else(|| "any2pix".to_string(), name);
        format!("{name}> ")
    }

    /// Does what a line asks for; false when it asks to leave.
    pub(super) fn hear(&mut self, line: &str) -> Result<bool, Failure> {
        match command::parse(line).map_err(Failure::refused)? {
            Line::Empty => {}
            Line::Instruction(text) => self.instruct(&text)?,
            Line::Open(path) => self.open(&path)?,
            Line::New => {
                self.session.close();
                self.say_where();
            }
            Line::Undo => {
                let done = self.session.undo();
                self.stepped(done, "there is nothing to undo")?;
            }
            Line::Redo => {
                let done = self.session.redo();
                self.stepped(done, "there is nothing to redo")?;
            }
            Line::Set(key, value) => self.session.set(&key, &value)?,
            Line::Seed(seed) => self.seed(seed)?,
            Line::Show => self.show(),
            Line::Plan => self.plan()?,
            Line::Variations(count) => self.variations(count)?,
            Line::Use(index) => {
                let done = self.session.choose(index);
                self.stepped(done, "there is no such variation; /variations N makes them")?;
            }
            Line::Compare => self.compare()?,
            Line::Save(path) => {
                let path = self.session.expand(&path);
                if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
                    return Err(not_named(
                        &path,
                        "png",
                        "/export FILE.jsonl writes the conversation",
                    ));
                }
                self.session.save(&path)?;
                self.printer.result(&path.display().to_string());
            }
            Line::Export(path) => {
                let path = self.session.expand(&path);
                if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("jsonl")) {
                    return Err(not_named(&path, "jsonl", "/save FILE.png writes the picture"));
                }
                let turns = self.session.export(&path)?;
                self.printer.result(&path.display().to_string());
                self.printer.note(&format!("{turns} turns; `any2pix batch` repeats them"));
            }
            Line::Load(path) => self.load(&path)?,
            Line::Help => command::help().iter().for_each(|line| self.printer.result(line)),
            Line::Quit => return Ok(false),
        }
        Ok(true)
    }

    /// Goes on from the picture at `path`.
    pub(super) fn open(&mut self, path: &str) -> Result<(), Failure> {
        self.session.open(path)?;
        self.say_where();
        Ok(())
    }

    /// Says and shows what the next turn goes on from.
    fn say_where(&self) {
        match self.session.current() {
            Some(picture) => {
                self.printer.note(&format!("goes on from {}", name(picture)));
                self.show_picture(picture);
            }
            None => self.printer.note("goes on from nothing"),
        }
    }

    fn show_picture(&self, picture: &Reference) {
        if self.preview.is_on()
            && let Ok(picture) = self.session.decode(picture)
        {
            self.preview.show(&picture.rgb, self.printer);
        }
    }

    fn stepped(&self, done: bool, otherwise: &str) -> Result<(), Failure> {
        if !done {
            return Err(Failure::refused(otherwise));
        }
        self.say_where();
        Ok(())
    }

    fn instruct(&mut self, text: &str) -> Result<(), Failure> {
        let request = self.session.request(text)?;
        self.announce(&request);
        let mut progress = Terminal::of_conversation(self.printer);
        let done = self.session.run(request, self.pipeline, &mut progress);
        progress.finish();
        self.tell(&done.map_err(told)?);
        Ok(())
    }

    /// Says which picture `[last]` is, typed or not.
    fn announce(&self, request: &EditRequest) {
        if let Some(last) = request.references.iter().find(|r| r.name == LAST)
            && let Some(path) = &last.path
        {
            self.printer.note(&format!("last       {}", file_name(path)));
        }
    }

    /// Prints and shows the result of a turn.
    fn tell(&self, outcome: &EditOutcome) {
        let Some(turn) = self.session.last_turn() else { return };
        self.tell_result(outcome, &turn.result);
        self.show_picture(&turn.result);
    }

    fn tell_result(&self, outcome: &EditOutcome, result: &Reference) {
        let Some(path) = &result.path else { return };
        if self.printer.json {
            self.printer.document(&outcome.document(Some(path)));
        } else {
            self.printer.result(&path.display().to_string());
        }
    }

    fn seed(&mut self, seed: Option<u64>) -> Result<(), Failure> {
        // Small enough to be typed again.
        let seed = seed.unwrap_or_else(|| by_chance() % 1_000_000);
        self.session.set("seed", &seed.to_string())?;
        self.printer.note(&format!("seed {seed}"));
        Ok(())
    }

    fn show(&self) {
        for (key, value) in self.session.table() {
            self.printer.result(&format!("{key:<22} {value}"));
        }
        let picture = self.session.current().and_then(|picture| picture.path.as_ref());
        let path = picture.map_or_else(|| "none".to_string(), |path| path.display().to_string());
        self.printer.result(&format!("{:<22} {path}", "picture"));
    }

    fn last_turn(&self) -> Result<&Turn, Failure> {
        Ok(self.session.last_turn().ok_or(AgentError::NothingYet)?)
    }

    fn plan(&self) -> Result<(), Failure> {
        let turn = self.last_turn()?;
        self.printer.result(&format!("instruction {}", turn.request.instruction));
        let plan = serde_json::to_string_pretty(&turn.plan)
            .map_err(|e| Failure::internal(format!("the plan cannot be written: {e}")))?;
        self.printer.result(&plan);
        Ok(())
    }

    fn variations(&mut self, count: usize) -> Result<(), Failure> {
        let first = self.last_turn()?.request.settings.seed;
        let made = self.session.candidates().len().max(1) as u64;
        for index in made..made + count as u64 {
            let mut progress = Terminal::of_conversation(self.printer);
            let seed = first.wrapping_add(index);
            let done = self.session.vary(seed, self.pipeline, &mut progress);
            progress.finish();
            let outcome = done.map_err(told)?;
            let Some(turn) = self.session.candidates().last() else { continue };
            self.printer.note(&format!("variation {index}, seed {seed}; /use {index} takes it"));
            self.tell_result(&outcome, &turn.result);
            self.show_picture(&turn.result);
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), Failure> {
        let change = self.session.change()?;
        let turn = self.last_turn()?;
        let Some(before) = turn.before() else {
            self.printer.result("the last turn made a new picture");
            return Ok(());
        };
        let (old, new) = (self.session.decode(before)?, self.session.decode(&turn.result)?);
        self.preview.compare(&old.rgb, &new.rgb, self.printer);
        let said = match change {
            None => "another size".to_string(),
            Some(Change { bounds: None, .. }) => "nothing is another".to_string(),
            Some(Change { share, bounds: Some(rect) }) => format!(
                "{:.1} % of the pixels are others, within {}×{} from ({}, {})",
                share * 100.0,
                rect.width,
                rect.height,
                rect.x,
                rect.y
            ),
        };
        self.printer.result(&format!("{} → {}: {said}", name(before), name(&turn.result)));
        Ok(())
    }

    fn load(&mut self, path: &str) -> Result<(), Failure> {
        let path = self.session.expand(path);
        let turns = self.session.load(&path)?;
        for index in 0..turns.len() {
            let mut progress = Terminal::of_conversation(self.printer);
            let done = self.session.replay(&turns, index, self.pipeline, &mut progress);
            progress.finish();
            self.tell(&done.map_err(told)?);
        }
        Ok(())
    }
}

fn not_named(path: &Path, ending: &str, hint: &str) -> Failure {
    let message = format!("{}: the name must end in .{ending}", path.display());
    Failure::new(Exit::Refused, message).hint(hint)
}

/// A number that nobody can foretell; the seed it becomes is written down, as any other.
fn by_chance() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
