//! Weights of four bits (`Q4_0` of GGUF): products with one row at memory speed, and a matrix for
//! products with many.
//!
//! A block is 32 weights in 18 bytes: a scale d in half precision, then 16 bytes of which the low
//! halves are weights 0 to 15 and the high halves 16 to 31; a weight is `d · (q - 8)`.
#![allow(unsafe_code)]

use half::f16;
use rayon::prelude::*;

use crate::gemm::Matrix;
use crate::level::{Engine, Level};
use crate::scratch::Shared;

/// Weights of a block.
pub const BLOCK: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 18;
/// Rows of a task.
const ROWS: usize = 32;

/// The scale of a block.
fn scale_of(block: &[u8; BLOCK_BYTES]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// Rows of `k` weights, `k` a multiple of 32.
#[derive(Clone, Copy, Debug)]
pub struct Q4_0<'a> {
    data: &'a [u8],
    k: usize,
}

impl<'a> Q4_0<'a> {
    /// # Panics
    /// If `k` is no multiple of 32, or `data` no whole number of rows.
    pub fn new(data: &'a [u8], k: usize) -> Self {
        assert!(
            k.is_multiple_of(BLOCK) && data.len().is_multiple_of((k / BLOCK * BLOCK_BYTES).max(1))
        );
        Self { data, k }
    }

    fn row_bytes(&self) -> usize {
        self.k / BLOCK * BLOCK_BYTES
    }

    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.data.len() / self.row_bytes().max(1)
    }

    fn bytes(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes()..(row + 1) * self.row_bytes()]
    }
}

impl Matrix for Q4_0<'_> {
    fn row<'b>(&'b self, row: usize, column: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let blocks = self.bytes(row).as_chunks::<BLOCK_BYTES>().0;
        let (mut block, mut inside, mut done) = (column / BLOCK, column % BLOCK, 0);
        while done < buffer.len() {
            let mut weights = [0.0; BLOCK];
            let scale = scale_of(&blocks[block]);
            for (i, pair) in blocks[block][2..].iter().enumerate() {
                weights[i] = scale * (f32::from(pair & 15) - 8.0);
                weights[i + 16] = scale * (f32::from(pair >> 4) - 8.0);
            }
            let count = (BLOCK - inside).min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&weights[inside..inside + count]);
            (block, inside, done) = (block + 1, 0, done + count);
        }
        buffer
    }
}

/// A row of activations in eight bits, block by block.
struct Rounded {
    values: Vec<i8>,
    scales: Vec<f32>,
    /// `8 · scale · Σ values`: what the weights' zero point adds.
    offsets: Vec<f32>,
}

impl Rounded {
    fn of(x: &[f32]) -> Self {
        let mut rounded = Self {
            values: Vec::with_capacity(x.len()),
            scales: Vec::with_capacity(x.len() / BLOCK),
            offsets: Vec::with_capacity(x.len() / BLOCK),
        };
        for block in x.chunks_exact(BLOCK) {
            let largest = block.iter().fold(0.0, |top: f32, x| top.max(x.abs()));
            let scale = largest / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let from = rounded.values.len();
            rounded.values.extend(block.iter().map(|x| (x * inverse).round() as i8));
            let sum: i32 = rounded.values[from..].iter().map(|value| i32::from(*value)).sum();
            // What is not a number shall not vanish in eight bits.
            let scale = if block.iter().all(|x| x.is_finite()) { scale } else { f32::NAN };
            rounded.scales.push(scale);
            rounded.offsets.push(8.0 * scale * sum as f32);
        }
        rounded
    }
}

/// `y = weights · x` for one row of activations, which are rounded to eight bits block by block.
///
/// # Panics
/// If `x` is shorter than a row of the weights, or `y` has not an element for each row.
pub fn gemv_q4_0(engine: Engine, weights: &Q4_0<'_>, x: &[f32], y: &mut [f32]) {
    assert!(x.len() == weights.k && y.len() == weights.rows());
    let x = Rounded::of(x);
    let to = Shared::new(y);
    (0..weights.rows().div_ceil(ROWS)).into_par_iter().for_each(|task| {
        for row in task * ROWS..((task + 1) * ROWS).min(weights.rows()) {
            // SAFETY: each task has its own rows.
            unsafe { to.part(row, 1)[0] = dot(engine.level(), weights.bytes(row), &x) };
        }
    });
}

fn dot(level: Level, row: &[u8], x: &Rounded) -> f32 {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx2 {
        assert!(x.values.len() >= blocks.len() * BLOCK);
        assert!(x.scales.len() >= blocks.len() && x.offsets.len() >= blocks.len());
        // SAFETY: the level was detected; lengths were checked.
        return unsafe { x86::dot(blocks, x) };
    }
    let _ = level;
    let (values, _) = x.values.as_chunks::<BLOCK>();
    let mut total = 0.0;
    for (block, ((values, scale), offset)) in
        blocks.iter().zip(values.iter().zip(&x.scales).zip(&x.offsets))
    {
        let (low, high) = values.split_at(16);
        let products = block[2..].iter().zip(low.iter().zip(high)).map(|(pair, (low, high))| {
            i32::from(pair & 15) * i32::from(*low) + i32::from(pair >> 4) * i32::from(*high)
        });
        let sum: i32 = products.sum();
        total += scale_of(block) * (scale * sum as f32 - offset);
    }
    total
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, BLOCK_BYTES, Rounded};

    /// Blocks between what is multiplied and what is asked from memory.
    const AHEAD: usize = 96;

    /// Products of one block in eight lanes, times its scales, on top of `sum`; and what the
    /// weights' zero point adds.
    ///
    /// # Safety
    /// `x` has a block `i`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn block(
        block: &[u8; BLOCK_BYTES],
        x: &Rounded,
        i: usize,
        (sum, offset): (__m256, f32),
    ) -> (__m256, f32) {
        // SAFETY: a block has 16 bytes after its scale; the caller promises x.
        unsafe {
            let pairs = _mm_loadu_si128(block.as_ptr().add(2).cast());
            let both = _mm256_set_m128i(_mm_srli_epi16::<4>(pairs), pairs);
            let weights = _mm256_and_si256(both, _mm256_set1_epi8(15));
            let values = _mm256_loadu_si256(x.values.as_ptr().add(i * BLOCK).cast());
            let products = _mm256_maddubs_epi16(weights, values);
            let products = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
            let bits = i32::from(u16::from_le_bytes([block[0], block[1]]));
            let d = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
            let scale = _mm256_set1_ps(d * *x.scales.get_unchecked(i));
            let sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), sum);
            (sum, offset + d * *x.offsets.get_unchecked(i))
        }
    }

    /// Four blocks in turn, so that their sums do not wait for each other.
    ///
    /// # Safety
    /// `x` has as many blocks.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn dot(blocks: &[[u8; BLOCK_BYTES]], x: &Rounded) -> f32 {
        let mut sums = [(_mm256_setzero_ps(), 0.0f32); 4];
        let (fours, rest) = blocks.as_chunks::<4>();
        // SAFETY: the caller promises that x is as long.
        unsafe {
            for (i, four) in fours.iter().enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(four.as_ptr().wrapping_add(AHEAD).cast());
                sums[0] = block(&four[0], x, 4 * i, sums[0]);
                sums[1] = block(&four[1], x, 4 * i + 1, sums[1]);
                sums[2] = block(&four[2], x, 4 * i + 2, sums[2]);
                sums[3] = block(&four[3], x, 4 * i + 3, sums[3]);
            }
            for (i, last) in rest.iter().enumerate() {
                sums[0] = block(last, x, 4 * fours.len() + i, sums[0]);
            }
        }
        let [a, b, c, d] = sums;
        let total = _mm256_add_ps(_mm256_add_ps(a.0, b.0), _mm256_add_ps(c.0, d.0));
        let mut lanes = [0.0; 8];
        // SAFETY: eight lanes.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
        lanes.iter().sum::<f32>() - ((a.1 + b.1) + (c.1 + d.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{Dense, Operand, Output, Size, gemm};
    use crate::level::Precision;
    use crate::testing::{assert_close, numbers};

    /// Rows of random blocks with small scales.
    fn random(rows: usize, k: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers(1, rows * k / BLOCK * BLOCK_BYTES)
            .iter()
            .map(|x| (x * 1000.0).abs() as u32 as u8)
            .collect();
        for (i, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            // Scales from subnormal to 2⁻⁵, both signs.
            block[1] = (i % 41) as u8 | if i % 3 == 0 { 0x80 } else { 0 };
        }
        bytes
    }

    fn plain(data: &[u8], k: usize) -> Vec<f64> {
        let mut weights = Vec::new();
        for block in data.chunks_exact(BLOCK_BYTES) {
            let d = f64::from(f16::from_le_bytes([block[0], block[1]]).to_f32());
            weights.extend((0..BLOCK).map(|i| {
                let pair = block[2 + i % 16];
                d * (f64::from(if i < 16 { pair & 15 } else { pair >> 4 }) - 8.0)
            }));
        }
        assert!(weights.len().is_multiple_of(k));
        weights
    }

    #[test]
    fn one_row_and_many_equal_the_plain_loop() {
        for (rows, k) in [(1, 32), (37, 96), (70, 256)] {
            let (data, x) = (random(rows, k), numbers(2, 5 * k));
            let (weights, wide) = (Q4_0::new(&data, k), plain(&data, k));
            let expected = |row: &[f32]| -> Vec<f64> {
                let dot = |w: &[f64]| w.iter().zip(row).map(|(w, x)| w * f64::from(*x)).sum();
                wide.chunks_exact(k).map(dot).collect()
            };
            for level in Level::available() {
                let engine = Engine::new(level, Precision::F32);
                let mut y = vec![0.0; rows];
                gemv_q4_0(engine, &weights, &x[..k], &mut y);
                // Activations of eight bits are off by up to 1/254 of the largest of a block.
                let what = format!("{level:?} {rows}x{k}");
                assert_close(&y, &expected(&x[..k]), 0.02, &what);
                let mut y = vec![0.0; 5 * rows];
                let size = Size { m: 5, n: rows, k };
                let output = Output { data: &mut y, stride: rows, bias: None, accumulate: false };
                let dense = Dense::new(&x, k);
                let operands = (Operand::rows_along_k(&dense), Operand::rows_along_k(&weights));
                gemm(engine, size, operands.0, operands.1, output);
                let all: Vec<f64> = x.chunks_exact(k).flat_map(expected).collect();
                assert_close(&y, &all, 1e-5, &what);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let (data, mut x) = (random(3, 64), numbers(2, 64));
        x[40] = f32::NAN;
        let mut y = vec![0.0; 3];
        gemv_q4_0(Engine::current(Precision::F32), &Q4_0::new(&data, 64), &x, &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
    }
}
