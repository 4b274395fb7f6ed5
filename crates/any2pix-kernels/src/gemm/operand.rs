//! `Matrix`, `Operand`: what is multiplied, in memory or virtual.

use std::ops::Range;

use super::lying::Lying;

/// A matrix that can show pieces of its rows.
pub trait Matrix: Sync {
    /// `buffer.len()` elements of `row` from `column`: a view if they lie side by side in
    /// memory, otherwise copied into `buffer`.
    fn row<'a>(&'a self, row: usize, column: usize, buffer: &'a mut [f32]) -> &'a [f32];

    /// Shows `buffer.len()` elements from `column` of each of the rows, in order.
    #[inline]
    fn each_row(
        &self,
        rows: Range<usize>,
        column: usize,
        buffer: &mut [f32],
        mut visit: impl FnMut(&[f32]),
    ) where
        Self: Sized,
    {
        for row in rows {
            visit(self.row(row, column, buffer));
        }
    }

    /// Where an element lies, if its row goes on there; null otherwise. Nothing is read from it.
    #[inline]
    fn place(&self, row: usize, column: usize) -> *const f32 {
        let _ = (row, column);
        std::ptr::null()
    }

    /// How its elements lie in memory, if each does; kernels then read them where they are.
    #[inline]
    fn lying(&self) -> Option<Lying<'_>> {
        None
    }

    /// Writes pairs of bfloat16 of `row` from pair `lane` on, zeros beyond its end; false if the
    /// matrix has none at hand.
    #[inline]
    fn pairs(&self, row: usize, lane: usize, to: &mut [u32]) -> bool {
        let _ = (row, lane, to);
        false
    }
}

/// Rows in memory, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Dense<'a> {
    /// The first row starts at the slice's start.
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }
}

impl Matrix for Dense<'_> {
    #[inline]
    fn row<'a>(&'a self, row: usize, column: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let start = row * self.stride + column;
        &self.data[start..start + buffer.len()]
    }

    #[inline]
    fn lying(&self) -> Option<Lying<'_>> {
        Some(Lying::rows(self.data, self.stride))
    }

    #[inline]
    fn place(&self, row: usize, column: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(row * self.stride + column)
    }
}

/// How the rows of an operand lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Orientation {
    RowsAlongK,
    RowsAcrossK,
}

/// A matrix and the role of its rows.
#[derive(Debug)]
pub struct Operand<'a, M> {
    pub(super) matrix: &'a M,
    pub(super) orientation: Orientation,
}

impl<M> Clone for Operand<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Operand<'_, M> {}

impl<'a, M: Matrix> Operand<'a, M> {
    /// Each row is one row of the result (A) or one column (B), running along k.
    pub fn rows_along_k(matrix: &'a M) -> Self {
        Self { matrix, orientation: Orientation::RowsAlongK }
    }

    /// Row `i` holds the i-th element along k of every row (A) or column (B) of the result.
    pub fn rows_across_k(matrix: &'a M) -> Self {
        Self { matrix, orientation: Orientation::RowsAcrossK }
    }

    pub(super) fn is_along(&self) -> bool {
        self.orientation == Orientation::RowsAlongK
    }
}
