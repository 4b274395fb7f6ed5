//! Packing: operands become panels of 32-bit lanes in the order the micro-kernels read them.

use super::kernel::Kernel;
use super::operand::{Matrix, Operand, Orientation};
use super::shape_of_k;
use crate::scratch::Lanes;

/// Free lanes at the end of a panel's rows, so that rows do not fall into the same cache sets.
const PAD: usize = 16;

/// Where a block lies: a range of rows of A (or columns of B) and a range of lanes along k.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) lane: usize,
    /// How many lanes, a multiple of the kernel's.
    pub(super) lanes: usize,
    /// Length of k in elements.
    pub(super) k: usize,
}

impl Block {
    /// The elements along k that the block covers.
    fn elements(&self, kernel: Kernel) -> (usize, usize) {
        let start = (self.lane * kernel.depth()).min(self.k);
        (start, ((self.lane + self.lanes) * kernel.depth()).min(self.k))
    }

    /// The rows along k of one lane, the second is `None` beyond the end.
    fn pair(&self, kernel: Kernel, lane: usize) -> (Option<usize>, Option<usize>) {
        let row = (self.lane + lane) * kernel.depth();
        let inside = |row: usize| (row < self.k).then_some(row);
        (inside(row), if kernel.depth() == 2 { inside(row + 1) } else { None })
    }
}

/// Buffers of one thread for rows on their way into panels.
#[derive(Default)]
pub(crate) struct Rows {
    low: Vec<f32>,
    high: Vec<f32>,
    zeros: Vec<f32>,
    lanes: Lanes,
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// The panel layout of A for a kernel, an orientation and a number of lanes in a block.
#[derive(Clone, Copy)]
pub(super) struct APanels {
    pub(super) row: usize,
    pub(super) lane: usize,
    pub(super) size: usize,
}

impl APanels {
    pub(super) fn new(kernel: Kernel, orientation: Orientation, lanes: usize) -> Self {
        let rows = kernel.rows();
        if orientation == Orientation::RowsAlongK || kernel.needs_rows_along_k() {
            let row = lanes + PAD;
            Self { row, lane: 1, size: rows * row }
        } else {
            Self { row: 1, lane: rows, size: (rows * lanes).next_multiple_of(16) }
        }
    }
}

/// The panel layout of B: panels of the kernel's columns, the last one as wide as it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct BPanels {
    kernel: Kernel,
    columns: usize,
    /// Panels of all columns.
    full: usize,
    /// Columns of the panel after them, 0 if there is none.
    last: usize,
    block_lanes: usize,
}

impl BPanels {
    pub(super) fn new(kernel: Kernel, n: usize, block_lanes: usize) -> Self {
        let columns = kernel.columns();
        let last = (n % columns).next_multiple_of(kernel.vector());
        Self { kernel, columns, full: n / columns, last, block_lanes }
    }

    /// Lanes of a block along k of all panels.
    pub(super) fn block(&self) -> usize {
        (self.full * self.columns + self.last) * self.block_lanes
    }

    /// Lanes of the whole operand of `k` products a sum.
    pub(super) fn len(&self, k: usize) -> usize {
        let (lanes, block_lanes) = shape_of_k(self.kernel, k);
        lanes.div_ceil(block_lanes.max(1)) * self.block()
    }

    /// Where a panel starts in its block.
    pub(super) fn start(&self, panel: usize) -> usize {
        panel * self.columns * self.block_lanes
    }

    /// Columns of a panel.
    pub(super) fn width(&self, panel: usize) -> usize {
        if panel < self.full { self.columns } else { self.last }
    }

    pub(super) fn count(&self) -> usize {
        self.full + usize::from(self.last > 0)
    }
}

/// Packs rows `block.start..block.end` of A, panel after panel.
pub(super) fn pack_a<M: Matrix>(
    kernel: Kernel,
    a: Operand<'_, M>,
    block: Block,
    layout: APanels,
    rows: &mut Rows,
    to: &mut [u32],
) {
    let height = kernel.rows();
    if a.orientation == Orientation::RowsAlongK {
        return pack_a_along(kernel, a.matrix, block, layout, rows, to);
    }
    if !kernel.needs_rows_along_k() {
        pack_across(kernel, a.matrix, block, (height, layout.size), rows, to);
        return;
    }
    // Sixteen lanes of all rows at a time, then transposed into rows along k.
    let width = (block.end - block.start).next_multiple_of(16);
    let mut staged = std::mem::take(&mut rows.lanes);
    let stage = staged.sized(16 * width);
    for first in (0..block.lanes).step_by(16) {
        let part = Block { lane: block.lane + first, lanes: 16, ..block };
        pack_across(kernel, a.matrix, part, (width, 0), rows, stage);
        for column in (0..width).step_by(16) {
            let at = column / height * layout.size + column % height * layout.row + first;
            kernel.transpose16(&stage[column..], width, &mut to[at..], layout.row);
        }
    }
    rows.lanes = staged;
}

fn pack_a_along<M: Matrix>(
    kernel: Kernel,
    a: &M,
    block: Block,
    layout: APanels,
    rows: &mut Rows,
    to: &mut [u32],
) {
    let (height, range) = (kernel.rows(), block.start..block.end);
    let place = |i: usize| i / height * layout.size + i % height * layout.row;
    let (k0, k1) = block.elements(kernel);
    let buffer = sized(&mut rows.low, k1 - k0);
    if kernel.depth() == 2 && a.pairs(block.start, block.lane, &mut to[..block.lanes]) {
        for (i, row) in range.enumerate() {
            let at = place(i);
            a.pairs(row, block.lane, &mut to[at..at + block.lanes]);
        }
        return;
    }
    let mut i = 0;
    a.each_row(range, k0, buffer, |row| {
        let at = place(i);
        kernel.along(row, &mut to[at..at + block.lanes]);
        i += 1;
    });
}

/// Packs columns `block.start..block.end` of B, which begin with a panel, panel after panel.
pub(super) fn pack_b<M: Matrix>(
    kernel: Kernel,
    b: Operand<'_, M>,
    block: Block,
    layout: BPanels,
    rows: &mut Rows,
    to: &mut [u32],
) {
    let columns = kernel.columns();
    for (i, start) in (block.start..block.end).step_by(columns).enumerate() {
        let to = &mut to[i * columns * layout.block_lanes..];
        let width = layout.width(start / columns);
        let part = Block { start, end: (start + columns).min(block.end), ..block };
        match b.orientation {
            Orientation::RowsAlongK => pack_b_along(kernel, b.matrix, part, width, rows, to),
            Orientation::RowsAcrossK => pack_across(kernel, b.matrix, part, (width, 0), rows, to),
        }
    }
}

/// Packs one panel of B from rows along k.
fn pack_b_along<M: Matrix>(
    kernel: Kernel,
    b: &M,
    block: Block,
    width: usize,
    rows: &mut Rows,
    to: &mut [u32],
) {
    let (k0, k1) = block.elements(kernel);
    let stride = block.lanes.next_multiple_of(16) + PAD;
    let mut staged = std::mem::take(&mut rows.lanes);
    let stage = staged.sized(16 * stride);
    let buffer = sized(&mut rows.low, k1 - k0);
    for first in (block.start..block.end).step_by(16) {
        let mut stages = stage.chunks_exact_mut(stride);
        b.each_row(first..(first + 16).min(block.end), k0, buffer, |row| {
            if let Some(lanes) = stages.next() {
                kernel.along(row, lanes);
            }
        });
        let column = first - block.start;
        let columns = (width - column).min(16);
        for lane in (0..block.lanes).step_by(16) {
            let to = &mut to[lane * width + column..];
            let whole = lane + 16 <= block.lanes && columns == 16;
            if whole {
                kernel.transpose16(&stage[lane..], stride, to, width);
                continue;
            }
            let mut corner = [0; 256];
            kernel.transpose16(&stage[lane..], stride, &mut corner, 16);
            let left = (block.lanes - lane).min(16);
            for (i, part) in corner.chunks_exact(16).take(left).enumerate() {
                to[i * width..i * width + columns].copy_from_slice(&part[..columns]);
            }
        }
    }
    rows.lanes = staged;
}

/// Packs a matrix whose rows run across k: lane after lane, cut into panels of `width`.
fn pack_across<M: Matrix>(
    kernel: Kernel,
    matrix: &M,
    block: Block,
    (width, panel): (usize, usize),
    rows: &mut Rows,
    to: &mut [u32],
) {
    let len = block.end - block.start;
    if kernel.depth() == 1 {
        let (k0, k1) = block.elements(kernel);
        let mut at = 0;
        matrix.each_row(k0..k1, block.start, sized(&mut rows.low, len), |row| {
            kernel.across(row, row, &mut to[at..], (width, panel));
            at += width;
        });
        return;
    }
    let zeros = sized(&mut rows.zeros, len);
    let low_buffer = sized(&mut rows.low, len);
    let high_buffer = sized(&mut rows.high, len);
    for lane in 0..block.lanes {
        let (low, high) = block.pair(kernel, lane);
        let low = match low {
            Some(row) => matrix.row(row, block.start, low_buffer),
            None => &*zeros,
        };
        let high = match high {
            Some(row) => matrix.row(row, block.start, high_buffer),
            None => &*zeros,
        };
        kernel.across(low, high, &mut to[lane * width..], (width, panel));
    }
}
