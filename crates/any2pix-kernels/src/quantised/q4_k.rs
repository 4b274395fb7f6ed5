//! `Q4_K`: scales and minima of six bits for 32 weights each, in blocks of 256.
//!
//! A block is 256 weights in 144 bytes: two factors d and e in half precision, eight scales s and
//! eight minima m of six bits in 12 bytes, then four times 32 bytes of which the low halves are one
//! part of 32 weights and the high halves the next; a weight is `d · s · q - e · m`.
#![allow(unsafe_code)]

use half::f16;

use super::{each_row, round_to, unpacked};
use crate::gemm::Matrix;
use crate::level::{Engine, Level};

/// Weights of a block.
const BLOCK: usize = 256;
/// Bytes of a block.
const BLOCK_BYTES: usize = 144;
/// Parts of a block, each with a scale and a minimum.
const PARTS: usize = 8;
/// Weights of a part.
const PART: usize = BLOCK / PARTS;
/// Where the weights of a block begin.
const PAIRS: usize = 16;

/// Rows of `k` weights, `k` a multiple of 256.
#[derive(Clone, Copy, Debug)]
pub struct Q4K<'a> {
    data: &'a [u8],
    k: usize,
    row_bytes: usize,
}

impl<'a> Q4K<'a> {
    /// # Panics
    /// If `k` is no multiple of 256, or `data` no whole number of rows.
    pub fn new(data: &'a [u8], k: usize) -> Self {
        let row_bytes = (k / BLOCK * BLOCK_BYTES).max(1);
        assert!(k.is_multiple_of(BLOCK) && data.len().is_multiple_of(row_bytes));
        Self { data, k, row_bytes }
    }

    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.data.len() / self.row_bytes
    }

    fn blocks(&self, row: usize) -> &'a [[u8; BLOCK_BYTES]] {
        self.data[row * self.row_bytes..(row + 1) * self.row_bytes].as_chunks().0
    }
}

/// The two factors of a block.
fn factors(block: &[u8; BLOCK_BYTES]) -> [f32; 2] {
    [0, 2].map(|at| f16::from_le_bytes([block[at], block[at + 1]]).to_f32())
}

/// The eight scales of a block and its eight minima, a byte each. The first four of both are whole
/// in the first eight bytes; the others have four bits in the last four bytes and two bits on top
/// of those.
fn scales_and_minima(block: &[u8; BLOCK_BYTES]) -> [[u8; PARTS]; 2] {
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (first, second, third) = (word(4), word(8), word(12));
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let both = |low: u32, high: u32| {
        let mut bytes = [0; PARTS];
        bytes[..4].copy_from_slice(&low.to_le_bytes());
        bytes[4..].copy_from_slice(&high.to_le_bytes());
        bytes
    };
    let on_top = |word: u32| (word >> 6 & two) << 4;
    [
        both(first & six, third & four | on_top(first)),
        both(second & six, third >> 4 & four | on_top(second)),
    ]
}

impl Matrix for Q4K<'_> {
    fn row<'b>(&'b self, row: usize, column: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let blocks = self.blocks(row);
        unpacked(column, buffer, |block, weights: &mut [f32; BLOCK]| {
            let block = &blocks[block];
            let [d, e] = factors(block);
            let [scales, minima] = scales_and_minima(block);
            for (part, weights) in weights.chunks_exact_mut(PART).enumerate() {
                let (scale, least) = (d * f32::from(scales[part]), e * f32::from(minima[part]));
                let pairs = &block[PAIRS + part / 2 * PART..][..PART];
                for (weight, pair) in weights.iter_mut().zip(pairs) {
                    let q = if part % 2 == 0 { pair & 15 } else { pair >> 4 };
                    *weight = scale * f32::from(q) - least;
                }
            }
        });
        buffer
    }
}

/// A row of activations in eight bits, block by block.
struct Rounded {
    values: Vec<i8>,
    /// One for each block.
    scales: Vec<f32>,
    /// Sums of the values that meet each part.
    sums: Vec<i16>,
}

impl Rounded {
    fn of(level: Level, x: &[f32]) -> Self {
        let mut values = vec![0; x.len()];
        let blocks = x.chunks_exact(BLOCK).zip(values.chunks_exact_mut(BLOCK));
        let scales = blocks.map(|(block, values)| round_to(level, block, values)).collect();
        let sum = |part: &[i8]| part.iter().map(|value| i16::from(*value)).sum();
        let sums = values.chunks_exact(PART).map(sum).collect();
        Self { values, scales, sums }
    }
}

/// `y = weights · x` for one row of activations, which are rounded to eight bits block by block.
///
/// # Panics
/// If `x` is not as long as a row of the weights, or `y` has not an element for each row.
pub fn gemv_q4_k(engine: Engine, weights: &Q4K<'_>, x: &[f32], y: &mut [f32]) {
    assert!(x.len() == weights.k && y.len() == weights.rows());
    let x = Rounded::of(engine.level(), x);
    each_row(y, |row| dot(engine.level(), weights.blocks(row), &x));
}

fn dot(level: Level, row: &[[u8; BLOCK_BYTES]], x: &Rounded) -> f32 {
    assert!(x.values.len() >= row.len() * BLOCK);
    assert!(x.scales.len() >= row.len() && x.sums.len() >= row.len() * PARTS);
    // SAFETY: the level was detected; lengths were checked.
    match level {
        #[cfg(target_arch = "x86_64")]
        _ if level >= Level::Avx512 => unsafe { x86::dot_avx512(row, x) },
        #[cfg(target_arch = "x86_64")]
        _ if level >= Level::Avx2 => unsafe { x86::dot_avx2(row, x) },
        _ => row.iter().enumerate().map(|(i, block)| one(block, x, i)).sum(),
    }
}

/// The product of block `i`.
fn one(block: &[u8; BLOCK_BYTES], x: &Rounded, i: usize) -> f32 {
    let [d, e] = factors(block);
    let [scales, minima] = scales_and_minima(block);
    let (mut sum, mut below) = (0, 0);
    for part in 0..PARTS {
        let pairs = &block[PAIRS + part / 2 * PART..][..PART];
        let values = &x.values[i * BLOCK + part * PART..][..PART];
        let products = pairs.iter().zip(values).map(|(pair, value)| {
            let q = if part % 2 == 0 { pair & 15 } else { pair >> 4 };
            i32::from(q) * i32::from(*value)
        });
        sum += i32::from(scales[part]) * products.sum::<i32>();
        below += i32::from(minima[part]) * i32::from(x.sums[i * PARTS + part]);
    }
    x.scales[i] * (d * sum as f32 - e * below as f32)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::{ask, halved, sum_of};
    use super::{BLOCK, BLOCK_BYTES, PAIRS, PART, PARTS, Rounded, scales_and_minima};

    /// What a block says besides its weights.
    struct Head {
        /// Its scales, 16 bits each.
        scales: __m128i,
        /// The factor of what the scales multiply, that of the activations multiplied in.
        factor: f32,
        /// What its minima take away, on top of what others did.
        below: __m128,
    }

    /// The head of block `i`; also asks memory for the block that is multiplied some time later.
    ///
    /// # Safety
    /// `x` has a block `i`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn head(block: &[u8; BLOCK_BYTES], x: &Rounded, i: usize, below: __m128) -> Head {
        ask(block);
        let [scales, minima] = scales_and_minima(block);
        let wide =
            |bytes: [u8; PARTS]| _mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(bytes)));
        // SAFETY: the caller promises x.
        unsafe {
            // Both factors in the first two lanes.
            let factors = _mm_cvtph_ps(_mm_loadu_si32(block.as_ptr().cast()));
            let factors = _mm_mul_ps(factors, _mm_set1_ps(*x.scales.get_unchecked(i)));
            let sums = _mm_loadu_si128(x.sums.as_ptr().add(i * PARTS).cast());
            let products = _mm_cvtepi32_ps(_mm_madd_epi16(wide(minima), sums));
            let below =
                _mm_fmadd_ps(_mm_shuffle_ps::<0b01_01_01_01>(factors, factors), products, below);
            Head { scales: wide(scales), factor: _mm_cvtss_f32(factors), below }
        }
    }

    /// # Safety
    /// `x` has as many blocks.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn dot_avx2(blocks: &[[u8; BLOCK_BYTES]], x: &Rounded) -> f32 {
        let fifteen = _mm256_set1_epi8(15);
        let (mut sum, mut below) = (_mm256_setzero_ps(), _mm_setzero_ps());
        for (i, block) in blocks.iter().enumerate() {
            let mut products = _mm256_setzero_si256();
            // SAFETY: a block has four times 32 bytes of pairs; the caller promises x.
            unsafe {
                let head = head(block, x, i, below);
                below = head.below;
                let scales = _mm256_broadcastsi128_si256(head.scales);
                for two in 0..PARTS / 2 {
                    let pairs = block.as_ptr().add(PAIRS + two * PART);
                    let pairs = _mm256_loadu_si256(pairs.cast());
                    let low = _mm256_and_si256(pairs, fifteen);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(pairs), fifteen);
                    let values = x.values.as_ptr().add(i * BLOCK + 2 * two * PART);
                    let low = _mm256_maddubs_epi16(low, _mm256_loadu_si256(values.cast()));
                    let values = values.add(PART);
                    let high = _mm256_maddubs_epi16(high, _mm256_loadu_si256(values.cast()));
                    // The bytes of a scale, in every lane.
                    let bytes = |part: usize| _mm256_set1_epi16((part * 0x0202 + 0x0100) as i16);
                    let scale = |part| _mm256_shuffle_epi8(scales, bytes(part));
                    let low = _mm256_madd_epi16(low, scale(2 * two));
                    let high = _mm256_madd_epi16(high, scale(2 * two + 1));
                    products = _mm256_add_epi32(products, _mm256_add_epi32(low, high));
                }
                let factor = _mm256_set1_ps(head.factor);
                sum = _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(products), sum);
            }
        }
        sum_of(sum) - sum_of(_mm256_zextps128_ps256(below))
    }

    /// # Safety
    /// `x` has as many blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn dot_avx512(blocks: &[[u8; BLOCK_BYTES]], x: &Rounded) -> f32 {
        let fifteen = _mm512_set1_epi8(15);
        // A part's scale in half of the lanes, and that of the part after the next in the others.
        let one = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(2));
        let which = |part: i16| _mm512_add_epi16(one, _mm512_set1_epi16(part));
        let which = [[which(0), which(1)], [which(4), which(5)]];
        let (mut sum, mut below) = (_mm512_setzero_ps(), _mm_setzero_ps());
        for (i, block) in blocks.iter().enumerate() {
            let mut products = _mm512_setzero_si512();
            // SAFETY: a block has twice 64 bytes of pairs; the caller promises x.
            unsafe {
                let head = head(block, x, i, below);
                below = head.below;
                let scales = _mm512_castsi128_si512(head.scales);
                for (four, [even, odd]) in which.iter().enumerate() {
                    let pairs = block.as_ptr().add(PAIRS + four * 2 * PART);
                    let pairs = _mm512_loadu_si512(pairs.cast());
                    let low = _mm512_and_si512(pairs, fifteen);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), fifteen);
                    let values = x.values.as_ptr().add(i * BLOCK + four * 4 * PART);
                    let low = _mm512_maddubs_epi16(low, two_parts(values));
                    let high = _mm512_maddubs_epi16(high, two_parts(values.add(PART)));
                    let low = _mm512_madd_epi16(low, _mm512_permutexvar_epi16(*even, scales));
                    let high = _mm512_madd_epi16(high, _mm512_permutexvar_epi16(*odd, scales));
                    products = _mm512_add_epi32(products, _mm512_add_epi32(low, high));
                }
                let factor = _mm512_set1_ps(head.factor);
                sum = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(products), sum);
            }
        }
        sum_of(halved(sum)) - sum_of(_mm256_zextps128_ps256(below))
    }

    /// A part's values, and those of the part after the next.
    ///
    /// # Safety
    /// So many values are there.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn two_parts(values: *const i8) -> __m512i {
        // SAFETY: the caller promises the values.
        unsafe {
            let first = _mm512_castsi256_si512(_mm256_loadu_si256(values.cast()));
            let second = _mm256_loadu_si256(values.add(2 * PART).cast());
            _mm512_inserti64x4::<1>(first, second)
        }
    }
}
