//! `Session`: a conversation about a picture; its turns, what can be undone, its settings.
//!
//! A turn's result is written when it is made, and those bytes are what `[last]` means in the next
//! turn, so that the exported conversation repeats to the same bytes.

mod manifest;
pub mod phrase;
mod settings;

use std::path::{Path, PathBuf};

use any2pix_encoders::image::Picture;

use crate::batch::{Manifest, ManifestOptions};
use crate::error::AgentError;
use crate::inputs::{self, Media};
use crate::outcome::{EditOutcome, PlanReport, Rect};
use crate::pipeline::{Pipeline, edit_guarded};
use crate::progress::{Progress, Stage};
pub use crate::request::LAST;
use crate::request::{EditRequest, Instruction, Reference};
use crate::settings::EditSettings;
use crate::storage;

/// Most characters of a conversation's name.
const LONGEST_ID: usize = 100;

/// An edit that was done.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What was asked for.
    pub request: EditRequest,
    /// What the planner understood.
    pub plan: PlanReport,
    /// The PNG that was written; the next turn's `[last]`.
    pub result: Reference,
}

impl Turn {
    /// The picture that was edited, if one was.
    pub fn before(&self) -> Option<&Reference> {
        let base = self.plan.base.as_ref()?;
        self.request.references.iter().find(|reference| reference.name == *base)
    }
}

/// What can be undone.
#[derive(Clone, Debug)]
enum Step {
    /// Another picture, or none, is gone on from.
    Open(Option<Reference>),
    /// An edit.
    Turn(Box<Turn>),
}

/// How much of a picture an edit changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Part of the pixels that differ.
    pub share: f64,
    /// Where they lie, if any differ.
    pub bounds: Option<Rect>,
}

/// A conversation about a picture.
#[derive(Debug)]
pub struct Session {
    /// Its name: that of its folder.
    id: String,
    folder: PathBuf,
    home: Option<PathBuf>,
    initial: EditSettings,
    settings: EditSettings,
    steps: Vec<Step>,
    undone: Vec<Step>,
    /// The last turn and others like it with other seeds.
    candidates: Vec<Turn>,
    /// Results that were written so far.
    written: usize,
}

impl Session {
    /// A conversation that begins; results go to `folder`, which is made with the first of them.
    /// `home` is what `~/` stands for.
    pub fn new(folder: &Path, home: Option<PathBuf>, settings: EditSettings) -> Self {
        let name = folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
        let id: String = name.chars().take(LONGEST_ID).map(plain).collect();
        Self {
            id: if id.is_empty() { "chat".to_string() } else { id },
            folder: folder.to_path_buf(),
            home,
            initial: settings.clone(),
            settings,
            steps: Vec::new(),
            undone: Vec::new(),
            candidates: Vec::new(),
            written: 0,
        }
    }

    /// The settings of the next turn.
    pub fn settings(&self) -> &EditSettings {
        &self.settings
    }

    /// The turns that count, in order.
    pub fn turns(&self) -> Vec<&Turn> {
        let turns = self.steps.iter().filter_map(|step| match step {
            Step::Turn(turn) => Some(&**turn),
            Step::Open(_) => None,
        });
        turns.collect()
    }

    /// The turn before the next one, unless another picture was opened since.
    pub fn last_turn(&self) -> Option<&Turn> {
        match self.steps.last()? {
            Step::Turn(turn) => Some(turn),
            Step::Open(_) => None,
        }
    }

    /// The picture that the next turn goes on from.
    pub fn current(&self) -> Option<&Reference> {
        match self.steps.last()? {
            Step::Turn(turn) => Some(&turn.result),
            Step::Open(picture) => picture.as_ref(),
        }
    }

    /// Goes on from the picture at `path`.
    pub fn open(&mut self, path: &str) -> Result<(), AgentError> {
        let path = self.expand(path);
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        let picture = Reference::open(&name, &path)?;
        self.decode(&picture)?;
        self.step(Step::Open(Some(picture)));
        Ok(())
    }

    /// Goes on from nothing.
    pub fn close(&mut self) {
        self.step(Step::Open(None));
    }

    fn step(&mut self, step: Step) {
        self.steps.push(step);
        self.undone.clear();
        self.candidates.clear();
    }

    /// Takes the last step back; false when there is none.
    pub fn undo(&mut self) -> bool {
        self.candidates.clear();
        self.steps.pop().map(|step| self.undone.push(step)).is_some()
    }

    /// Does again what was taken back; false when there is nothing.
    pub fn redo(&mut self) -> bool {
        self.candidates.clear();
        self.undone.pop().map(|step| self.steps.push(step)).is_some()
    }

    /// The path behind a name that people type.
    pub fn expand(&self, name: &str) -> PathBuf {
        phrase::expand(name, self.home.as_deref())
    }

    /// The pixels of a picture.
    pub fn decode(&self, picture: &Reference) -> Result<Picture, AgentError> {
        match inputs::decode(picture)? {
            Media::Image(picture) => Ok(picture),
            Media::Audio(_) => Err(AgentError::Unusable {
                path: picture.path.clone().unwrap_or_else(|| PathBuf::from(&picture.name)),
                reason: "is a sound, and a picture is needed".to_string(),
            }),
        }
    }

    /// The edit that a typed line asks for: dropped paths become references, `[last]` the current
    /// picture, and a line that names no picture to edit goes on from the current one.
    pub fn request(&self, line: &str) -> Result<EditRequest, AgentError> {
        let is_file = |name: &str| self.expand(name).is_file();
        let line = phrase::bracket_dropped(&phrase::join_lines(line), &is_file);
        let mut instruction = Instruction::parse(&line)?;
        let current = self.current();
        let known_as = current.map(|picture| self.name_of(picture, &instruction));
        for name in instruction.names.iter_mut().filter(|name| name.as_str() == LAST) {
            *name = known_as.clone().ok_or(AgentError::NothingYet)?;
        }
        // Parsed again, because two names may have become one.
        let mut instruction = Instruction::parse(&instruction.to_string())?;
        let mut references = self.open_all(&instruction, known_as.as_deref())?;
        if let Some(name) = &known_as
            && phrase::edited(&instruction, &references).is_none()
            && !instruction.names.contains(name)
        {
            instruction = Instruction::parse(&phrase::with_base(&instruction.to_string(), name))?;
            references = self.open_all(&instruction, Some(name))?;
        }
        Ok(EditRequest { instruction, references, settings: self.settings.clone() })
    }

    /// What the current picture is called beside the names of `instruction`: `last`, or the name
    /// of its file, or its path when another file of that name is meant too.
    fn name_of(&self, picture: &Reference, instruction: &Instruction) -> String {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let Some(path) = &picture.path else { return picture.name.clone() };
        if self.last_turn().is_some() {
            return LAST.to_string();
        }
        let taken = |name: &String| {
            *name == picture.name && (name == LAST || real(&self.expand(name)) != real(path))
        };
        if instruction.names.iter().any(taken) || picture.name == LAST {
            return real(path).to_string_lossy().into_owned();
        }
        picture.name.clone()
    }

    fn open_all(
        &self,
        instruction: &Instruction,
        known_as: Option<&str>,
    ) -> Result<Vec<Reference>, AgentError> {
        let open = |name: &String| match self.current() {
            Some(picture) if Some(name.as_str()) == known_as => {
                Ok(Reference { name: name.clone(), ..picture.clone() })
            }
            _ => Reference::open(name, &self.expand(name)),
        };
        instruction.names.iter().map(open).collect()
    }

    /// Does an edit and writes its result; when it fails, the conversation stays as it was.
    pub fn run(
        &mut self,
        request: EditRequest,
        pipeline: &dyn Pipeline,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        let (turn, outcome) = self.edit(request, pipeline, progress)?;
        self.step(Step::Turn(Box::new(turn)));
        Ok(outcome)
    }

    /// Does the last turn once more with another seed; [`Session::choose`] takes its result.
    pub fn vary(
        &mut self,
        seed: u64,
        pipeline: &dyn Pipeline,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        let last = self.last_turn().cloned().ok_or(AgentError::NothingYet)?;
        let mut request = last.request.clone();
        request.settings.seed = seed;
        let (turn, outcome) = self.edit(request, pipeline, progress)?;
        if self.candidates.is_empty() {
            self.candidates.push(last);
        }
        self.candidates.push(turn);
        Ok(outcome)
    }

    /// The last turn and its variations, in the order in which they were made.
    pub fn candidates(&self) -> &[Turn] {
        &self.candidates
    }

    /// Puts candidate `index` in the place of the last turn; false when there is none.
    pub fn choose(&mut self, index: usize) -> bool {
        match (self.candidates.get(index), self.steps.last_mut()) {
            (Some(candidate), Some(Step::Turn(turn))) => {
                **turn = candidate.clone();
                self.undone.clear();
                true
            }
            _ => false,
        }
    }

    fn edit(
        &mut self,
        request: EditRequest,
        pipeline: &dyn Pipeline,
        progress: &mut dyn Progress,
    ) -> Result<(Turn, EditOutcome), AgentError> {
        let outcome = edit_guarded(pipeline, &request, progress)?;
        progress.stage(Stage::Save);
        let bytes = outcome.png()?;
        let path = self.next_file()?;
        storage::write_atomically(&path, &bytes)?;
        let result = Reference { name: LAST.to_string(), path: Some(path), bytes: bytes.into() };
        Ok((Turn { request, plan: outcome.plan.clone(), result }, outcome))
    }

    /// A file of the session's folder that does not exist yet.
    fn next_file(&mut self) -> Result<PathBuf, AgentError> {
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| AgentError::Unwritable { path: self.folder.clone(), source })?;
        loop {
            self.written += 1;
            let path = self.folder.join(format!("{:03}.png", self.written));
            if !path.exists() {
                return Ok(path);
            }
        }
    }

    /// Writes the current picture to `path`, as the PNG that was made.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        let turn = self.last_turn().ok_or(AgentError::NothingYet)?;
        let references = turn.request.references.iter().chain([&turn.result]);
        let inputs: Vec<PathBuf> = references.filter_map(|r| r.path.clone()).collect();
        storage::refuse_inputs(path, &inputs)?;
        storage::write_atomically(path, &turn.result.bytes)
    }

    /// Writes the turns that count as a manifest, with media beside it where it must; says how
    /// many they are.
    pub fn export(&self, path: &Path) -> Result<usize, AgentError> {
        let turns = self.turns();
        if turns.is_empty() {
            return Err(AgentError::NothingYet);
        }
        manifest::write(path, &self.id, &turns)?;
        Ok(turns.len())
    }

    /// The conversation in the manifest `path`, to be done turn by turn with [`Session::replay`].
    /// This one goes on from nothing; what came before can be undone to.
    pub fn load(&mut self, path: &Path) -> Result<Manifest, AgentError> {
        let options = ManifestOptions { settings: self.initial.clone(), allow_outside: false };
        let manifest = Manifest::open(path, options)?;
        manifest.refuse_several_sessions(path)?;
        self.close();
        Ok(manifest)
    }

    /// Does turn `index` of a conversation as the next turn, and keeps its settings.
    pub fn replay(
        &mut self,
        manifest: &Manifest,
        index: usize,
        pipeline: &dyn Pipeline,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        let last = self.last_turn().map(|turn| &turn.result);
        let request = manifest.turn(index, last, &self.initial)?;
        self.settings = request.settings.clone();
        self.run(request, pipeline, progress)
    }

    /// How much of its picture the last turn changed; `None` when it made a new one, or one of
    /// another size.
    pub fn change(&self) -> Result<Option<Change>, AgentError> {
        let turn = self.last_turn().ok_or(AgentError::NothingYet)?;
        let Some(before) = turn.before() else { return Ok(None) };
        Ok(change(&self.decode(before)?, &self.decode(&turn.result)?))
    }
}

/// Where two pictures of one size differ.
fn change(before: &Picture, after: &Picture) -> Option<Change> {
    let (before, after) = (&before.rgb, &after.rgb);
    if before.dimensions() != after.dimensions() {
        return None;
    }
    let (mut count, mut bounds) = (0_u64, None);
    for ((x, y, old), new) in before.enumerate_pixels().zip(after.pixels()) {
        if old != new {
            count += 1;
            let [left, top, right, bottom] = bounds.unwrap_or([x, y, x, y]);
            bounds = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
        }
    }
    let rect = |[left, top, right, bottom]: [u32; 4]| Rect {
        x: left,
        y: top,
        width: right - left + 1,
        height: bottom - top + 1,
    };
    let pixels = u64::from(before.width()) * u64::from(before.height());
    Some(Change { share: count as f64 / pixels.max(1) as f64, bounds: bounds.map(rect) })
}
