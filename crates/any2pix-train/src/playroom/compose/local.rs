//! Edits of objects: add, remove, replace, several at once, adjust.

use std::sync::Arc;

use super::super::colour;
use super::super::instruction::{Filling, Role};
use super::super::place::Place;
use super::super::sample::Sample;
use super::super::scene::{BBox, Placed, Scene};
use super::{Composer, SIDE, Telling, untouched};

const fn telling(operation: &'static str, family: &'static str) -> Telling {
    Telling { operation, family, suffix: "" }
}

impl Composer<'_> {
    /// Places 40 % of what is added where words say.
    fn choose_place(&mut self) -> Option<Place> {
        if self.generator.chance(0.4) { self.generator.choose(&Place::ALL).copied() } else { None }
    }

    fn say_place(&mut self, place: Option<Place>) {
        self.place = place;
        if let Some(place) = place {
            let phrase = self.generator.choose(place.phrases()).copied().unwrap_or_default();
            self.fillings.insert("place", Filling::words(format!(" {phrase}")));
        }
    }

    pub(super) fn add(mut self) -> Sample {
        let mut taken = Vec::new();
        let count = self.generator.below(3);
        let source = self.scene(count, &mut taken);
        let pick = self.pick(&taken, Role::Wanted);
        let place = self.choose_place();
        let placed = self.put_wanted(&source, &pick, place, None);
        // A crowded scene may leave no room there: then no place is named.
        self.say_place(place.filter(|place| place.holds(&placed.bbox)));
        let slot = self.refer("wanted", &pick, &placed, Role::Wanted);
        self.wanted.push(slot);
        let mut target = source.clone();
        target.insert(placed);
        self.finish(untouched(source, target), &telling("add", "add"))
    }

    /// A scene with a thing that will be referred to; it hides nothing else.
    fn scene_with_target(&mut self) -> (Scene, super::Pick, Placed) {
        let mut taken = Vec::new();
        let count = self.generator.below(3);
        let rest = self.scene(count, &mut taken);
        let pick = self.pick(&taken, Role::Existing);
        let placed = self.put(&rest, &pick, None, None);
        (rest, pick, placed)
    }

    pub(super) fn remove(mut self) -> Sample {
        let (target, pick, placed) = self.scene_with_target();
        let slot = self.refer("unwanted", &pick, &placed, Role::Existing);
        self.unwanted.push(slot);
        let mut source = target.clone();
        source.insert(placed);
        self.finish(untouched(source, target), &telling("remove", "remove"))
    }

    pub(super) fn replace(mut self) -> Sample {
        let (rest, old, old_placed) = self.scene_with_target();
        let slot = self.refer("unwanted", &old, &old_placed, Role::Existing);
        self.unwanted.push(slot);
        let taken = taken_in(&rest, Some(old.concept));
        let new = self.pick(&taken, Role::Wanted);
        let new_placed = self.put_wanted(&rest, &new, None, Some(&old_placed.bbox));
        let slot = self.refer("wanted", &new, &new_placed, Role::Wanted);
        self.wanted.push(slot);
        let (mut source, mut target) = (rest.clone(), rest);
        source.insert(old_placed);
        target.insert(new_placed);
        self.finish(untouched(source, target), &telling("replace", "replace"))
    }

    pub(super) fn multi(self) -> Sample {
        if self.generator.chance(0.5) { self.add_and_remove() } else { self.add_two() }
    }

    fn add_and_remove(mut self) -> Sample {
        let (rest, old, old_placed) = self.scene_with_target();
        let slot = self.refer("unwanted", &old, &old_placed, Role::Existing);
        self.unwanted.push(slot);
        let taken = taken_in(&rest, Some(old.concept));
        let new = self.pick(&taken, Role::Wanted);
        let mut source = rest.clone();
        source.insert(old_placed);
        // The new thing keeps clear of the old one too, so that both changes can be told apart.
        let new_placed = self.put_wanted(&source, &new, None, None);
        let slot = self.refer("wanted", &new, &new_placed, Role::Wanted);
        self.wanted.push(slot);
        let mut target = rest;
        target.insert(new_placed);
        self.finish(untouched(source, target), &telling("add and remove", "add_remove"))
    }

    fn add_two(mut self) -> Sample {
        let mut taken = Vec::new();
        let count = self.generator.below(2);
        let source = self.scene(count, &mut taken);
        let mut target = source.clone();
        for slot in ["wanted", "second"] {
            let pick = self.pick(&taken, Role::Wanted);
            taken.push(pick.concept);
            let placed = self.put_wanted(&target, &pick, None, None);
            let slot = self.refer(slot, &pick, &placed, Role::Wanted);
            self.wanted.push(slot);
            target.insert(placed);
        }
        self.finish(untouched(source, target), &telling("add", "add_two"))
    }

    pub(super) fn adjust(mut self) -> Sample {
        let (rest, pick, before) = self.scene_with_target();
        let old = self.refer("object", &pick, &before, Role::Existing);
        let mut keep_old = false;
        let (operation, after) = match self.generator.below(4) {
            0 => ("recolour", self.recoloured(&before)),
            1 => ("resize", self.resized(&before)),
            2 => ("move", self.moved(&rest, &before)),
            _ => {
                keep_old = true;
                ("duplicate", self.duplicated(&rest, &before))
            }
        };
        let mut new = old.clone();
        new.bbox = after.bbox;
        new.cutout = after.cutout();
        self.wanted.push(new);
        if !keep_old {
            self.unwanted.push(old);
        }
        let (mut source, mut target) = (rest.clone(), rest);
        source.insert(before.clone());
        if keep_old {
            target.insert(before);
        }
        target.insert(after);
        self.finish(untouched(source, target), &telling(operation, operation))
    }

    fn say_look(&mut self, look: &str, phrase: &str) {
        self.look = Some(look.to_owned());
        self.fillings.insert("look", Filling::words(phrase));
    }

    fn recoloured(&mut self, before: &Placed) -> Placed {
        let (name, hue) = colour::COLOURS[self.generator.below(colour::COLOURS.len())];
        let spoken = if name == "gray" && self.generator.chance(0.5) { "grey" } else { name };
        self.say_look(name, spoken);
        before.looking(Arc::new(colour::recolour(&before.picture, hue)))
    }

    fn resized(&mut self, before: &Placed) -> Placed {
        const LARGER: &[&str] = &["larger", "bigger", "a lot bigger", "much larger", "huge"];
        const SMALLER: &[&str] = &["smaller", "a lot smaller", "much smaller", "tiny", "little"];
        let old = before.bbox;
        let larger = old.width.max(old.height) < 62;
        let (look, phrases, factor) =
            if larger { ("larger", LARGER, 1.5) } else { ("smaller", SMALLER, 0.6) };
        let phrase = self.generator.choose(phrases).copied().unwrap_or(look);
        self.say_look(look, phrase);
        let length = |pixels: u32| (pixels as f32 * factor).round() as u32;
        let (width, height) = (length(old.width), length(old.height));
        let middle = old.x as f32 + old.width as f32 * 0.5;
        let feet = (old.y + old.height) as f32;
        let bbox = BBox::around(middle, feet - height as f32 * 0.5, width, height);
        before.at(bbox)
    }

    fn moved(&mut self, rest: &Scene, before: &Placed) -> Placed {
        let places: Vec<Place> =
            Place::ALL.into_iter().filter(|place| !place.holds(&before.bbox)).collect();
        let place = self.generator.choose(&places).copied().unwrap_or(Place::Center);
        let bbox = self.free_place(rest, before, Some(place));
        self.say_place(Some(place));
        before.at(bbox)
    }

    fn duplicated(&mut self, rest: &Scene, before: &Placed) -> Placed {
        let mut crowd = rest.clone();
        crowd.insert(before.clone());
        let bbox = self.free_place(&crowd, before, None);
        before.at(bbox)
    }

    fn free_place(&mut self, scene: &Scene, thing: &Placed, place: Option<Place>) -> BBox {
        let size = (thing.bbox.width, thing.bbox.height);
        let habitat = self.entry(thing.concept).habitat;
        let bbox = scene.find_place(size, habitat, place, self.generator);
        match place {
            // Large things cannot stand far from the middle: go as far as the border allows.
            Some(place) if !place.holds(&bbox) => {
                let (x, y) = place.sample(self.generator);
                let push = |value: f32| if value < SIDE * 0.5 { 0.0 } else { SIDE };
                let extreme = BBox::around(push(x), push(y), size.0, size.1);
                if place.holds(&extreme) { extreme } else { bbox }
            }
            _ => bbox,
        }
    }
}

fn taken_in(scene: &Scene, also: Option<usize>) -> Vec<usize> {
    scene.objects.iter().map(|object| object.concept).chain(also).collect()
}
