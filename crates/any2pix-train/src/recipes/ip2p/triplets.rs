//! Edits in words that the world writes itself: caption, instruction, edited caption.

use std::collections::BTreeSet;

use any2pix_nn::Generator;

use super::Words;
use crate::Result;
use crate::playroom::splits::Split;
use crate::playroom::{Kind, Manner, World};

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
/// So many are drawn for each that is wanted before the world counts as exhausted.
const PATIENCE: usize = 20;

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
        let edit = words.of(&sample);
        let (caption, output) = (sample.source_caption, sample.caption);
        if !caption.is_empty() && caption != output && seen.insert(caption.clone()) {
            triplets.push(WorldTriplet { caption, edit, output });
        }
    }
    Ok(triplets)
}
