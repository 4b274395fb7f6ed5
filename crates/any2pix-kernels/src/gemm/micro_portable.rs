//! Portable micro-kernel: 4×16 in f32, plain Rust that compilers vectorise.

/// Rows of one product.
pub(crate) const ROWS: usize = 4;
/// Columns of one product.
pub(crate) const COLUMNS: usize = 16;

/// `tile = A · B`; lanes of `a` at `row · a_row + lane · a_lane`, `b` is rows of 16.
pub(crate) fn kernel_f32(
    lanes: usize,
    a: &[u32],
    (a_row, a_lane): (usize, usize),
    b: &[u32],
    tile: &mut [f32],
) {
    let mut sums = [[0f32; COLUMNS]; ROWS];
    for (lane, columns) in b.chunks_exact(COLUMNS).take(lanes).enumerate() {
        for (i, sum) in sums.iter_mut().enumerate() {
            let a = f32::from_bits(a[i * a_row + lane * a_lane]);
            for (sum, &b) in sum.iter_mut().zip(columns) {
                *sum += a * f32::from_bits(b);
            }
        }
    }
    for (to, sum) in tile.chunks_exact_mut(COLUMNS).zip(&sums) {
        to.copy_from_slice(sum);
    }
}
