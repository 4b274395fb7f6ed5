//! Portable micro-kernel: up to 4×16 in f32, plain Rust that compilers vectorise.
#![allow(unsafe_code)]

use super::kernel::Call;

/// Most rows of one product.
pub(crate) const ROWS: usize = 4;
/// Columns of one product.
pub(crate) const COLUMNS: usize = 16;

/// `to (+)= A · B`.
///
/// # Safety
/// The pointers of `call` are good for what it says.
pub(crate) unsafe fn tile(call: &Call) {
    let mut sums = [[0f32; COLUMNS]; ROWS];
    // SAFETY: the caller's promise; sums never go beyond the rows and columns that are there.
    unsafe {
        for lane in 0..call.lanes {
            let columns = &*call.b.add(lane * COLUMNS).cast::<[f32; COLUMNS]>();
            for (i, sum) in sums.iter_mut().enumerate().take(call.rows) {
                let a = f32::from_bits(*call.a.add(i * call.a_row + lane * call.a_lane));
                for (sum, b) in sum.iter_mut().zip(columns) {
                    *sum += a * b;
                }
            }
        }
        call.store(sums.as_flattened(), COLUMNS);
    }
}
