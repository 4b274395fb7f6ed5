//! Stand-ins for ImageBind embeddings: a random direction for every name, and noise.
//!
//! The planner's language (words, plans, pointing at references) can be learned before there is
//! an encoder; what embeddings of real pictures and sounds mean is then learned by `align`.

use any2pix_llm::Embedding;
use any2pix_nn::Generator;

use super::embedder::Embedded;
use crate::playroom::sample::{Media, Sample};

/// All directions come from here.
const SEED: u64 = 77;

/// A space of stand-ins.
pub(super) struct Codes {
    root: Generator,
    width: usize,
    names: Vec<String>,
}

impl Codes {
    /// A space of `width` dimensions in which `names` have directions.
    pub(super) fn new(width: usize, names: &[&str]) -> Self {
        let names = names.iter().map(ToString::to_string).collect();
        Self { root: Generator::new(SEED), width, names }
    }

    /// The direction of a name, of length 1.
    pub(super) fn direction(&self, name: &str) -> Embedding {
        let mut generator = self.root.fork(name);
        let scale = 1.0 / (self.width as f32).sqrt();
        (0..self.width).map(|_| generator.normal() * scale).collect()
    }

    fn mixed(&self, parts: &[(f32, &str)], noise: f32, generator: &mut Generator) -> Embedding {
        let scale = noise / (self.width as f32).sqrt();
        let mut sum: Embedding = (0..self.width).map(|_| generator.normal() * scale).collect();
        for (weight, name) in parts {
            let direction = self.direction(name);
            sum.iter_mut().zip(direction).for_each(|(s, d)| *s += weight * d);
        }
        sum
    }

    /// A scene: the things that its caption names, and the whole of it.
    fn scene(&self, caption: &str, generator: &mut Generator) -> Embedding {
        let named = self.names.iter().filter(|name| caption.contains(name.as_str()));
        let mut parts: Vec<(f32, &str)> = named.map(|name| (0.5, name.as_str())).collect();
        let place = caption.rsplit_once("in front of ").map_or(caption, |(_, place)| place);
        parts.push((0.8, place));
        self.mixed(&parts, 0.3, generator)
    }

    /// References and target of a sample; the same for the same sample.
    pub(super) fn embed(&self, sample: &Sample) -> Embedded {
        let mut generator = self.root.fork(&sample.instruction()).fork(&sample.caption);
        let media = sample
            .media
            .iter()
            .enumerate()
            .map(|(index, medium)| match medium {
                _ if sample.base == Some(index) => {
                    self.scene(&sample.source_caption, &mut generator)
                }
                Media::Image { concept: Some(concept), .. } => {
                    self.mixed(&[(1.0, concept)], 0.6, &mut generator)
                }
                Media::Image { concept: None, .. } => {
                    let look = sample.look.as_deref().unwrap_or("style");
                    self.mixed(&[(0.8, look)], 0.6, &mut generator)
                }
                Media::Audio { concept, .. } => {
                    self.mixed(&[(0.8, concept), (0.5, "sound")], 0.6, &mut generator)
                }
            })
            .collect();
        Embedded { media, target: self.scene(&sample.caption, &mut generator) }
    }
}
