//! Edits in words that the world writes itself: caption, instruction, edited caption.

use std::collections::BTreeSet;

use any2pix_nn::Generator;

use super::Words;
use crate::Result;
use crate::playroom::scene::Scene;
use crate::playroom::splits::Split;
use crate::playroom::{Kind, Manner, Sample, World};

/// What a picture shows, what is asked for, and what it shows then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldTriplet {
    /// Before.
    pub caption: String,
    /// The instruction.
    pub edit: String,
    /// After.
    pub output: String,
}

/// Edits that change a caption by a thing.
const KINDS: [Kind; 3] = [Kind::Add, Kind::Remove, Kind::Replace];
/// More things than this are in no picture.
const MOST: usize = 2;
/// So many are drawn for each that is wanted before the world counts as exhausted.
const PATIENCE: usize = 40;

/// Up to `count` edits of different captions.
pub fn world_triplets(world: &World, count: usize, seed: u64) -> Result<Vec<WorldTriplet>> {
    let words = Words::read()?;
    let manner = Manner { words_only: true, unpainted: true, ..Manner::default() };
    let root = Generator::new(seed).fork("triplets");
    let (mut seen, mut triplets) = (BTreeSet::new(), Vec::new());
    for number in 0..count.saturating_mul(PATIENCE) {
        if triplets.len() == count {
            break;
        }
        let mut generator = root.fork(&number.to_string());
        let kind = KINDS[number % KINDS.len()];
        let sample = world.sample_in(&manner, &mut generator, Split::Train, kind);
        if !is_plain(&sample) {
            continue;
        }
        let edit = words.of(&sample);
        let (caption, output) = (sample.source_caption, sample.caption);
        if !caption.is_empty() && caption != output && seen.insert(caption.clone()) {
            triplets.push(WorldTriplet { caption, edit, output });
        }
    }
    Ok(triplets)
}

/// Whether both captions name few things, and the same ones in the same order: a painter of
/// captions then has them in the same places.
fn is_plain(sample: &Sample) -> bool {
    let named = |scene: Option<&Scene>| -> Vec<usize> {
        scene.map_or_else(Vec::new, |scene| scene.objects.iter().map(|o| o.concept).collect())
    };
    let (before, after) =
        (named(sample.recipe.source.as_ref()), named(Some(&sample.recipe.target)));
    let changed = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    let is_replaced = sample.kind == Kind::Replace && before.len() == after.len() && changed == 1;
    before.len().max(after.len()) <= MOST && (is_replaced || changed == 0)
}
