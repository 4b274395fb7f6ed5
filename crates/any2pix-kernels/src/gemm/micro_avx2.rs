//! AVX2 micro-kernel: 6×16 in f32.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// Rows of one product.
pub(crate) const ROWS: usize = 6;
/// Columns of one product.
pub(crate) const COLUMNS: usize = 16;

/// `tile = A · B` in f32.
///
/// # Safety
/// `a` holds lanes at `row · a_row + lane · a_lane`, `b` holds `lanes` rows of 16, `tile` has
/// room for 6×16.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn kernel_f32(
    lanes: usize,
    a: *const u32,
    a_row: usize,
    a_lane: usize,
    b: *const u32,
    tile: *mut f32,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    let (mut rows, mut columns) = (a.cast::<f32>(), b.cast::<f32>());
    // SAFETY: all reads and writes are in the ranges that the caller promises.
    unsafe {
        for _ in 0..lanes {
            let b0 = _mm256_loadu_ps(columns);
            let b1 = _mm256_loadu_ps(columns.add(8));
            for (i, sum) in sums.iter_mut().enumerate() {
                let a = _mm256_set1_ps(*rows.add(i * a_row));
                sum[0] = _mm256_fmadd_ps(a, b0, sum[0]);
                sum[1] = _mm256_fmadd_ps(a, b1, sum[1]);
            }
            rows = rows.add(a_lane);
            columns = columns.add(COLUMNS);
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(tile.add(i * COLUMNS), sum[0]);
            _mm256_storeu_ps(tile.add(i * COLUMNS + 8), sum[1]);
        }
    }
}
