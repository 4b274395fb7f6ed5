//! One product as tasks: each owns a tile of the result that stays in the second cache while k
//! runs by in blocks.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;

use super::Size;
use super::kernel::{Call, Kernel};
use super::lying::{Lying, Run, Strip};
use super::operand::{Matrix, Operand};
use super::pack::{APanels, BPanels, Block, Rows, pack_a, pack_b};
use super::packed::widen;
use crate::level::vectorised;
use crate::scratch::{Lanes, Shared, thread_scratch};

/// Rows of a task where there are enough of them.
const ROWS: usize = 264;
/// Columns of a task where there are enough of them.
const COLUMNS: usize = 320;
/// Rows of a task that packs its part of B itself: as many as keep the tile in the cache, since
/// every row of tasks packs all of B.
pub(super) const ROWS_PACKING: usize = 384;
/// Columns of such a task.
const COLUMNS_PACKING: usize = 320;
/// Blocks along k for which A is packed at once: longer pieces of its rows come faster.
const BLOCKS_OF_A: usize = 4;
/// Tasks a thread, so that threads end together.
const TASKS: usize = 4;

/// Rows of the result that are further apart than this fall into few sets of the caches; their
/// sums are kept side by side until they are done.
const FAR_APART: usize = 1024;

#[derive(Default)]
struct Workspace {
    a: Lanes,
    b: Lanes,
    rows: Rows,
    sums: Vec<f32>,
}

thread_scratch!(with_workspace, Workspace);

/// The right operand of a product.
pub(super) enum Right<'a, B> {
    /// Panels of all its columns.
    Packed(&'a [u32]),
    /// The same, rounded to bfloat16.
    Halves(&'a [u16]),
    /// Not packed yet: each task packs the panels that it needs.
    Loose(Operand<'a, B>),
}

/// The left operand of a block along k.
enum Left<'a> {
    /// Panels of its rows.
    Packed(&'a [u32], APanels),
    /// Where it lies, its rows along k, in strips of as many rows as the kernel takes at most.
    Along(Lying<'a>, Vec<Strip>),
    /// Where it lies, its rows across k.
    Across(Lying<'a>, Range<usize>),
}

/// Some rows and lanes of a block of A.
struct Part {
    /// Lanes at `row · a_row + lane · a_lane`.
    a: *const u32,
    a_row: usize,
    a_lane: usize,
    /// The first row, counted from the task's.
    row: usize,
    rows: usize,
    /// The first lane, counted from the block's.
    lane: usize,
    lanes: usize,
}

/// Everything that the tasks of one product share.
pub(super) struct Plan<'a, A, B> {
    pub(super) kernel: Kernel,
    pub(super) size: Size,
    pub(super) a: Operand<'a, A>,
    pub(super) b: Right<'a, B>,
    /// Lanes along k, padded to the kernel's multiple.
    pub(super) lanes: usize,
    pub(super) block_lanes: usize,
    pub(super) layout: BPanels,
    pub(super) output: Shared<f32>,
    pub(super) stride: usize,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) accumulate: bool,
}

/// One side of the result, cut into pieces that are as equal as multiples of `unit` can be.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    len: usize,
    unit: usize,
    count: usize,
}

impl Cut {
    /// Pieces of at most `most`, and enough of them, with `beside` pieces of the other side, for all
    /// threads if pieces of `least` allow it.
    pub(crate) fn new(
        (len, unit): (usize, usize),
        (least, most): (usize, usize),
        beside: usize,
        threads: usize,
    ) -> Self {
        let wanted = if threads > 1 { TASKS * threads } else { 1 };
        let allowed = len.div_ceil(least.max(unit));
        let count = len.div_ceil(most).max(wanted.div_ceil(beside).min(allowed)).max(1);
        // As many tasks for each thread: one too many is a long wait where there are few.
        let even =
            (count..=allowed).take(threads).find(|count| (count * beside).is_multiple_of(threads));
        Self::into((len, unit), even.unwrap_or(count))
    }

    /// So many pieces.
    pub(crate) fn into((len, unit): (usize, usize), count: usize) -> Self {
        Self { len, unit, count }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn piece(&self, index: usize) -> Range<usize> {
        let units = self.len.div_ceil(self.unit);
        let start = |index: usize| (index * units / self.count * self.unit).min(self.len);
        start(index)..start(index + 1)
    }
}

/// Cuts rows into pieces of at most `most`, as equal as can be.
pub(crate) fn pieces(rows: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (mut start, end) = (rows.start, rows.end);
    std::iter::from_fn(move || {
        let left = end.checked_sub(start).filter(|left| *left > 0)?;
        let piece = start..start + left.div_ceil(left.div_ceil(most));
        start = piece.end;
        Some(piece)
    })
}

/// Runs `work` for each index below `count`.
pub(crate) fn for_each(parallel: bool, count: usize, work: impl Fn(usize) + Sync + Send) {
    if parallel && count > 1 {
        (0..count).into_par_iter().with_max_len(1).for_each(work);
    } else {
        (0..count).for_each(work);
    }
}

impl<A: Matrix, B: Matrix> Plan<'_, A, B> {
    /// Divides the result among tasks and runs them.
    pub(super) fn execute(&self, parallel: bool) {
        let threads = if parallel { rayon::current_num_threads() } else { 1 };
        let (m, n) = ((self.size.m, self.kernel.rows()), (self.size.n, self.kernel.columns()));
        let (most_rows, most_columns) = match self.b {
            Right::Packed(_) | Right::Halves(_) => (ROWS, COLUMNS),
            // One panel, so that threads end together, if that does not mean to pack A for each.
            Right::Loose(_) if self.lying_a().is_some() => (ROWS_PACKING, n.1),
            Right::Loose(_) => (ROWS_PACKING, COLUMNS_PACKING),
        };
        let fewest = n.0.div_ceil(most_columns);
        let down = Cut::new(m, (most_rows / 4, most_rows), fewest, threads);
        // Too few rows for all threads: columns are divided further.
        let across = Cut::new(n, (n.1, most_columns), down.count, threads);
        for_each(parallel, down.count * across.count, |task| {
            let (i, j) = (task / across.count, task % across.count);
            self.task(down.piece(i), across.piece(j));
        });
    }

    /// One tile of the result, all of k.
    fn task(&self, rows: Range<usize>, columns: Range<usize>) {
        let _prepared = self.kernel.prepare();
        let stretch = self.lanes.min(BLOCKS_OF_A * self.block_lanes);
        let panels = APanels::new(self.kernel, self.a.orientation, stretch);
        let lying = self.lying_a().map(|lying| match self.a.is_along() {
            true => Left::Along(lying, lying.strips(rows.clone(), self.kernel.rows())),
            false => Left::Across(lying, rows.clone()),
        });
        let result = self.place(&rows, &columns);
        with_workspace(|space| {
            let apart = self.stride >= FAR_APART && self.lanes > self.block_lanes;
            let sums = if apart { Place::beside(&mut space.sums, &result) } else { result };
            for first in (0..self.lanes).step_by(stretch) {
                let last = (first + stretch).min(self.lanes);
                let packed = match lying {
                    Some(_) => &[],
                    None => {
                        let block = self.block(&rows, first..last);
                        let size = rows.len().div_ceil(self.kernel.rows()) * panels.size;
                        let a = space.a.sized(size);
                        pack_a(self.kernel, self.a, block, panels, &mut space.rows, a);
                        &*a
                    }
                };
                let mut ahead = self.rows_of_next(&rows, last);
                for lane in (first..last).step_by(self.block_lanes) {
                    let lanes = lane..(lane + self.block_lanes).min(last);
                    let here;
                    let left = if let Some(lying) = &lying {
                        lying
                    } else {
                        here = Left::Packed(&packed[(lane - first) * panels.lane..], panels);
                        &here
                    };
                    let b = (&mut space.b, &mut space.rows);
                    self.block_of_tiles((left, &mut ahead), b, lanes, (&columns, sums));
                }
            }
            if apart {
                merge(self.kernel.level(), sums, result);
            }
        });
        if let Some(bias) = self.bias {
            add_bias(self.kernel.level(), &bias[columns], result);
        }
    }

    /// A, if it is read where it lies. Across k each lane is a row of it; where those are far apart
    /// they fall into few sets of the caches.
    fn lying_a(&self) -> Option<Lying<'_>> {
        let lying = self.a.matrix.lying().filter(|_| self.kernel.reads_lying())?;
        (self.a.is_along() || lying.row < FAR_APART).then_some(lying)
    }

    /// The pieces of A that will be packed after lane `lane`.
    fn rows_of_next(&self, rows: &Range<usize>, lane: usize) -> RowsAhead {
        let there = self.a.is_along() && lane < self.lanes;
        let end = if there { rows.end } else { rows.start };
        let columns = lane * self.kernel.depth()..self.size.k.max(lane * self.kernel.depth());
        let stretch = BLOCKS_OF_A * self.block_lanes * self.kernel.depth();
        RowsAhead {
            rows: rows.start..end,
            columns: columns.start..columns.end.min(columns.start + stretch),
            at: columns.start,
        }
    }

    fn block(&self, rows: &Range<usize>, lanes: Range<usize>) -> Block {
        let Range { start, end } = *rows;
        Block { start, end, lane: lanes.start, lanes: lanes.len(), k: self.size.k }
    }

    /// One block along k: each panel of B, packed here if it was not before.
    fn block_of_tiles(
        &self,
        (left, ahead): (&Left<'_>, &mut RowsAhead),
        (room, buffers): (&mut Lanes, &mut Rows),
        lanes: Range<usize>,
        (all, sums): (&Range<usize>, Place),
    ) {
        let width = self.kernel.columns();
        for j in all.clone().step_by(width) {
            let columns = j..(j + width).min(all.end);
            let panel = j / width;
            let len = self.layout.width(panel) * lanes.len();
            let at =
                lanes.start / self.block_lanes * self.layout.block() + self.layout.start(panel);
            let (b, next) = match &self.b {
                Right::Packed(panels) => (&panels[at..], panels[at + len..].as_ptr().cast()),
                Right::Halves(halves) => {
                    let to = room.sized(len);
                    widen(self.kernel.level(), &halves[at..at + len], to);
                    (&*to, halves[at + len..].as_ptr().cast())
                }
                Right::Loose(b) => {
                    let to = room.sized(self.layout.width(panel) * self.block_lanes);
                    let block = self.block(&columns, lanes.clone());
                    pack_b(self.kernel, *b, block, self.layout, buffers, to);
                    (&*to, std::ptr::null())
                }
            };
            let sums = sums.columns_from(j - all.start, columns.len());
            self.column_of_tiles((left, ahead), (b, next, panel), &lanes, sums);
        }
    }

    /// One panel of B meets all rows of A.
    fn column_of_tiles(
        &self,
        (left, ahead): (&Left<'_>, &mut RowsAhead),
        (b, next, panel): (&[u32], *const u8, usize),
        lanes: &Range<usize>,
        sums: Place,
    ) {
        let width = self.layout.width(panel);
        assert!(b.len() >= lanes.len() * width, "panel of B too short");
        let height = self.kernel.rows();
        let calls = sums.rows.div_ceil(height);
        let share = (lanes.len() * width * 4 / calls.max(1)).next_multiple_of(64);
        let mut ahead = (0..).map(|call| [next.wrapping_add(call * share), ahead.next(&self.a)]);
        let mut meet = |part: Part| {
            let (b, ahead) = (b[part.lane * width..].as_ptr(), ahead.next().unwrap_or_default());
            // SAFETY: the panel of B is long enough, and so are A's rows where they lie or in their
            // panel, see below.
            unsafe { self.tile(&part, b, (lanes, sums), ahead) };
        };
        match left {
            Left::Packed(a, panels) => {
                for (call, a) in a.chunks(panels.size).take(calls).enumerate() {
                    let row = call * height;
                    let rows = (sums.rows - row).min(height);
                    let last = (rows - 1) * panels.row + (lanes.len() - 1) * panels.lane;
                    assert!(a.len() > last, "panel of A too short");
                    let (a, a_row, a_lane) = (a.as_ptr(), panels.row, panels.lane);
                    meet(Part { a, a_row, a_lane, row, rows, lane: 0, lanes: lanes.len() });
                }
            }
            Left::Across(lying, rows) => {
                for strip in lying.strips(lanes.clone(), usize::MAX) {
                    for piece in pieces(rows, height) {
                        for run in lying.runs(piece.clone()) {
                            let a = lying.place(&strip, &run).cast();
                            let (row, rows) = (piece.start - rows.start + run.column, run.columns);
                            let (Strip { row: lane, rows: lanes, .. }, a_lane) = (strip, lying.row);
                            meet(Part { a, a_row: 1, a_lane, row, rows, lane, lanes });
                        }
                    }
                }
            }
            Left::Along(lying, strips) => {
                for run in lying.runs(lanes.clone()) {
                    for strip in strips {
                        let a = lying.place(strip, &run).cast();
                        let (Strip { row, rows, .. }, a_row) = (*strip, lying.row);
                        let Run { column: lane, columns: lanes, .. } = run;
                        meet(Part { a, a_row, a_lane: 1, row, rows, lane, lanes });
                    }
                }
            }
        }
    }

    /// Some rows of A meet a panel of B.
    ///
    /// # Safety
    /// The part's rows and the panel are as long as the part says.
    unsafe fn tile(
        &self,
        part: &Part,
        b: *const u32,
        (lanes, sums): (&Range<usize>, Place),
        ahead: [*const u8; 2],
    ) {
        let span = (part.rows - 1) * sums.stride + sums.columns;
        let call = Call {
            lanes: part.lanes,
            a: part.a,
            a_row: part.a_row,
            a_lane: part.a_lane,
            b,
            to: sums.data.pointer(sums.at + part.row * sums.stride, span),
            stride: sums.stride,
            rows: part.rows,
            columns: sums.columns,
            add: sums.add || lanes.start + part.lane > 0,
            ahead,
        };
        // SAFETY: the caller's promise for what is read; the place of the sums was checked, and no
        // other task has it.
        unsafe { self.kernel.run(&call) };
    }

    fn place(&self, rows: &Range<usize>, columns: &Range<usize>) -> Place {
        Place {
            data: self.output,
            at: rows.start * self.stride + columns.start,
            stride: self.stride,
            rows: rows.len(),
            columns: columns.len(),
            add: self.accumulate,
        }
    }
}

/// The rows of A that are packed next, piece by piece: the caches are asked for them while the
/// kernel works.
struct RowsAhead {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Column of the next piece.
    at: usize,
}

impl RowsAhead {
    /// Elements that one call of the kernel asks for.
    const PIECE: usize = 256;

    /// Where the next piece lies; null after the last.
    fn next<A: Matrix>(&mut self, a: &Operand<'_, A>) -> *const u8 {
        if self.rows.is_empty() {
            return std::ptr::null();
        }
        let place = a.matrix.place(self.rows.start, self.at);
        self.at += Self::PIECE;
        if self.at >= self.columns.end {
            self.rows.start += 1;
            self.at = self.columns.start;
        }
        place.cast()
    }
}

/// Where a task's sums are: rows that no other task touches.
#[derive(Clone, Copy)]
struct Place {
    data: Shared<f32>,
    at: usize,
    stride: usize,
    rows: usize,
    columns: usize,
    /// Something is there that the sums are added to.
    add: bool,
}

impl Place {
    /// A place in `buffer` of the size of `result`, its rows side by side.
    fn beside(buffer: &mut Vec<f32>, result: &Self) -> Self {
        let stride = result.columns.next_multiple_of(16);
        let len = result.rows * stride;
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        Self { data: Shared::new(buffer), at: 0, stride, add: false, ..*result }
    }

    fn columns_from(self, first: usize, columns: usize) -> Self {
        Self { at: self.at + first, columns, ..self }
    }

    /// A row of it.
    ///
    /// # Safety
    /// No other part that overlaps it is in use.
    unsafe fn row<'a>(&self, row: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.data.part(self.at + row * self.stride, self.columns) }
    }
}

vectorised! {
    fn add_bias(level: Level, bias: &[f32], to: Place) {
        for row in 0..to.rows {
            // SAFETY: each task has its own places.
            unsafe { to.row(row) }.iter_mut().zip(bias).for_each(|(to, bias)| *to += bias);
        }
    }
}

vectorised! {
    fn merge(level: Level, sums: Place, to: Place) {
        for row in 0..to.rows {
            // SAFETY: each task has its own places, and these two do not overlap.
            let (sums, add, to) = unsafe { (sums.row(row), to.add, to.row(row)) };
            if add {
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to += *sum);
            } else {
                to.copy_from_slice(sums);
            }
        }
    }
}
