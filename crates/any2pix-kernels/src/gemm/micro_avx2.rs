//! AVX2 micro-kernels: up to 6×16 in f32.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::kernel::{Call, Micro};

/// Most rows of one product.
pub(crate) const ROWS: usize = 6;
/// Columns of one product.
pub(crate) const COLUMNS: usize = 16;
/// Numbers in a register.
pub(crate) const VECTOR: usize = 8;

/// The kernel of so many rows and registers along the columns, both less one.
pub(crate) const TILES: [[Micro; 2]; ROWS] = [
    [tile::<1, 1>, tile::<1, 2>],
    [tile::<2, 1>, tile::<2, 2>],
    [tile::<3, 1>, tile::<3, 2>],
    [tile::<4, 1>, tile::<4, 2>],
    [tile::<5, 1>, tile::<5, 2>],
    [tile::<6, 1>, tile::<6, 2>],
];

/// `to (+)= A · B` of `R` rows and `V` registers.
///
/// # Safety
/// The pointers of `call` are good for what it says.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const V: usize>(call: &Call) {
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    let (mut rows, mut columns) = (call.a.cast::<f32>(), call.b.cast::<f32>());
    // SAFETY: all reads and writes are in the ranges that the caller promises.
    unsafe {
        for _ in 0..call.lanes {
            let b: [__m256; V] = std::array::from_fn(|j| _mm256_loadu_ps(columns.add(j * VECTOR)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_set1_ps(*rows.add(i * call.a_row));
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = _mm256_fmadd_ps(a, b, *sum);
                }
            }
            rows = rows.add(call.a_lane);
            columns = columns.add(V * VECTOR);
        }
        if call.columns < V * VECTOR {
            let mut tile = [0f32; ROWS * COLUMNS];
            for (i, sum) in sums.as_flattened().iter().enumerate() {
                _mm256_storeu_ps(tile.as_mut_ptr().add(i * VECTOR), *sum);
            }
            return call.store(&tile, V * VECTOR);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let to = call.to.add(i * call.stride + j * VECTOR);
                let sum = if call.add { _mm256_add_ps(_mm256_loadu_ps(to), *sum) } else { *sum };
                _mm256_storeu_ps(to, sum);
            }
        }
    }
}
