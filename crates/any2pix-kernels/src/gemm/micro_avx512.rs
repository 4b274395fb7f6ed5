//! AVX-512 micro-kernels: up to 6×64 in f32 and in pairs of bfloat16; packing with conversion.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::kernel::{Call, Micro};

/// Most rows of one product.
pub(crate) const ROWS: usize = 6;
/// Columns of one product.
pub(crate) const COLUMNS: usize = 64;
/// Lanes of a register.
pub(crate) const VECTOR: usize = 16;

/// A cache line is asked for ahead of its use every so many lanes.
const LANES_A_LINE: usize = 8;

macro_rules! tiles {
    ($name:ident, $along:literal, $($rows:literal)*) => {
        [$([$name::<$rows, 1, $along>, $name::<$rows, 2, $along>, $name::<$rows, 3, $along>,
            $name::<$rows, 4, $along>]),*]
    };
}

macro_rules! kernel {
    ($name:ident, $tiles:ident, $features:literal, $step:expr, $doc:literal) => {
        #[doc = $doc]
        ///
        /// # Safety
        /// The pointers of `call` are good for what it says.
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const V: usize, const ALONG: bool>(call: &Call) {
            let mut sums = [[_mm512_setzero_ps(); V]; R];
            let (mut rows, mut columns) = (call.a, call.b);
            // SAFETY: all reads and writes are in the ranges that the caller promises; the mask
            // keeps those of the last register inside the columns that are there.
            unsafe {
                for i in 0..R {
                    for j in 0..V {
                        let to = call.to.add(i * call.stride).wrapping_add(j * VECTOR);
                        _mm_prefetch::<_MM_HINT_T0>(to.cast());
                    }
                }
                // Distances that the compiler knows cost no additions, which would wait for the
                // same ports as the products.
                let (row, lane) = if ALONG { (call.a_row, 1) } else { (1, call.a_lane) };
                let mut step = |rows: *const u32, columns: *const u32| {
                    let b: [__m512i; V] =
                        std::array::from_fn(|j| _mm512_loadu_si512(columns.add(j * VECTOR).cast()));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let a = _mm512_set1_epi32(*rows.add(i * row) as i32);
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum = $step(*sum, a, b);
                        }
                    }
                };
                for line in 0..call.lanes / LANES_A_LINE {
                    for ahead in call.ahead {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line * 64).cast());
                    }
                    for i in 0..LANES_A_LINE {
                        step(rows.add(i * lane), columns.add(i * V * VECTOR));
                    }
                    rows = rows.add(LANES_A_LINE * lane);
                    columns = columns.add(LANES_A_LINE * V * VECTOR);
                }
                for i in 0..call.lanes % LANES_A_LINE {
                    step(rows.add(i * lane), columns.add(i * V * VECTOR));
                }
                let last = mask(call.columns - (V - 1) * VECTOR);
                for (i, sums) in sums.iter().enumerate() {
                    for (j, &sum) in sums.iter().enumerate() {
                        let mask = if j + 1 == V { last } else { u16::MAX };
                        let to = call.to.add(i * call.stride + j * VECTOR);
                        let sum = match call.add {
                            true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum),
                            false => sum,
                        };
                        _mm512_mask_storeu_ps(to, mask, sum);
                    }
                }
            }
        }

        /// The kernel of so many rows and registers along the columns, both less one, for rows of A
        /// that run across k and for those that run along it.
        pub(crate) const $tiles: [[[Micro; 4]; ROWS]; 2] =
    [tiles!($name, false, 1 2 3 4 5 6), tiles!($name, true, 1 2 3 4 5 6)];
    };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn step_f32(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
}

#[inline(always)]
fn lanes_as_pairs(lanes: __m512i) -> __m512bh {
    // SAFETY: both types are 64 plain bytes.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(lanes) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn step_bf16(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    _mm512_dpbf16_ps(sum, lanes_as_pairs(a), lanes_as_pairs(b))
}

kernel!(tile_f32, TILES_F32, "avx512f", step_f32, "`to (+)= A · B` in f32.");
kernel!(
    tile_bf16,
    TILES_BF16,
    "avx512f,avx512bf16",
    step_bf16,
    "`to (+)= A · B`, two bfloat16 a lane."
);

#[inline]
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

/// Rounds `from` to bfloat16, two in a lane; the lanes beyond its end are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn pairs_along(from: &[f32], to: &mut [u32]) {
    let len = from.len();
    for (chunk, lanes) in to.chunks_mut(16).enumerate() {
        let start = (chunk * 32).min(len);
        let left = len - start;
        // SAFETY: masks keep reads inside `from` and writes inside `lanes`.
        unsafe {
            let at = from.as_ptr().add(start);
            let low = _mm512_maskz_loadu_ps(mask(left), at);
            let high = _mm512_maskz_loadu_ps(mask(left.saturating_sub(16)), at.wrapping_add(16));
            let pairs: __m512i =
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_mask_storeu_epi32(lanes.as_mut_ptr().cast(), mask(lanes.len()), pairs);
        }
    }
}

/// Copies a row in pieces of `width` (at most 16), which go `panel` apart.
#[target_feature(enable = "avx512f")]
pub(crate) fn pieces_across(from: &[f32], to: &mut [u32], width: usize, panel: usize) {
    let count = from.len().div_ceil(width.max(1));
    assert!(width <= VECTOR && (count == 0 || to.len() > (count - 1) * panel));
    for i in 0..count {
        let left = (from.len() - i * width).min(width).min(to.len() - i * panel);
        // SAFETY: the mask keeps reads and writes inside both slices.
        unsafe {
            let piece = _mm512_maskz_loadu_ps(mask(left), from.as_ptr().add(i * width));
            _mm512_mask_storeu_ps(to.as_mut_ptr().add(i * panel).cast(), mask(left), piece);
        }
    }
}

/// 0, 16, 1, 17, …: the order that interleaves the halves of a register of words.
const INTERLEAVED: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + 16 * (i % 2)) as u16;
        i += 1;
    }
    order
};

/// Rounds two rows to bfloat16 and interleaves them: lane `i` holds `low[i]`, then `high[i]`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn pairs_across(low: &[f32], high: &[f32], to: &mut [u32]) {
    let count = low.len().min(high.len()).min(to.len());
    // SAFETY: `INTERLEAVED` is 64 bytes; masks keep reads and writes below `count`.
    unsafe {
        let order = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
        for start in (0..count).step_by(16) {
            let mask = mask(count - start);
            let low = _mm512_maskz_loadu_ps(mask, low.as_ptr().add(start));
            let high = _mm512_maskz_loadu_ps(mask, high.as_ptr().add(start));
            let pairs = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            let pairs = _mm512_permutexvar_epi16(order, pairs);
            _mm512_mask_storeu_epi32(to.as_mut_ptr().add(start).cast(), mask, pairs);
        }
    }
}

/// Writes the transpose of a 16×16 block.
///
/// # Safety
/// 16 rows of 16 lanes are there at both strides.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn transpose16(
    from: *const u32,
    from_stride: usize,
    to: *mut u32,
    to_stride: usize,
) {
    // SAFETY: the caller promises the ranges.
    unsafe {
        let mut r = [_mm512_setzero_si512(); 16];
        for (i, row) in r.iter_mut().enumerate() {
            *row = _mm512_loadu_si512(from.add(i * from_stride).cast());
        }
        let mut t = r;
        for i in (0..16).step_by(2) {
            t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        }
        for i in (0..16).step_by(4) {
            r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
            r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
            r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
            r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        for i in 0..4 {
            t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[i + 4]);
            t[i + 4] = _mm512_shuffle_i32x4::<0xdd>(r[i], r[i + 4]);
            t[i + 8] = _mm512_shuffle_i32x4::<0x88>(r[i + 8], r[i + 12]);
            t[i + 12] = _mm512_shuffle_i32x4::<0xdd>(r[i + 8], r[i + 12]);
        }
        for i in 0..8 {
            let low = _mm512_shuffle_i32x4::<0x88>(t[i], t[i + 8]);
            let high = _mm512_shuffle_i32x4::<0xdd>(t[i], t[i + 8]);
            _mm512_storeu_si512(to.add(i * to_stride).cast(), low);
            _mm512_storeu_si512(to.add((i + 8) * to_stride).cast(), high);
        }
    }
}
