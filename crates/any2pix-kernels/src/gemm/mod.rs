//! General matrix product over views, dense or virtual, in f32 or rounded to bfloat16.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod micro_avx2;
#[cfg(target_arch = "x86_64")]
mod micro_avx512;
mod micro_portable;
mod pack;

use std::ops::Range;

use rayon::prelude::*;

use crate::level::{Engine, vectorised};
use crate::math::sum2;
use crate::scratch::{Lanes, Shared, thread_scratch};
use kernel::{Kernel, MAX_TILE};
use pack::{APanels, Block, Rows, pack_a, pack_b};

/// Lanes along k that are multiplied before the sums go back to memory.
const BLOCK_LANES: usize = 256;
/// Rows of A (columns of B) that a task packs at once.
const TASK_SIDE: usize = 128;
/// Products smaller than this run on the calling thread.
const PARALLEL_FROM: usize = 1 << 18;

/// Up to this many rows, packing B would cost more than it saves (decoding, embeddings).
const FEW_ROWS: usize = 3;

/// A matrix that can show pieces of its rows.
pub trait Matrix: Sync {
    /// `buffer.len()` elements of `row` from `column`: a view if they lie side by side in
    /// memory, otherwise copied into `buffer`.
    fn row<'a>(&'a self, row: usize, column: usize, buffer: &'a mut [f32]) -> &'a [f32];

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
}

/// How the rows of an operand lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Orientation {
    RowsAlongK,
    RowsAcrossK,
}

/// A matrix and the role of its rows.
#[derive(Debug)]
pub struct Operand<'a, M> {
    matrix: &'a M,
    orientation: Orientation,
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

    fn is_along(&self) -> bool {
        self.orientation == Orientation::RowsAlongK
    }

    /// Row `i` holds the i-th element along k of every row (A) or column (B) of the result.
    pub fn rows_across_k(matrix: &'a M) -> Self {
        Self { matrix, orientation: Orientation::RowsAcrossK }
    }
}

/// `m` rows, `n` columns, `k` products a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Products summed for each element.
    pub k: usize,
}

/// Where the result goes.
#[derive(Debug)]
pub struct Output<'a> {
    /// Rows of the result, `stride` apart.
    pub data: &'a mut [f32],
    /// Distance of rows.
    pub stride: usize,
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Adds to what is there instead of replacing it.
    pub accumulate: bool,
}

#[derive(Default)]
struct Workspace {
    a: Lanes,
    b: Lanes,
    rows: Rows,
}

thread_scratch!(with_workspace, Workspace);

/// Everything that the tasks of one product share.
struct Plan<'a, A, B> {
    kernel: Kernel,
    size: Size,
    a: Operand<'a, A>,
    b: Operand<'a, B>,
    /// Lanes along k, padded to the kernel's multiple.
    lanes: usize,
    block_lanes: usize,
    a_panels: APanels,
    b_panel: usize,
    output: Shared<f32>,
    stride: usize,
    bias: Option<&'a [f32]>,
    accumulate: bool,
}

/// `output (+)= A · B (+ bias)`.
///
/// # Panics
/// If an operand or the output is smaller than `size` says.
pub fn gemm<A: Matrix, B: Matrix>(
    engine: Engine,
    size: Size,
    a: Operand<'_, A>,
    b: Operand<'_, B>,
    output: Output<'_>,
) {
    let parallel = size.m * size.n * size.k >= PARALLEL_FROM && rayon::current_num_threads() > 1;
    start(engine, size, (a, b), output, parallel);
}

/// [`gemm`] on the calling thread alone.
pub(crate) fn gemm_here<A: Matrix, B: Matrix>(
    engine: Engine,
    size: Size,
    a: Operand<'_, A>,
    b: Operand<'_, B>,
    output: Output<'_>,
) {
    start(engine, size, (a, b), output, false);
}

fn start<A: Matrix, B: Matrix>(
    engine: Engine,
    size: Size,
    (a, b): (Operand<'_, A>, Operand<'_, B>),
    output: Output<'_>,
    parallel: bool,
) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    assert!(output.stride >= n && output.data.len() >= (m - 1) * output.stride + n);
    assert!(output.bias.is_none_or(|bias| bias.len() >= n));
    if k == 0 {
        return without_products(size, output);
    }
    if m <= FEW_ROWS && a.is_along() && b.is_along() {
        return few_rows(engine, size, (a.matrix, b.matrix), output, parallel);
    }
    let kernel = Kernel::of(engine);
    let lanes = k.div_ceil(kernel.depth()).next_multiple_of(kernel.lane_multiple());
    let block_lanes = lanes.min(BLOCK_LANES);
    let plan = Plan {
        kernel,
        size,
        a,
        b,
        lanes,
        block_lanes,
        a_panels: APanels::new(kernel, a.orientation, block_lanes),
        b_panel: (block_lanes * kernel.columns()).next_multiple_of(16),
        output: Shared::new(output.data),
        stride: output.stride,
        bias: output.bias,
        accumulate: output.accumulate,
    };
    plan.execute(parallel);
}

fn without_products(size: Size, output: Output<'_>) {
    for row in output.data.chunks_mut(output.stride).take(size.m) {
        let row = &mut row[..size.n];
        if !output.accumulate {
            row.fill(0.0);
        }
        for (value, bias) in row.iter_mut().zip(output.bias.unwrap_or_default()) {
            *value += bias;
        }
    }
}

/// A product of few rows: dot products with the rows of B where they lie.
fn few_rows<A: Matrix, B: Matrix>(
    engine: Engine,
    Size { m, n, k }: Size,
    (a, b): (&A, &B),
    output: Output<'_>,
    parallel: bool,
) {
    let (mut a_rows, mut buffer) = (vec![0.0; m * k], vec![0.0; k]);
    for (i, row) in a_rows.chunks_exact_mut(k).enumerate() {
        row.copy_from_slice(a.row(i, 0, &mut buffer));
    }
    let (to, stride, accumulate) = (Shared::new(output.data), output.stride, output.accumulate);
    let columns = (PARALLEL_FROM / 8 / k).clamp(8, n.max(8));
    for_each(parallel, n.div_ceil(columns), |task| {
        let mut buffer = vec![0.0; k];
        for j in task * columns..((task + 1) * columns).min(n) {
            let b_row = b.row(j, 0, &mut buffer);
            for (i, a_row) in a_rows.chunks_exact(k).enumerate() {
                let sum = dot(engine.level(), a_row, b_row);
                let sum = output.bias.map_or(sum, |bias| sum + bias[j]);
                // SAFETY: each task has its own columns.
                let to = unsafe { to.part(i * stride + j, 1) };
                to[0] = if accumulate { to[0] + sum } else { sum };
            }
        }
    });
}

vectorised! {
    fn dot(level: Level, a: &[f32], b: &[f32]) -> f32 {
        sum2(a, b, |a, b| a * b)
    }
}

/// Runs `work` for each index below `count`.
fn for_each(parallel: bool, count: usize, work: impl Fn(usize) + Sync + Send) {
    if parallel && count > 1 {
        (0..count).into_par_iter().with_max_len(1).for_each(work);
    } else {
        (0..count).for_each(work);
    }
}

/// All of `x` as pairs of bfloat16, if the engine multiplies those.
pub(crate) fn rounded_pairs(engine: Engine, x: &[f32]) -> Option<Vec<u32>> {
    const CHUNK: usize = 1 << 13;
    let kernel = Kernel::of(engine);
    if kernel.depth() != 2 {
        return None;
    }
    let mut pairs = vec![0; x.len().div_ceil(2)];
    pairs
        .par_chunks_mut(CHUNK)
        .zip(x.par_chunks(2 * CHUNK))
        .for_each(|(to, from)| kernel.along(from, to));
    Some(pairs)
}

/// Cuts `len` into pieces of at most `most`, multiples of `unit`, at least `wanted` if possible.
fn pieces(len: usize, unit: usize, most: usize, wanted: usize) -> (usize, usize) {
    let piece = len.div_ceil(wanted.max(1)).next_multiple_of(unit);
    let piece = piece.min((most / unit).max(1) * unit);
    (piece, len.div_ceil(piece))
}

impl<A: Matrix, B: Matrix> Plan<'_, A, B> {
    /// The operand with fewer elements is packed once, for all tasks; tasks divide the other.
    fn execute(&self, parallel: bool) {
        let Size { m, n, .. } = self.size;
        let (rows, columns) = (self.kernel.rows(), self.kernel.columns());
        let wanted = if parallel { 4 * rayon::current_num_threads() } else { 1 };
        let whole_b = n <= m;
        with_workspace(|workspace| {
            if whole_b {
                let shared = self.pack_whole_b(parallel, &mut workspace.b, &mut workspace.rows);
                let (height, count) = pieces(m, rows, TASK_SIDE, wanted);
                let (width, across) = pieces(n, columns, n, wanted.div_ceil(count));
                for_each(parallel, count * across, |task| {
                    let (i, j) = (task / across * height, task % across * width);
                    self.with_packed_b(i..(i + height).min(m), j..(j + width).min(n), shared);
                });
            } else {
                let shared = self.pack_whole_a(parallel, &mut workspace.a, &mut workspace.rows);
                let (width, count) = pieces(n, columns, TASK_SIDE, wanted);
                let (height, down) = pieces(m, rows, m, wanted.div_ceil(count));
                for_each(parallel, count * down, |task| {
                    let (i, j) = (task % down * height, task / down * width);
                    self.with_packed_a(i..(i + height).min(m), j..(j + width).min(n), shared);
                });
            }
        });
    }

    fn block(&self, range: &Range<usize>, lane: usize) -> Block {
        let lanes = (self.lanes - lane).min(self.block_lanes);
        Block { start: range.start, end: range.end, lane, lanes, k: self.size.k }
    }

    /// Layout: block along k, then panel.
    fn pack_whole_b<'b>(&self, parallel: bool, to: &'b mut Lanes, rows: &mut Rows) -> &'b [u32] {
        let (n, columns) = (self.size.n, self.kernel.columns());
        let panels = n.div_ceil(columns);
        let blocks = self.lanes.div_ceil(self.block_lanes);
        let to = to.sized(blocks * panels * self.b_panel);
        let part = Shared::new(&mut *to);
        let pack = |block: usize, first: usize, last: usize, rows: &mut Rows| {
            let range = first * columns..(last * columns).min(n);
            let at = (block * panels + first) * self.b_panel;
            // SAFETY: each call has its own panels.
            let to = unsafe { part.part(at, (last - first) * self.b_panel) };
            let block = self.block(&range, block * self.block_lanes);
            pack_b(self.kernel, self.b, block, self.b_panel, rows, to);
        };
        if parallel && n * self.size.k >= PARALLEL_FROM / 8 {
            let (piece, count) = pieces(panels, 1, 8, 8);
            for_each(true, blocks * count, |task| {
                let first = task % count * piece;
                let last = (first + piece).min(panels);
                with_workspace(|space| pack(task / count, first, last, &mut space.rows));
            });
        } else {
            (0..blocks).for_each(|block| pack(block, 0, panels, rows));
        }
        to
    }

    /// Layout: block along k, then panel.
    fn pack_whole_a<'b>(&self, parallel: bool, to: &'b mut Lanes, rows: &mut Rows) -> &'b [u32] {
        let (m, height) = (self.size.m, self.kernel.rows());
        let panels = m.div_ceil(height);
        let blocks = self.lanes.div_ceil(self.block_lanes);
        let to = to.sized(blocks * panels * self.a_panels.size);
        let part = Shared::new(&mut *to);
        let pack = |block: usize, first: usize, last: usize, rows: &mut Rows| {
            let range = first * height..(last * height).min(m);
            let at = (block * panels + first) * self.a_panels.size;
            // SAFETY: each call has its own panels.
            let to = unsafe { part.part(at, (last - first) * self.a_panels.size) };
            let block = self.block(&range, block * self.block_lanes);
            pack_a(self.kernel, self.a, block, self.a_panels, rows, to);
        };
        if parallel && m * self.size.k >= PARALLEL_FROM / 8 {
            let (piece, count) = pieces(panels, 1, 8, 8);
            for_each(true, blocks * count, |task| {
                let first = task % count * piece;
                let last = (first + piece).min(panels);
                with_workspace(|space| pack(task / count, first, last, &mut space.rows));
            });
        } else {
            (0..blocks).for_each(|block| pack(block, 0, panels, rows));
        }
        to
    }

    /// One task: packs its rows of A block by block, meets the packed B.
    fn with_packed_b(&self, rows: Range<usize>, columns: Range<usize>, b: &[u32]) {
        let _prepared = self.kernel.prepare();
        let panels = self.size.n.div_ceil(self.kernel.columns());
        with_workspace(|space| {
            let count = rows.len().div_ceil(self.kernel.rows());
            let a = space.a.sized(count * self.a_panels.size);
            for (index, lane) in (0..self.lanes).step_by(self.block_lanes).enumerate() {
                let block = self.block(&rows, lane);
                pack_a(self.kernel, self.a, block, self.a_panels, &mut space.rows, a);
                let b = &b[index * panels * self.b_panel..];
                let b = &b[columns.start / self.kernel.columns() * self.b_panel..];
                self.multiply(lane, &rows, &columns, (a, b));
            }
        });
    }

    /// One task: packs its columns of B block by block, meets the packed A.
    fn with_packed_a(&self, rows: Range<usize>, columns: Range<usize>, a: &[u32]) {
        let _prepared = self.kernel.prepare();
        let panels = self.size.m.div_ceil(self.kernel.rows());
        with_workspace(|space| {
            let count = columns.len().div_ceil(self.kernel.columns());
            let b = space.b.sized(count * self.b_panel);
            for (index, lane) in (0..self.lanes).step_by(self.block_lanes).enumerate() {
                let block = self.block(&columns, lane);
                pack_b(self.kernel, self.b, block, self.b_panel, &mut space.rows, b);
                let a = &a[index * panels * self.a_panels.size..];
                let a = &a[rows.start / self.kernel.rows() * self.a_panels.size..];
                self.multiply(lane, &rows, &columns, (a, b));
            }
        });
    }

    /// Multiplies the panels of one block along k and merges the tiles into the result.
    fn multiply(
        &self,
        lane: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        (a, b): (&[u32], &[u32]),
    ) {
        let (height, width) = (self.kernel.rows(), self.kernel.columns());
        let lanes = (self.lanes - lane).min(self.block_lanes);
        let strides = (self.a_panels.row, self.a_panels.lane);
        let accumulate = self.accumulate || lane > 0;
        let mut tile = Tile([0.0; MAX_TILE]);
        for (j, b) in columns.clone().step_by(width).zip(b.chunks_exact(self.b_panel)) {
            let wide = (columns.end - j).min(width);
            let bias = self.bias.filter(|_| lane == 0).map(|bias| &bias[j..j + wide]);
            for (i, a) in rows.clone().step_by(height).zip(a.chunks_exact(self.a_panels.size)) {
                let place = Place {
                    output: self.output,
                    at: i * self.stride + j,
                    stride: self.stride,
                    rows: (rows.end - i).min(height),
                    columns: wide,
                };
                if self.kernel.sums_in_place() && place.rows == height && wide == width {
                    self.sum_in_place(lanes, (a, strides.0), b, (bias, accumulate), place);
                    continue;
                }
                self.kernel.run(lanes, a, strides, b, &mut tile.0);
                merge(self.kernel.level(), &tile.0, width, bias, accumulate, place);
            }
        }
    }
}

impl<A, B> Plan<'_, A, B> {
    /// A full tile, summed where it goes.
    #[inline]
    fn sum_in_place(
        &self,
        lanes: usize,
        a: (&[u32], usize),
        b: &[u32],
        (bias, mut accumulate): (Option<&[f32]>, bool),
        place: Place,
    ) {
        if let Some(bias) = bias {
            spread(self.kernel.level(), bias, accumulate, place);
            accumulate = true;
        }
        let span = (place.rows - 1) * place.stride + place.columns;
        // SAFETY: each task has its own places, of which there are enough for a tile.
        unsafe {
            let to = place.output.pointer(place.at, span);
            self.kernel.run_in_place(lanes, a, b, (to, place.stride), accumulate);
        }
    }
}

vectorised! {
    /// Starts the sums of a tile with the bias.
    fn spread(level: Level, bias: &[f32], accumulate: bool, place: Place) {
        for row in 0..place.rows {
            // SAFETY: each task has its own places.
            let to = unsafe { place.output.part(place.at + row * place.stride, place.columns) };
            if accumulate {
                to.iter_mut().zip(bias).for_each(|(to, bias)| *to += bias);
            } else {
                to.copy_from_slice(bias);
            }
        }
    }
}

/// Where a tile goes: rows and columns that no other task touches.
#[derive(Clone, Copy)]
struct Place {
    output: Shared<f32>,
    at: usize,
    stride: usize,
    rows: usize,
    columns: usize,
}

#[repr(align(64))]
struct Tile([f32; MAX_TILE]);

vectorised! {
    fn merge(
        level: Level, tile: &[f32; MAX_TILE], width: usize, bias: Option<&[f32]>,
        accumulate: bool, place: Place,
    ) {
        for (row, sums) in tile.chunks_exact(width).take(place.rows).enumerate() {
            // SAFETY: each task has its own places.
            let to = unsafe { place.output.part(place.at + row * place.stride, place.columns) };
            if accumulate {
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
            } else {
                to.copy_from_slice(&sums[..place.columns]);
            }
            if let Some(bias) = bias {
                to.iter_mut().zip(bias).for_each(|(to, bias)| *to += bias);
            }
        }
    }
}

#[cfg(test)]
mod tests;
