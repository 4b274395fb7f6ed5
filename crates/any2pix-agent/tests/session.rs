//! Conversations with the embedded model: what goes on from what, undo, export and replay.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![cfg(feature = "embedded")]

use std::path::{Path, PathBuf};

use any2pix_agent::session::LAST;
use any2pix_agent::{
    AgentError, EditSettings, OpenOptions, Pipeline, Progress, Session, Silent, Stage, open,
};

/// A folder with photos and sounds, and a conversation whose results lie in it.
struct Place {
    folder: tempfile::TempDir,
    pipeline: Box<dyn Pipeline>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/media");
        for name in ["park.jpg", "room.jpg", "dog.ogg", "trumpet.png"] {
            std::fs::copy(media.join(name), folder.path().join(name)).unwrap();
        }
        Self { folder, pipeline: open("playroom", OpenOptions::default()).unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    fn session(&self, results: &str) -> Session {
        let settings = EditSettings { steps: 4, ..EditSettings::default() };
        Session::new(&self.path(results), Some(self.folder.path().to_path_buf()), settings)
    }

    fn say(&self, session: &mut Session, line: &str) -> String {
        let request = session.request(line).unwrap();
        session.run(request, &*self.pipeline, &mut Silent).unwrap();
        session.last_turn().unwrap().request.instruction.to_string()
    }
}

/// Stops an edit before it paints.
struct Impatient(bool);

impl Progress for Impatient {
    fn stage(&mut self, stage: Stage) {
        self.0 |= stage == Stage::Locate;
    }

    fn is_cancelled(&self) -> bool {
        self.0
    }
}

#[test]
fn a_conversation_goes_on_from_its_results_and_replays_to_the_same_bytes() {
    let place = Place::new();
    let mut session = place.session("first");
    session.open("~/park.jpg").unwrap();
    let said = place.say(&mut session, "add [~/dog.ogg] on the left");
    assert_eq!(said, "here is [park.jpg]. add [~/dog.ogg] on the left");
    let said = place.say(&mut session, "remove the dog");
    assert_eq!(said, "here is [last]. remove the dog");
    assert!(session.undo());
    session.set("seed", "7").unwrap();
    let dropped = place.text("trumpet.png");
    let said = place.say(&mut session, &format!("put the '{dropped}' into [last]"));
    assert_eq!(said, format!("put the [{dropped}] into [last]"));
    let written: Vec<_> =
        ["001.png", "002.png", "003.png"].map(|n| place.path("first").join(n)).into();
    assert!(written.iter().all(|path| path.is_file()), "undone results are kept");
    assert!(!session.redo(), "a new turn ends what could be done again");

    // The picture and the sound lie in the manifest's folder, the dropped one does not.
    let manifest = place.path("talk.jsonl");
    assert_eq!(session.export(&manifest).unwrap(), 2);
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(text.contains(r#""~/dog.ogg":"dog.ogg""#), "{text}");
    assert!(!place.path("talk.media").exists(), "{text}");
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    let moved = place.path("elsewhere").join("talk.jsonl");
    session.export(&moved).unwrap();
    let text = std::fs::read_to_string(&moved).unwrap();
    assert!(text.contains(r#":"talk.media/"#), "{text}");

    for manifest in [manifest, moved] {
        let mut replayed = place.session("second");
        let turns = replayed.load(&manifest).unwrap();
        for index in 0..turns.len() {
            replayed.replay(&turns, index, &*place.pipeline, &mut Silent).unwrap();
        }
        assert_eq!(replayed.settings().seed, 7, "the conversation goes on with its settings");
        let bytes = |session: &Session| -> Vec<_> {
            session.turns().iter().map(|turn| turn.result.bytes.clone()).collect()
        };
        assert_eq!(bytes(&replayed), bytes(&session));
        let last = replayed.last_turn().unwrap();
        assert_eq!(std::fs::read(last.result.path.as_ref().unwrap()).unwrap(), *last.result.bytes);
    }
}

#[test]
fn a_turn_that_fails_or_is_stopped_leaves_the_conversation_as_it_was() {
    let place = Place::new();
    let mut session = place.session("results");
    assert!(matches!(session.request("brighten [last]"), Err(AgentError::NothingYet)));
    session.open(&place.text("park.jpg")).unwrap();
    assert!(session.open(&place.text("dog.ogg")).is_err(), "a sound is no picture");

    let request = session.request("add a zeppelin").unwrap();
    let error = session.run(request, &*place.pipeline, &mut Silent).unwrap_err();
    assert!(matches!(error, AgentError::UnknownObject { .. }), "{error}");
    let request = session.request("add a dog").unwrap();
    let error = session.run(request, &*place.pipeline, &mut Impatient(false)).unwrap_err();
    assert!(matches!(error, AgentError::Cancelled { .. }), "{error}");
    assert!(session.turns().is_empty() && !place.path("results").exists());
    assert_eq!(session.current().unwrap().name, "park.jpg");

    let said = place.say(&mut session, "add a dog");
    assert_eq!(said, "here is [park.jpg]. add a dog");
    let change = session.change().unwrap().unwrap();
    assert!(change.share > 0.0 && change.share < 0.9, "{change:?}");
}

#[test]
fn steps_are_undone_one_by_one_whatever_they_were() {
    let place = Place::new();
    let mut session = place.session("results");
    let name = |session: &Session| session.current().map(|picture| picture.name.clone());
    session.open(&place.text("park.jpg")).unwrap();
    place.say(&mut session, "make it night");
    session.open(&place.text("room.jpg")).unwrap();
    assert_eq!(session.request("brighten [last]").unwrap().references[0].name, "room.jpg");
    session.close();
    assert_eq!(name(&session), None);
    let mut seen = Vec::new();
    while session.undo() {
        seen.push(name(&session));
    }
    let expected = [Some("room.jpg"), Some(LAST), Some("park.jpg"), None];
    assert_eq!(seen, expected.map(|name| name.map(str::to_string)));
    assert!(session.redo() && session.redo() && !session.turns().is_empty());
}

#[test]
fn a_variation_takes_the_place_of_the_turn_it_varies() {
    let place = Place::new();
    let mut session = place.session("results");
    session.open(&place.text("park.jpg")).unwrap();
    place.say(&mut session, "add a balloon");
    session.vary(5, &*place.pipeline, &mut Silent).unwrap();
    let candidates: Vec<_> = session.candidates().iter().map(|t| t.result.bytes.clone()).collect();
    assert_eq!(candidates.len(), 2);
    assert_ne!(candidates[0], candidates[1]);
    assert!(session.choose(1) && !session.choose(2));
    let turn = session.last_turn().unwrap();
    assert_eq!((turn.request.settings.seed, &turn.result.bytes), (5, &candidates[1]));
    assert_eq!(session.settings().seed, 0, "the next turn's seed is what it was");
    assert!(session.undo());
    assert_eq!(session.current().unwrap().name, "park.jpg");
}

#[test]
fn settings_are_read_as_people_write_them() {
    let place = Place::new();
    let mut session = place.session("results");
    for (key, value) in [
        ("steps", "30"),
        ("image-guidance", "1.5"),
        ("mix", "0, 0.5,1"),
        ("size", "640x480"),
        ("decoder", "inversion"),
        ("window", "off"),
        ("alpha", "0.25"),
    ] {
        session.set(key, value).unwrap();
    }
    let s = session.settings().clone();
    assert_eq!((s.steps, s.image_guidance, s.mix), (30, 1.5, [0.0, 0.5, 1.0]));
    assert_eq!((s.size, s.window, s.alpha), ([640, 480], false, Some(0.25)));
    for (key, value, words) in [
        ("stepps", "3", "no setting"),
        ("steps", "many", "steps many"),
        ("steps", "0", "--steps 0"),
        ("decoder", "none", "decoder none"),
        ("window", "maybe", "window maybe"),
        ("size", "640", "size 640"),
    ] {
        let error = session.set(key, value).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(*session.settings(), s, "what is refused changes nothing");
    for key in ["steps", "alpha"] {
        session.set(key, "default").unwrap();
    }
    assert_eq!((session.settings().steps, session.settings().alpha), (4, None));
}

#[test]
fn a_manifest_that_is_no_conversation_is_refused_and_changes_nothing() {
    let place = Place::new();
    let mut session = place.session("results");
    session.open(&place.text("park.jpg")).unwrap();
    let manifest = place.path("talk.jsonl");
    let row = |id: &str, session: &str| {
        format!(r#"{{"id": "{id}", "instruction": "add a dog", "session": "{session}"}}"#)
    };
    for text in [format!("{}\n{}", row("a", "one"), row("b", "two")), "{}".to_string()] {
        std::fs::write(&manifest, text).unwrap();
        let error = session.load(&manifest).unwrap_err();
        assert!(matches!(error, AgentError::Manifest { .. }), "{error}");
        assert_eq!(session.current().unwrap().name, "park.jpg");
    }
}
