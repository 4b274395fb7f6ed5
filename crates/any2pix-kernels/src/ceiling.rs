//! What this machine can do at most: multiply-adds, dot products of bfloat16, bytes read and copied.
//!
//! The loops do nothing else; a benchmark measures them in the same run as the kernels, so that
//! a kernel's time can be said as a fraction of what is possible at that moment.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::level::{Engine, Level, Precision, vectorised};

/// Runs of each loop, of which the fastest counts.
const RUNS: usize = 5;
/// Repetitions of a compute loop.
const REPEATS: u64 = 1 << 20;
/// Bytes that no cache holds.
const BEYOND_CACHE: usize = 512 << 20;

/// Floating-point operations a second, in 10⁹, of all threads of the current pool together, when
/// nothing is read from memory: fused multiply-adds in f32, or dot products of bfloat16 pairs if
/// the engine rounds to those and the machine has them.
pub fn peak_gflops(engine: Engine) -> f64 {
    let fastest = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            let work: u64 = rayon::broadcast(|_| spin(engine)).into_iter().sum();
            work as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max);
    fastest / 1e9
}

/// One thread's part; returns how many operations it did.
fn spin(engine: Engine) -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: an engine's level does not exceed what was detected.
    unsafe {
        match (engine.level(), engine.precision()) {
            (Level::Amx, Precision::Bf16) => return x86::tiles(),
            (Level::Avx512Bf16, Precision::Bf16) => return x86::dot_avx512(),
            (Level::Portable, _) => {}
            (Level::Avx2, _) => return x86::fma_avx2(),
            _ => return x86::fma_avx512(),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (engine, Precision::F32, Level::Portable);
    spin_portable()
}

/// Multiply, then add, in whatever vectors the compiler's default target has.
fn spin_portable() -> u64 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let (a, b) = (black_box([1.000_001f32; LANES]), black_box([1e-9f32; LANES]));
    for _ in 0..REPEATS {
        for i in 0..LANES {
            sums[i] = sums[i] * a[i] + b[i];
        }
    }
    black_box(sums);
    REPEATS * 2 * LANES as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::REPEATS;
    use crate::gemm::amx;

    macro_rules! spin {
        ($name:ident, $features:literal, $sums:literal, $operations:literal, $zero:expr, $step:expr) => {
            /// Independent chains of one instruction.
            #[target_feature(enable = $features)]
            pub(super) fn $name() -> u64 {
                let mut sums = [$zero; $sums];
                for _ in 0..REPEATS {
                    for sum in &mut sums {
                        *sum = $step(*sum);
                    }
                }
                black_box(sums);
                REPEATS * $sums * $operations
            }
        };
    }

    spin!(fma_avx512, "avx512f", 24, 32, _mm512_setzero_ps(), |sum| {
        let one = _mm512_set1_ps(1.0);
        _mm512_fmadd_ps(one, one, sum)
    });
    spin!(fma_avx2, "avx2,fma", 12, 16, _mm256_setzero_ps(), |sum| {
        let one = _mm256_set1_ps(1.0);
        _mm256_fmadd_ps(one, one, sum)
    });
    spin!(dot_avx512, "avx512f,avx512bf16", 24, 64, _mm512_setzero_ps(), |sum| {
        // SAFETY: both types are 64 plain bytes.
        let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(0x3f80)) };
        _mm512_dpbf16_ps(sum, ones, ones)
    });

    /// Products of whole tiles that stay in registers of tiles.
    ///
    /// # Safety
    /// Tiles are available.
    pub(super) unsafe fn tiles() -> u64 {
        // SAFETY: the caller's promise.
        unsafe { amx::spin(REPEATS / 16) }
    }
}

vectorised! {
    /// Reads in four places at a time, as many as keep the memory busy.
    fn total(level: Level, words: &[u64]) -> u64 {
        let quarter = words.len() / 4;
        let (a, rest) = words.split_at(quarter);
        let (b, rest) = rest.split_at(quarter);
        let (c, d) = rest.split_at(quarter);
        let lines = a.chunks_exact(8).zip(b.chunks_exact(8));
        let lines = lines.zip(c.chunks_exact(8).zip(d.chunks_exact(8)));
        let mut sums = [0u64; 8];
        for ((a, b), (c, d)) in lines {
            for i in 0..8 {
                sums[i] ^= (a[i] ^ b[i]) ^ (c[i] ^ d[i]);
            }
        }
        sums.iter().fold(0, |total, sum| total ^ sum)
    }
}

/// Bytes a second, in 10⁹, that all threads together read from memory that no cache holds.
pub fn read_gbps(level: Level) -> f64 {
    let words = vec![1u64; BEYOND_CACHE / 8];
    let part = words.len().div_ceil(rayon::current_num_threads());
    let fastest = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            black_box(words.par_chunks(part).map(|part| total(level, part)).sum::<u64>());
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min);
    BEYOND_CACHE as f64 / fastest / 1e9
}

vectorised! {
    fn sum_into(level: Level, from: &[&[f32]], to: &mut [f32]) {
        match from {
            [a, b] => to.iter_mut().zip(a.iter().zip(*b)).for_each(|(to, (a, b))| *to = a + b),
            [a, ..] => to.iter_mut().zip(*a).for_each(|(to, a)| *to = a + 1.0),
            [] => to.fill(0.0),
        }
    }
}

/// Seconds that it takes to read `inputs` arrays of `elements` and to write one, which is what an
/// elementwise operation cannot avoid; caches serve it as they would serve the operation.
pub fn pass_seconds(level: Level, inputs: usize, elements: usize) -> f64 {
    const CHUNK: usize = 1 << 14;
    let from = vec![vec![1.0f32; elements]; inputs];
    let mut to = vec![0.0f32; elements];
    (0..4 * RUNS)
        .map(|_| {
            let start = Instant::now();
            to.par_chunks_mut(CHUNK).enumerate().for_each(|(i, to)| {
                let range = i * CHUNK..i * CHUNK + to.len();
                let parts: Vec<&[f32]> = from.iter().map(|from| &from[range.clone()]).collect();
                sum_into(level, &parts, to);
            });
            black_box(&to);
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_this_machine_has_a_ceiling() {
        for level in Level::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                assert!(peak_gflops(Engine::new(level, precision)) > 0.1);
            }
        }
        assert!(pass_seconds(Level::current(), 2, 1 << 16) > 0.0);
    }
}
