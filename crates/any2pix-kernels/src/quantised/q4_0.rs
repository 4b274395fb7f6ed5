//! `Q4_0`: a scale for 32 weights.
//!
//! A block is 32 weights in 18 bytes: a scale d in half precision, then 16 bytes of which the low
//! halves are weights 0 to 15 and the high halves 16 to 31; a weight is `d · (q - 8)`. Here eight
//! blocks stand together, their scales first, so that both are read many at a time.
#![allow(unsafe_code)]

use half::f16;

use super::{each_row, round_to, unpacked};
use crate::gemm::Matrix;
use crate::level::{Engine, Level};

/// Weights of a block.
const BLOCK: usize = 32;
/// Bytes of a block.
const BLOCK_BYTES: usize = 18;
/// Bytes of a block without its scale.
const PAIRS: usize = 16;
/// Blocks that stand together.
const GROUP: usize = 8;
/// Bytes of so many.
const GROUP_BYTES: usize = GROUP * BLOCK_BYTES;

/// The rows of a GGUF tensor with eight blocks at a time together: first their scales, then their
/// weights. What is left over at the end of a row stands together, too.
///
/// # Panics
/// If `k` is no multiple of 32, or `data` no whole number of rows.
pub fn grouped(data: &[u8], k: usize) -> Vec<u8> {
    let row_bytes = row_bytes(data, k);
    let mut result = Vec::with_capacity(data.len());
    for group in data.chunks_exact(row_bytes).flat_map(|row| row.chunks(GROUP_BYTES)) {
        let blocks = group.as_chunks::<BLOCK_BYTES>().0;
        blocks.iter().for_each(|block| result.extend_from_slice(&block[..2]));
        blocks.iter().for_each(|block| result.extend_from_slice(&block[2..]));
    }
    result
}

fn row_bytes(data: &[u8], k: usize) -> usize {
    let bytes = (k / BLOCK * BLOCK_BYTES).max(1);
    assert!(k.is_multiple_of(BLOCK) && data.len().is_multiple_of(bytes));
    bytes
}

/// Rows of `k` weights, `k` a multiple of 32, as [`grouped`] has them.
#[derive(Clone, Copy, Debug)]
pub struct Q4_0<'a> {
    data: &'a [u8],
    k: usize,
    row_bytes: usize,
}

impl<'a> Q4_0<'a> {
    /// # Panics
    /// If `k` is no multiple of 32, or `data` no whole number of rows.
    pub fn new(data: &'a [u8], k: usize) -> Self {
        Self { data, k, row_bytes: row_bytes(data, k) }
    }

    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.data.len() / self.row_bytes
    }

    fn bytes(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..(row + 1) * self.row_bytes]
    }
}

/// Scale and pairs of a block of a row.
fn block_of(row: &[u8], block: usize) -> (f32, &[u8]) {
    let start = block / GROUP * GROUP_BYTES;
    let group = &row[start..row.len().min(start + GROUP_BYTES)];
    let (scales, pairs) = group.split_at(group.len() / BLOCK_BYTES * 2);
    let inside = block % GROUP;
    let scale = f16::from_le_bytes([scales[2 * inside], scales[2 * inside + 1]]);
    (scale.to_f32(), &pairs[PAIRS * inside..PAIRS * (inside + 1)])
}

impl Matrix for Q4_0<'_> {
    fn row<'b>(&'b self, row: usize, column: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let bytes = self.bytes(row);
        unpacked(column, buffer, |block, weights: &mut [f32; BLOCK]| {
            let (scale, pairs) = block_of(bytes, block);
            for (i, pair) in pairs.iter().enumerate() {
                weights[i] = scale * (f32::from(pair & 15) - 8.0);
                weights[i + PAIRS] = scale * (f32::from(pair >> 4) - 8.0);
            }
        });
        buffer
    }
}

/// A row of activations in eight bits, block by block.
struct Rounded {
    /// Of every four blocks first those that meet low halves, then those that meet high ones; of
    /// the blocks that are left over each by itself.
    values: Vec<i8>,
    scales: Vec<f32>,
    /// `8 · scale · Σ values`: what the weights' zero point adds.
    offsets: Vec<f32>,
}

impl Rounded {
    fn of(level: Level, x: &[f32]) -> Self {
        let (mut scales, mut offsets) = (Vec::new(), Vec::new());
        let mut values = vec![0; x.len()];
        for (block, values) in x.chunks_exact(BLOCK).zip(values.chunks_exact_mut(BLOCK)) {
            let scale = round_to(level, block, values);
            let sum: i32 = values.iter().map(|value| i32::from(*value)).sum();
            scales.push(scale);
            offsets.push(8.0 * scale * sum as f32);
        }
        let whole = values.len() / (GROUP * BLOCK) * GROUP * BLOCK;
        for four in values[..whole].chunks_exact_mut(4 * BLOCK) {
            let natural = four.to_vec();
            let halves = natural.chunks_exact(PAIRS);
            let ordered = halves.clone().step_by(2).chain(halves.skip(1).step_by(2));
            four.chunks_exact_mut(PAIRS)
                .zip(ordered)
                .for_each(|(to, from)| to.copy_from_slice(from));
        }
        Self { values, scales, offsets }
    }
}

/// `y = weights · x` for one row of activations, which are rounded to eight bits block by block.
///
/// # Panics
/// If `x` is not as long as a row of the weights, or `y` has not an element for each row.
pub fn gemv_q4_0(engine: Engine, weights: &Q4_0<'_>, x: &[f32], y: &mut [f32]) {
    assert!(x.len() == weights.k && y.len() == weights.rows());
    let x = Rounded::of(engine.level(), x);
    each_row(y, |row| dot(engine.level(), weights.bytes(row), &x));
}

fn dot(level: Level, row: &[u8], x: &Rounded) -> f32 {
    let groups = row.as_chunks::<GROUP_BYTES>().0;
    let blocks = groups.len() * GROUP;
    assert!(x.values.len() >= row.len() / BLOCK_BYTES * BLOCK);
    assert!(x.scales.len() >= row.len() / BLOCK_BYTES && x.offsets.len() == x.scales.len());
    // SAFETY: the level was detected; lengths were checked.
    let whole = match level {
        #[cfg(target_arch = "x86_64")]
        _ if level >= Level::Avx512 => unsafe { x86::dot_avx512(groups, x) },
        #[cfg(target_arch = "x86_64")]
        _ if level >= Level::Avx2 => unsafe { x86::dot_avx2(groups, x) },
        _ => (0..blocks).map(|block| one(row, x, block, place_in_group)).sum(),
    };
    let rest = blocks..row.len() / BLOCK_BYTES;
    whole + rest.map(|block| one(row, x, block, place_alone)).sum::<f32>()
}

/// Where the activations are that meet the low halves of a block, and those that meet the high ones.
fn place_in_group(block: usize) -> [usize; 2] {
    let low = block / 4 * 4 * BLOCK + block % 4 * PAIRS;
    [low, low + 4 * PAIRS]
}

fn place_alone(block: usize) -> [usize; 2] {
    [block * BLOCK, block * BLOCK + PAIRS]
}

/// The product of one block.
fn one(row: &[u8], x: &Rounded, block: usize, place: fn(usize) -> [usize; 2]) -> f32 {
    let (scale, pairs) = block_of(row, block);
    let [low, high] = place(block).map(|from| &x.values[from..from + PAIRS]);
    let products = pairs.iter().zip(low.iter().zip(high)).map(|(pair, (low, high))| {
        i32::from(pair & 15) * i32::from(*low) + i32::from(pair >> 4) * i32::from(*high)
    });
    let sum: i32 = products.sum();
    scale * (x.scales[block] * sum as f32 - x.offsets[block])
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::{ask, halved, sum_of};
    use super::{BLOCK, GROUP, GROUP_BYTES, Rounded};

    /// The scales of group `i`, those of the activations multiplied in; and what the weights' zero
    /// point adds, on top of `offset`.
    ///
    /// # Safety
    /// `x` has a group `i`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(
        group: &[u8; GROUP_BYTES],
        x: &Rounded,
        i: usize,
        offset: __m256,
    ) -> (__m256, __m256) {
        // SAFETY: a group begins with its eight scales; the caller promises x.
        unsafe {
            let own = _mm256_cvtph_ps(_mm_loadu_si128(group.as_ptr().cast()));
            let scales = _mm256_loadu_ps(x.scales.as_ptr().add(i * GROUP));
            let offsets = _mm256_loadu_ps(x.offsets.as_ptr().add(i * GROUP));
            (_mm256_mul_ps(own, scales), _mm256_fmadd_ps(own, offsets, offset))
        }
    }

    /// # Safety
    /// `x` has as many groups.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn dot_avx2(groups: &[[u8; GROUP_BYTES]], x: &Rounded) -> f32 {
        let (ones, fifteen) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
        let pair = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
        let (mut sums, mut offset) = ([_mm256_setzero_ps(); 4], _mm256_setzero_ps());
        for (i, group) in groups.iter().enumerate() {
            ask(group);
            // SAFETY: pairs of 32 bytes after 16 of scales; the caller promises x.
            unsafe {
                let (scales, below) = scales(group, x, i, offset);
                offset = below;
                for (two, sum) in sums.iter_mut().enumerate() {
                    let pairs = group.as_ptr().add(2 * GROUP + two * BLOCK);
                    let pairs = _mm256_loadu_si256(pairs.cast());
                    let values = i * GROUP * BLOCK + two / 2 * 4 * BLOCK + two % 2 * BLOCK;
                    let values = x.values.as_ptr().add(values);
                    let low = _mm256_and_si256(pairs, fifteen);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(pairs), fifteen);
                    let low = _mm256_maddubs_epi16(low, _mm256_loadu_si256(values.cast()));
                    let values = values.add(2 * BLOCK);
                    let high = _mm256_maddubs_epi16(high, _mm256_loadu_si256(values.cast()));
                    let products = _mm256_madd_epi16(_mm256_add_epi16(low, high), ones);
                    let which = _mm256_add_epi32(pair, _mm256_set1_epi32(2 * two as i32));
                    let scale = _mm256_permutevar8x32_ps(scales, which);
                    *sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), *sum);
                }
            }
        }
        let [a, b, c, d] = sums;
        sum_of(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d))) - sum_of(offset)
    }

    /// # Safety
    /// `x` has as many groups.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn dot_avx512(groups: &[[u8; GROUP_BYTES]], x: &Rounded) -> f32 {
        let (ones, fifteen) = (_mm512_set1_epi16(1), _mm512_set1_epi8(15));
        let first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        let fours = [first, _mm512_add_epi32(first, _mm512_set1_epi32(4))];
        let (mut sums, mut offset) = ([_mm512_setzero_ps(); 2], _mm256_setzero_ps());
        for (i, group) in groups.iter().enumerate() {
            ask(group);
            // SAFETY: pairs of 64 bytes after 16 of scales; the caller promises x.
            unsafe {
                let (scales, below) = scales(group, x, i, offset);
                offset = below;
                for (four, (which, sum)) in fours.iter().zip(&mut sums).enumerate() {
                    let pairs = group.as_ptr().add(2 * GROUP + four * 2 * BLOCK);
                    let pairs = _mm512_loadu_si512(pairs.cast());
                    let values = x.values.as_ptr().add((i * GROUP + four * 4) * BLOCK);
                    let low = _mm512_and_si512(pairs, fifteen);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), fifteen);
                    let low = _mm512_maddubs_epi16(low, _mm512_loadu_si512(values.cast()));
                    let values = values.add(2 * BLOCK);
                    let high = _mm512_maddubs_epi16(high, _mm512_loadu_si512(values.cast()));
                    let products = _mm512_madd_epi16(_mm512_add_epi16(low, high), ones);
                    let scales = _mm512_castps256_ps512(scales);
                    let scale = _mm512_permutexvar_ps(*which, scales);
                    *sum = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(products), *sum);
                }
            }
        }
        sum_of(halved(_mm512_add_ps(sums[0], sums[1]))) - sum_of(offset)
    }
}
