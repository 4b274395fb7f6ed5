//! How samples are composed: picking things, placing them, referring to them, saying it.

mod global;
mod local;
mod manner;

use std::collections::BTreeMap;
use std::sync::Arc;

use any2pix_nn::Generator;
use image::{GrayImage, Luma, Rgba, RgbaImage, imageops};

use super::augment;
use super::instruction::{self, Filling, Role};
use super::place::Place;
use super::recipe::{Finish, Recipe};
use super::sample::{
    AnswerPiece, Familiarity, Kind, Media, Modality, ObjectSlot, Piece, Present, Sample,
};
use super::scene::{BBox, PLAIN_LIGHT, Placed, SCENE_SIDE, Scene, View, fitted};
use super::splits::Split;
use super::world::{BackgroundEntry, ConceptEntry, World};
use super::{catalogue::Habitat, quality, raster};

pub(super) use manner::drawn;
pub use manner::{Manner, SQUARE, square_of};

/// How often each kind is drawn when none is asked for, in the order of [`Kind::ALL`].
const WEIGHTS: [usize; 10] = [24, 18, 18, 12, 6, 4, 6, 3, 7, 2];

/// One edit of `split`.
pub(super) fn sample(
    world: &World,
    generator: &mut Generator,
    split: Split,
    kind: Option<Kind>,
    manner: &Manner,
) -> Sample {
    let kind = kind.unwrap_or_else(|| {
        let mut ticket = generator.below(WEIGHTS.iter().sum());
        let drawn = Kind::ALL.iter().zip(WEIGHTS).find(|&(_, weight)| {
            let hit = ticket < weight;
            ticket = ticket.saturating_sub(weight);
            hit
        });
        drawn.map_or(Kind::Add, |(kind, _)| *kind)
    });
    let mut composer = Composer::new(world, generator, split, kind);
    composer.manner = manner.clone();
    match kind {
        Kind::Add => composer.add(),
        Kind::Remove => composer.remove(),
        Kind::Replace => composer.replace(),
        Kind::Multi => composer.multi(),
        Kind::Adjust => composer.adjust(),
        Kind::Background => composer.background(),
        Kind::Style => composer.style(),
        Kind::Look => composer.look(),
        Kind::Music => composer.music(),
        Kind::Generate => composer.generate(),
    }
}

/// `sprite` as a reference in an edit of `split` would show it, and where it is in there.
pub(super) fn portrait(
    world: &World,
    generator: &mut Generator,
    split: Split,
    sprite: &Arc<RgbaImage>,
) -> (RgbaImage, GrayImage) {
    Composer::new(world, generator, split, Kind::Add).portrait(sprite)
}

/// A thing that was picked for an edit, and how it is referred to.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    concept: usize,
    sprite: usize,
    modality: Modality,
    familiarity: Familiarity,
    clip: Option<usize>,
}

/// A sample in the making.
pub(super) struct Composer<'a> {
    world: &'a World,
    generator: &'a mut Generator,
    split: Split,
    sample_kind: Kind,
    manner: Manner,
    media: Vec<Media>,
    fillings: BTreeMap<&'static str, Filling>,
    wanted: Vec<ObjectSlot>,
    unwanted: Vec<ObjectSlot>,
    place: Option<Place>,
    look: Option<String>,
}

/// How a finished sample is told.
struct Telling {
    operation: &'static str,
    family: &'static str,
    /// What captions add behind everything else.
    suffix: &'static str,
}

impl<'a> Composer<'a> {
    fn new(world: &'a World, generator: &'a mut Generator, split: Split, kind: Kind) -> Self {
        Self {
            world,
            generator,
            split,
            sample_kind: kind,
            manner: Manner::default(),
            media: Vec::new(),
            fillings: BTreeMap::new(),
            wanted: Vec::new(),
            unwanted: Vec::new(),
            place: None,
            look: None,
        }
    }

    fn entry(&self, concept: usize) -> &'a ConceptEntry {
        let world: &'a World = self.world;
        &world.concepts[concept]
    }

    /// A view of a random background of this split, and its index.
    fn view(&mut self) -> View {
        let held_out = self.split == Split::HeldOut;
        let usable: Vec<usize> = (0..self.world.backgrounds.len())
            .filter(|&i| self.world.backgrounds[i].held_out == held_out)
            .collect();
        let index = usable[self.generator.below(usable.len())];
        View::sample(index, &self.world.backgrounds[index].picture, self.generator)
    }

    fn backdrop(&self, view: &View) -> &'a BackgroundEntry {
        let world: &'a World = self.world;
        &world.backgrounds[view.background]
    }

    /// A thing to refer to, other than `taken`.
    fn pick(&mut self, taken: &[usize], role: Role) -> Pick {
        let modality = match self.manner.words_only {
            true => Modality::Text,
            false => [Modality::Text, Modality::Image, Modality::Sound][self.generator.below(3)],
        };
        if modality == Modality::Image
            && role == Role::Wanted
            && self.split == Split::HeldOut
            && self.generator.chance(0.35)
            && let Some(pick) = self.pick_unseen()
        {
            return pick;
        }
        let usable: Vec<usize> = (0..self.world.concepts.len())
            .filter(|i| {
                let entry = &self.world.concepts[*i];
                let heard = entry.clips.iter().any(|clip| !clip.held_out);
                !entry.unseen
                    && !taken.contains(i)
                    && entry.sprites.iter().any(|sprite| !sprite.held_out)
                    && (heard || modality != Modality::Sound)
            })
            .collect();
        let concept = usable[self.generator.below(usable.len())];
        let (sprite, sprite_held_out) = match self.manner.drawing(concept) {
            Some(drawing) if role == Role::Wanted => (drawing, false),
            _ => self.sprite_of(concept, modality == Modality::Image),
        };
        let (clip, clip_held_out) = match modality {
            Modality::Sound => self.clip_of(concept),
            _ => (None, false),
        };
        let held_out = match modality {
            Modality::Text => false,
            Modality::Image => sprite_held_out,
            Modality::Sound => clip_held_out,
        };
        let familiarity = if held_out { Familiarity::HeldOut } else { Familiarity::Known };
        Pick { concept, sprite, modality, familiarity, clip }
    }

    fn pick_unseen(&mut self) -> Option<Pick> {
        let unseen: Vec<usize> = (0..self.world.concepts.len())
            .filter(|&i| {
                self.world.concepts[i].unseen && !self.world.concepts[i].sprites.is_empty()
            })
            .collect();
        let concept = *self.generator.choose(&unseen)?;
        let sprite = self.generator.below(self.entry(concept).sprites.len());
        let (modality, familiarity) = (Modality::Image, Familiarity::Unseen);
        Some(Pick { concept, sprite, modality, familiarity, clip: None })
    }

    /// A cut-out of this split: in training mostly one that may be shipped, since painters remember
    /// what they paint.
    fn sprite_of(&mut self, concept: usize, reference: bool) -> (usize, bool) {
        let sprites = &self.entry(concept).sprites;
        let held_out = self.split == Split::HeldOut && self.generator.chance(0.5);
        let free = !reference && self.generator.chance(0.8);
        let all = |accept: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..sprites.len()).filter(|&i| accept(i)).collect()
        };
        let mut usable =
            all(&|i| sprites[i].held_out == held_out && (sprites[i].may_ship || !free));
        if usable.is_empty() {
            usable = all(&|i| !sprites[i].held_out);
        }
        let sprite = usable[self.generator.below(usable.len())];
        (sprite, sprites[sprite].held_out)
    }

    fn clip_of(&mut self, concept: usize) -> (Option<usize>, bool) {
        let clips = &self.entry(concept).clips;
        let with = |held_out: bool| -> Vec<usize> {
            (0..clips.len()).filter(|&i| clips[i].held_out == held_out).collect()
        };
        let held_out = self.split == Split::HeldOut && self.generator.chance(0.5);
        let mut usable = with(held_out);
        if usable.is_empty() {
            usable = with(false);
        }
        let clip = self.generator.choose(&usable).copied();
        (clip, clip.is_some_and(|clip| clips[clip].held_out))
    }

    /// A thing that nobody refers to.
    fn bystander(&mut self, taken: &[usize]) -> Pick {
        let usable: Vec<usize> = (0..self.world.concepts.len())
            .filter(|i| {
                let entry = &self.world.concepts[*i];
                !entry.unseen
                    && !taken.contains(i)
                    && entry.sprites.iter().any(|sprite| !sprite.held_out)
            })
            .collect();
        let concept = usable[self.generator.below(usable.len())];
        let (sprite, _) = self.sprite_of(concept, false);
        let (modality, familiarity) = (Modality::Text, Familiarity::Known);
        Pick { concept, sprite, modality, familiarity, clip: None }
    }

    /// A scene with `count` bystanders.
    fn scene(&mut self, count: usize, taken: &mut Vec<usize>) -> Scene {
        let mut scene = Scene { view: self.view(), objects: Vec::new() };
        for _ in 0..count {
            let pick = self.bystander(taken);
            taken.push(pick.concept);
            let placed = self.put(&scene, &pick, None, None);
            scene.insert(placed);
        }
        scene
    }

    /// Finds a place for `pick` in `scene`: around the feet of `instead` if it is given.
    fn put(
        &mut self,
        scene: &Scene,
        pick: &Pick,
        place: Option<Place>,
        instead: Option<&BBox>,
    ) -> Placed {
        let entry = self.entry(pick.concept);
        let flip = self.generator.chance(0.5);
        let sprite = &entry.sprites[pick.sprite].picture;
        let mut picture =
            if flip { Arc::new(imageops::flip_horizontal(&**sprite)) } else { sprite.clone() };
        if self.manner.varied && self.split == Split::Train {
            picture = Arc::new(self.varied(&picture));
        }
        let [small, large] = entry.size.map(|size| size as f32);
        let bbox = match instead {
            Some(old) => {
                let size = old.width.max(old.height) as f32 * self.generator.uniform_in(0.92, 1.1);
                let (width, height) = fitted(&picture, size.clamp(24.0, 92.0));
                let middle = old.x as f32 + old.width as f32 * 0.5;
                let feet = (old.y + old.height) as f32;
                BBox::around(middle, feet - height as f32 * 0.5, width, height)
            }
            None => {
                let size = fitted(&picture, self.generator.uniform_in(small, large));
                scene.find_place(size, entry.habitat, place, self.generator)
            }
        };
        let light = scene.view.light_at(&bbox, self.generator);
        let grounded = matches!(entry.habitat, Habitat::Ground | Habitat::Surface);
        let shadow = if grounded && self.generator.chance(0.6) {
            self.generator.uniform_in(0.15, 0.45)
        } else {
            0.0
        };
        let mut placed = Placed::new((pick.concept, pick.sprite), picture, bbox);
        placed.light = light;
        placed.shadow = shadow;
        placed
    }

    /// Makes `pick`, which stands as `placed`, the content of `slot` of the instruction.
    fn refer(
        &mut self,
        slot: &'static str,
        pick: &Pick,
        placed: &Placed,
        role: Role,
    ) -> ObjectSlot {
        let entry = self.entry(pick.concept);
        let mut name = entry.name.as_str();
        if pick.modality == Modality::Text
            && self.generator.chance(0.25)
            && let Some(synonym) = self.generator.choose(&entry.synonyms)
        {
            name = synonym;
        }
        let media = match pick.modality {
            Modality::Text => None,
            Modality::Image => {
                let (picture, _) = self.portrait(&entry.sprites[pick.sprite].picture);
                Some(self.attach(Media::Image { picture, concept: Some(entry.name.clone()) }))
            }
            Modality::Sound => pick.clip.map(|clip| {
                let samples = self.sound(&entry.clips[clip].samples);
                self.attach(Media::Audio { samples, concept: entry.name.clone() })
            }),
        };
        let filling = match (pick.modality, media) {
            (Modality::Image, Some(media)) => instruction::shown(media, name, self.generator),
            (Modality::Sound, Some(media)) => instruction::heard(media, self.generator),
            _ => instruction::named(name, role, self.generator),
        };
        self.fillings.insert(slot, filling);
        ObjectSlot {
            concept: entry.name.clone(),
            name: name.to_owned(),
            modality: pick.modality,
            media,
            familiarity: pick.familiarity,
            bbox: placed.bbox,
            cutout: placed.cutout(),
        }
    }

    fn attach(&mut self, media: Media) -> usize {
        self.media.push(media);
        self.media.len() - 1
    }

    /// A clip as somebody might have recorded it.
    fn sound(&mut self, clip: &[f32]) -> Vec<f32> {
        if self.generator.chance(0.15) {
            augment::plain(clip)
        } else {
            self.world.perturb(clip, self.generator)
        }
    }

    /// A cut-out as a reference (bare, on one colour, on a checker, or in a small photo), and its
    /// opacity there.
    fn portrait(&mut self, sprite: &Arc<RgbaImage>) -> (RgbaImage, GrayImage) {
        const SIDE: u32 = 96;
        let size = self.generator.uniform_in(0.72, 0.98) * SIDE as f32;
        let (width, height) = fitted(sprite, size);
        let mut object = raster::resize(sprite, width, height);
        if self.generator.chance(0.3) {
            imageops::flip_horizontal_in_place(&mut object);
        }
        let mut canvas = match self.generator.below(4) {
            0 => RgbaImage::new(SIDE, SIDE),
            1 => {
                let channel = |generator: &mut Generator| {
                    if generator.chance(0.4) { 255 } else { generator.below(256) as u8 }
                };
                let colour = std::array::from_fn(|_| channel(self.generator));
                let [red, green, blue]: [u8; 3] = colour;
                RgbaImage::from_pixel(SIDE, SIDE, Rgba([red, green, blue, 255]))
            }
            2 => RgbaImage::from_fn(SIDE, SIDE, |x, y| {
                let value = if (x / 8 + y / 8) % 2 == 0 { 255 } else { 204 };
                Rgba([value, value, value, 255])
            }),
            _ => {
                let view = self.view();
                image::DynamicImage::ImageRgb8(view.render(SIDE)).to_rgba8()
            }
        };
        let left = self.generator.below((SIDE - width.min(SIDE) + 1) as usize);
        let top = self.generator.below((SIDE - height.min(SIDE) + 1) as usize);
        imageops::overlay(&mut canvas, &object, left as i64, top as i64);
        let mut opacity = GrayImage::new(SIDE, SIDE);
        for (x, y, pixel) in object.enumerate_pixels() {
            opacity.put_pixel(left as u32 + x, top as u32 + y, Luma([pixel[3]]));
        }
        (canvas, opacity)
    }

    /// Ends the sample: draws it, says it, and puts its media into the order of appearance.
    fn finish(mut self, recipe: Recipe, telling: &Telling) -> Sample {
        let whole =
            matches!(self.sample_kind, Kind::Style | Kind::Look | Kind::Music | Kind::Generate);
        let (source, target, mask) = match self.manner.unpainted {
            true => Default::default(),
            false => recipe.render_with_mask(whole),
        };
        let mut base = None;
        if recipe.source.is_some() {
            let picture = image::DynamicImage::ImageRgb8(source.clone()).to_rgba8();
            let index = self.attach(Media::Image { picture, concept: None });
            self.fillings.insert("base", instruction::base(index, self.generator));
            base = Some(index);
        }
        let pieces =
            self.world.templates.say(telling.family, self.split, &self.fillings, self.generator);
        let source_caption =
            recipe.source.as_ref().map_or_else(String::new, |scene| self.caption(scene, ""));
        let mut sample = Sample {
            kind: self.sample_kind,
            operation: telling.operation,
            caption: self.caption(&recipe.target, telling.suffix),
            source_caption,
            objects_after: self.present(&recipe.target),
            pieces,
            media: self.media,
            base,
            source,
            target,
            mask,
            wanted: self.wanted,
            unwanted: self.unwanted,
            place: self.place,
            look: self.look,
            aesthetic: quality::CLEAN,
            recipe,
        };
        order_media(&mut sample);
        sample
    }

    fn present(&self, scene: &Scene) -> Vec<Present> {
        scene
            .objects
            .iter()
            .map(|object| Present {
                concept: self.entry(object.concept).name.clone(),
                bbox: object.bbox,
            })
            .collect()
    }

    /// "a dog and a cat in front of a beach, at night".
    fn caption(&self, scene: &Scene, suffix: &str) -> String {
        let names: Vec<String> = scene
            .objects
            .iter()
            .map(|object| instruction::with_article(&self.entry(object.concept).name))
            .collect();
        let label = &self.backdrop(&scene.view).label;
        let mut caption = match names.split_last() {
            None => label.clone(),
            Some((last, [])) => format!("{last} in front of {label}"),
            Some((last, rest)) => format!("{} and {last} in front of {label}", rest.join(", ")),
        };
        if !suffix.is_empty() {
            caption.push_str(", ");
            caption.push_str(suffix);
        }
        caption
    }
}

/// Renumbers media so that they stand in the order in which the instruction names them.
fn order_media(sample: &mut Sample) {
    let mut order: Vec<usize> = Vec::new();
    for piece in &sample.pieces {
        if let Piece::Media(index) = piece
            && !order.contains(index)
        {
            order.push(*index);
        }
    }
    let position = |index: usize| order.iter().position(|&old| old == index);
    for piece in &mut sample.pieces {
        if let Piece::Media(index) = piece {
            *index = position(*index).unwrap_or(*index);
        }
    }
    sample.base = sample.base.and_then(position);
    for slot in sample.wanted.iter_mut().chain(&mut sample.unwanted) {
        slot.media = slot.media.and_then(position);
    }
    let mut media: Vec<Option<Media>> = sample.media.drain(..).map(Some).collect();
    sample.media = order.iter().filter_map(|&old| media.get_mut(old)?.take()).collect();
}

/// Texts that the planner reads and writes.
pub(super) fn text_corpus(world: &World, generator: &mut Generator, count: usize) -> Vec<String> {
    let mut texts: Vec<String> = world
        .concepts
        .iter()
        .flat_map(|concept| {
            let names = [concept.name.clone(), concept.plural.clone()];
            names.into_iter().chain(concept.synonyms.iter().cloned())
        })
        .collect();
    while texts.len() < count {
        let sample = sample(world, generator, Split::Train, None, &Manner::default());
        texts.push(sample.instruction());
        let answer = sample.assistant_text();
        texts.extend(answer.into_iter().filter_map(|piece| match piece {
            AnswerPiece::Text(text) => Some(text),
            AnswerPiece::Slot(_) => None,
        }));
    }
    texts.truncate(count);
    texts
}

/// A scene's side, for places.
const SIDE: f32 = SCENE_SIDE as f32;

/// A recipe without source, or with the light of a plain picture.
fn untouched(source: Scene, target: Scene) -> Recipe {
    Recipe { source: Some(source), target, finish: Finish::None }
}

/// A view that shows a whole stored picture as it is.
fn plain_view(view: &View) -> View {
    View { light: PLAIN_LIGHT, ..view.clone() }
}
