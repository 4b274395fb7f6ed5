//! Weights of four bits, as GGUF has them: products with one row at memory speed, and matrices for
//! products with many.
//!
//! For one row the activations are rounded to eight bits, block by block, and products are those of
//! bytes: four bits a weight are so little to read that anything slower than the memory would show.

mod q4_0;
mod q4_k;
#[cfg(test)]
mod tests;

pub use q4_0::{Q4_0, gemv_q4_0, grouped};
pub use q4_k::{Q4K, gemv_q4_k};

use rayon::prelude::*;

use crate::level::vectorised;
use crate::math::{max, sum};
use crate::scratch::Shared;

/// Rows of a task.
const ROWS: usize = 32;
/// The largest byte that activations are rounded to.
const LARGEST: f32 = 127.0;

vectorised! {
    /// Activations of a block in eight bits; the scale that they have, not a number if one of them is
    /// none: it shall not vanish in eight bits.
    fn round_to(level: Level, block: &[f32], values: &mut [i8]) -> f32 {
        // In lanes: a plain fold would go one by one.
        let mut lanes = [0f32; 16];
        for part in block.chunks(16) {
            for (i, x) in part.iter().enumerate() {
                let size = x.abs();
                lanes[i] = if size > lanes[i] { size } else { lanes[i] };
            }
        }
        let scale = max(&lanes) / LARGEST;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (value, x) in values.iter_mut().zip(block) {
            *value = (x * inverse).round_ties_even() as i8;
        }
        if sum(block, |x| x * 0.0) == 0.0 { scale } else { f32::NAN }
    }
}

/// Computes `y`, each element from its own row.
fn each_row(y: &mut [f32], dot: impl Fn(usize) -> f32 + Sync) {
    let rows = y.len();
    let to = Shared::new(y);
    (0..rows.div_ceil(ROWS)).into_par_iter().for_each(|task| {
        for row in task * ROWS..((task + 1) * ROWS).min(rows) {
            // SAFETY: each task has its own rows.
            #[allow(unsafe_code)]
            unsafe {
                to.part(row, 1)[0] = dot(row);
            }
        }
    });
}

/// Copies `buffer.len()` weights of a row from `column` on; `unpack` writes those of one block.
fn unpacked<const BLOCK: usize>(
    column: usize,
    buffer: &mut [f32],
    unpack: impl Fn(usize, &mut [f32; BLOCK]),
) {
    let (mut block, mut inside, mut done) = (column / BLOCK, column % BLOCK, 0);
    while done < buffer.len() {
        let mut weights = [0.0; BLOCK];
        unpack(block, &mut weights);
        let count = (BLOCK - inside).min(buffer.len() - done);
        buffer[done..done + count].copy_from_slice(&weights[inside..inside + count]);
        (block, inside, done) = (block + 1, 0, done + count);
    }
}

/// Bytes that are multiplied at once: a block of `Q4_K`, eight blocks of `Q4_0`.
#[cfg(target_arch = "x86_64")]
const STEP: usize = 144;
/// Steps between what is multiplied and what is asked from memory.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 16;
/// Bytes of a line of the cache.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks memory for what is multiplied some time after `step`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn ask(step: &[u8; STEP]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let later = step.as_ptr().wrapping_add(AHEAD * STEP);
    for line in 0..STEP.div_ceil(LINE) {
        _mm_prefetch::<_MM_HINT_T0>(later.wrapping_add(line * LINE).cast());
    }
}

/// The upper eight lanes added to the lower.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2")]
fn halved(lanes: std::arch::x86_64::__m512) -> std::arch::x86_64::__m256 {
    use std::arch::x86_64::{_mm256_add_ps, _mm512_castps512_ps256, _mm512_extractf32x8_ps};
    _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes))
}

/// The sum of eight lanes, always in the same order.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx2")]
fn sum_of(lanes: std::arch::x86_64::__m256) -> f32 {
    let mut values = [0.0; 8];
    // SAFETY: eight lanes.
    unsafe { std::arch::x86_64::_mm256_storeu_ps(values.as_mut_ptr(), lanes) };
    values.iter().sum()
}
