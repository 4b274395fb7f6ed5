//! Products of a few rows that one thread has at hand with panels that several threads share:
//! what attention is made of.
#![allow(unsafe_code)]

use std::ops::Range;

use super::kernel::{Call, Kernel};
use super::operand::{Matrix, Operand};
use super::pack::BPanels;
use super::packed::pack_all;
use super::shape_of_k;
use crate::level::Engine;

/// The layout of a right operand of `n` columns and `k` products a sum.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    kernel: Kernel,
    n: usize,
    k: usize,
    lanes: usize,
    block_lanes: usize,
    layout: BPanels,
}

impl Panels {
    pub(crate) fn new(engine: Engine, n: usize, k: usize) -> Self {
        let kernel = Kernel::of(engine);
        let (lanes, block_lanes) = shape_of_k(kernel, k);
        Self { kernel, n, k, lanes, block_lanes, layout: BPanels::new(kernel, n, block_lanes) }
    }

    /// Lanes that the packed operand takes.
    pub(crate) fn len(&self) -> usize {
        self.layout.len(self.k)
    }

    /// Lanes along k, rows of the left operand are as long.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Lanes of so many elements along k.
    pub(crate) fn lanes_of(&self, elements: usize) -> usize {
        let lanes = elements.div_ceil(self.kernel.depth());
        lanes.next_multiple_of(self.kernel.lane_multiple())
    }

    /// Elements along k in a block: products may begin at multiples of it.
    pub(crate) fn block_elements(&self) -> usize {
        self.block_lanes * self.kernel.depth()
    }

    /// So many columns and perhaps more, up to the end of a panel.
    pub(crate) fn whole_panels(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.kernel.columns()).min(self.n)
    }

    /// Rows come in multiples of this in memory, however many of them count.
    pub(crate) fn row_multiple(&self) -> usize {
        self.kernel.rows()
    }

    /// Whether a row of f32 already is a row of lanes.
    pub(crate) fn takes_f32(&self) -> bool {
        self.kernel.depth() == 1
    }

    /// Turns elements into lanes; lanes beyond them become zero.
    pub(crate) fn along(&self, from: &[f32], to: &mut [u32]) {
        self.kernel.along(from, to);
    }

    /// Packs the operand, on this thread.
    pub(crate) fn pack<B: Matrix>(&self, b: Operand<'_, B>, to: &mut [u32]) {
        pack_all(self.kernel, (self.n, self.k), b, self.layout, to, false);
    }

    /// `to (+)= A · B[.., columns]`, where A has `rows` rows of lanes, `stride` apart, that meet
    /// the lanes from `from` on. `columns` are whole panels, `from` begins a block.
    pub(crate) fn multiply(
        &self,
        (a, stride, rows): (&[u32], usize, usize),
        (b, from, lanes): (&[u32], usize, usize),
        columns: Range<usize>,
        (to, to_stride, mut add): (&mut [f32], usize, bool),
    ) {
        let (height, width) = (self.kernel.rows(), self.kernel.columns());
        let whole = columns.end == self.n || columns.end.is_multiple_of(width);
        assert!(rows > 0 && columns.start.is_multiple_of(width) && whole && columns.end <= self.n);
        assert!(from.is_multiple_of(self.block_lanes) && lanes <= stride);
        assert!(from + lanes <= self.lanes && b.len() >= self.len());
        assert!(a.len() >= rows.next_multiple_of(height) * stride);
        assert!(to_stride >= columns.len() && to.len() >= (rows - 1) * to_stride + columns.len());
        super::count(rows, columns.len(), lanes * self.kernel.depth());
        let _prepared = self.kernel.prepare();
        for lane in (0..lanes).step_by(self.block_lanes) {
            let block = (from + lane) / self.block_lanes * self.layout.block();
            for column in columns.clone().step_by(width) {
                let b = &b[block + self.layout.start(column / width)..];
                for row in (0..rows).step_by(height) {
                    let at = row * to_stride + column - columns.start;
                    let call = Call {
                        lanes: (lanes - lane).min(self.block_lanes),
                        a: a[row * stride + lane..].as_ptr(),
                        a_row: stride,
                        a_lane: 1,
                        b: b.as_ptr(),
                        to: to[at..].as_mut_ptr(),
                        stride: to_stride,
                        rows: (rows - row).min(height),
                        columns: (columns.end - column).min(width),
                        add,
                        ahead: [b.as_ptr().cast(); 2],
                    };
                    // SAFETY: both operands and the result are as large as checked above.
                    unsafe { self.kernel.run(&call) };
                }
            }
            add = true;
        }
    }
}
