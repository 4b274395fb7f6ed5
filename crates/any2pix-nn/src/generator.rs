//! `Generator`: the one source of randomness, seeded and portable.

use candle_core::{Device, Result, Shape, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A seeded stream of random numbers, the same on every machine, device and thread count.
///
/// Numbers come from ChaCha8 and are drawn in f32 on the CPU, then moved to the device, so that
/// the same seed gives the same noise everywhere. Transcendental functions are `libm`'s, not the
/// platform's.
#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    rng: ChaCha8Rng,
}

/// Where a [`Generator`] stands; restores it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratorState {
    /// The seed it was made from.
    pub seed: u64,
    /// How many 32-bit words were drawn.
    pub words: u64,
}

impl Generator {
    /// A generator at the start of the stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// An independent generator for `name`: the same whatever was drawn from `self` before.
    pub fn fork(&self, name: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(name.as_bytes());
        let digest = hash.finalize();
        let mut word = [0u8; 8];
        word.copy_from_slice(&digest[..8]);
        Self::new(u64::from_le_bytes(word))
    }

    /// The seed it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where it stands.
    pub fn state(&self) -> GeneratorState {
        GeneratorState { seed: self.seed, words: self.rng.get_word_pos() as u64 }
    }

    /// The generator that stands at `state`.
    pub fn restore(state: GeneratorState) -> Self {
        let mut generator = Self::new(state.seed);
        generator.rng.set_word_pos(u128::from(state.words));
        generator
    }

    /// A uniform 64-bit word.
    pub fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.rng.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform_in(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.rng.next_u64()) * n as u128) >> 64) as usize
    }

    /// One of `items`; `None` when it is empty.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// Puts `items` into a random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Standard normal (Box-Muller on 53-bit uniforms; two words a number).
    pub fn normal(&mut self) -> f32 {
        const SCALE: f64 = 1.0 / 9_007_199_254_740_992.0;
        let u = ((self.rng.next_u64() >> 11) as f64 + 1.0) * SCALE; // (0, 1]
        let v = (self.rng.next_u64() >> 11) as f64 * SCALE;
        (libm::sqrt(-2.0 * libm::log(u)) * libm::cos(2.0 * std::f64::consts::PI * v)) as f32
    }

    /// Standard normal tensor of `shape`, f32, on `device`.
    pub fn randn(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.normal()).collect();
        Tensor::from_vec(values, shape, device)
    }

    /// Standard normal tensor with the shape and device of `like`, f32.
    pub fn randn_like(&mut self, like: &Tensor) -> Result<Tensor> {
        self.randn(like.shape(), like.device())
    }

    /// Tensor of `shape` uniform in `[low, high)`, f32, on `device`.
    pub fn rand(
        &mut self,
        low: f32,
        high: f32,
        shape: impl Into<Shape>,
        device: &Device,
    ) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> =
            (0..shape.elem_count()).map(|_| self.uniform_in(low, high)).collect();
        Tensor::from_vec(values, shape, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_pinned() {
        let mut generator = Generator::new(7);
        let first: Vec<f32> = (0..3).map(|_| generator.normal()).collect();
        let again: Vec<f32> = {
            let mut g = Generator::new(7);
            (0..3).map(|_| g.normal()).collect()
        };
        assert_eq!(first, again);
        assert_ne!(first[0], Generator::new(8).normal());
    }

    #[test]
    fn a_restored_generator_goes_on_where_it_stood() {
        let mut generator = Generator::new(3);
        for _ in 0..5 {
            generator.normal();
            generator.uniform();
        }
        let mut restored = Generator::restore(generator.state());
        assert_eq!(generator.next_u64(), restored.next_u64());
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut generator = Generator::new(1);
        let values: Vec<f64> = (0..20_000).map(|_| f64::from(generator.normal())).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.03, "variance {variance}");
    }
}
