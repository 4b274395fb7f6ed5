//! Edits of the whole picture: background, style, look, music, and pictures from nothing.

use super::super::instruction::{Filling, Role, referring};
use super::super::looks::{self, LOOKS};
use super::super::recipe::{Finish, Recipe};
use super::super::sample::{Media, Sample};
use super::super::scene::{PLAIN_LIGHT, SCENE_SIDE, Scene};
use super::{Composer, Telling, plain_view};

impl Composer<'_> {
    fn some_scene(&mut self, least: usize) -> Scene {
        let count = least + self.generator.below(3 - least);
        self.scene(count, &mut Vec::new())
    }

    pub(super) fn background(mut self) -> Sample {
        let source = self.some_scene(1);
        let mut target = source.clone();
        let old = self.backdrop(&source.view).label.clone();
        for _ in 0..8 {
            target.view = self.view();
            if self.backdrop(&target.view).label != old {
                break;
            }
        }
        let label = self.backdrop(&target.view).label.clone();
        let in_words = self.generator.chance(0.5) || self.manner.words_only;
        let filling = if in_words {
            Filling::words(label.clone())
        } else {
            let shown = plain_view(&target.view).render(SCENE_SIDE);
            let picture = image::DynamicImage::ImageRgb8(shown).to_rgba8();
            let media = self.attach(Media::Image { picture, concept: None });
            let before = ["", "", "the scene in ", "what is in ", "the place of "];
            referring((*self.generator.choose(&before).unwrap_or(&"")).to_owned(), media)
        };
        self.fillings.insert("scene", filling);
        self.look = Some(label);
        let telling = Telling { operation: "background", family: "background", suffix: "" };
        let recipe = Recipe { source: Some(source), target, finish: Finish::None };
        self.finish(recipe, &telling)
    }

    pub(super) fn style(mut self) -> Sample {
        let scene = self.some_scene(0);
        let mut example = Scene { view: self.view(), objects: Vec::new() };
        example.view.light = PLAIN_LIGHT;
        let mut style = example.render(SCENE_SIDE);
        // Half of the examples have an unmistakable palette of their own.
        if self.generator.chance(0.5) {
            let look = &LOOKS[self.generator.below(LOOKS.len())];
            style = looks::apply(look.name, &style, self.generator);
        }
        let picture = image::DynamicImage::ImageRgb8(style.clone()).to_rgba8();
        let media = self.attach(Media::Image { picture, concept: None });
        let before = ["", "", "", "the picture ", "this ", "the painting "];
        let before = (*self.generator.choose(&before).unwrap_or(&"")).to_owned();
        self.fillings.insert("style", referring(before, media));
        let telling =
            Telling { operation: "style", family: "style", suffix: "in the style of a picture" };
        let finish = Finish::Palette(style);
        let recipe = Recipe { source: Some(scene.clone()), target: scene, finish };
        self.finish(recipe, &telling)
    }

    pub(super) fn look(mut self) -> Sample {
        let scene = self.some_scene(0);
        let seed = self.generator.next_u64();
        let by_sound = self.generator.chance(0.35) && !self.manner.words_only;
        let (name, family) = if by_sound {
            let (look, samples) =
                &self.world.ambience[self.generator.below(self.world.ambience.len())];
            let samples = self.sound(samples);
            let media = self.attach(Media::Audio { samples, concept: look.clone() });
            self.fillings.insert("sound", referring(String::new(), media));
            (look.as_str(), "look_sound")
        } else {
            let look = &LOOKS[self.generator.below(LOOKS.len())];
            let phrase = self.generator.choose(look.phrases).copied().unwrap_or(look.name);
            self.fillings.insert("look", Filling::words(phrase));
            (look.name, "look")
        };
        let look = looks::look(name).unwrap_or(&LOOKS[0]);
        self.look = Some(look.name.to_owned());
        let finish = Finish::Look(look.name, seed);
        let recipe = Recipe { source: Some(scene.clone()), target: scene, finish };
        self.finish(recipe, &Telling { operation: "look", family, suffix: look.caption })
    }

    pub(super) fn music(mut self) -> Sample {
        let scene = self.some_scene(0);
        let piece = &self.world.music[self.generator.below(self.world.music.len())];
        let samples = piece.samples.to_vec();
        let media = self.attach(Media::Audio { samples, concept: "music".to_owned() });
        self.fillings.insert("music", referring(String::new(), media));
        let suffix = match (piece.major, piece.tempo >= 100) {
            (true, true) => "warm and vivid",
            (true, false) => "warm and calm",
            (false, true) => "cool and vivid",
            (false, false) => "cool and calm",
        };
        self.look = Some(suffix.to_owned());
        let finish =
            Finish::Mood { major: piece.major, tempo: piece.tempo, loudness: piece.loudness };
        let recipe = Recipe { source: Some(scene.clone()), target: scene, finish };
        self.finish(recipe, &Telling { operation: "music", family: "music", suffix })
    }

    pub(super) fn generate(mut self) -> Sample {
        if !self.manner.drawings.is_empty() {
            return self.generate_drawn();
        }
        let mut target = Scene { view: self.view(), objects: Vec::new() };
        let pick = self.pick(&[], Role::Wanted);
        let placed = self.put_wanted(&target, &pick, None, None);
        let slot = self.refer("wanted", &pick, &placed, Role::Wanted);
        self.wanted.push(slot);
        target.insert(placed);
        if self.generator.chance(0.5) {
            let label = self.backdrop(&target.view).label.clone();
            let said = match self.generator.below(3) {
                0 => format!(" in front of {label}"),
                1 => format!(" with {label} behind"),
                _ => format!(" and {label}"),
            };
            self.fillings.insert("scene", Filling::words(said));
            self.look = Some(label);
        }
        let telling = Telling { operation: "make", family: "generate", suffix: "" };
        let recipe = Recipe { source: None, target, finish: Finish::None };
        self.finish(recipe, &telling)
    }

    /// What a caption tells, as drawings before a backdrop.
    fn generate_drawn(mut self) -> Sample {
        let mut picks = Vec::new();
        let target = self.drawn_scene(&mut picks);
        for (pick, slot) in picks.iter().zip(["wanted", "second"]) {
            let stands = target.objects.iter().find(|object| object.concept == pick.concept);
            let Some(placed) = stands else { continue };
            let slot = self.refer(slot, pick, placed, Role::Wanted);
            self.wanted.push(slot);
        }
        let telling = Telling { operation: "make", family: "generate", suffix: "" };
        self.finish(Recipe { source: None, target, finish: Finish::None }, &telling)
    }
}
