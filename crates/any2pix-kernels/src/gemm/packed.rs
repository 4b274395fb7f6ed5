//! `Packed`: weights in the order the micro-kernels read them, prepared once and used many times.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::Kernel;
use super::operand::{Matrix, Operand};
use super::pack::{BPanels, Block, Rows, pack_b};
use super::shape_of_k;
use super::tiles::Right;
use crate::level::{Engine, Precision, vectorised};
use crate::scratch::{Lanes, Shared, bits_mut};

/// A right operand of `n` columns and `k` products a sum, packed for one engine.
pub struct Packed {
    pub(super) kernel: Kernel,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) layout: BPanels,
    kept: Kept,
}

/// The panels, in one of two forms.
enum Kept {
    /// As the kernel reads them.
    Lanes(Lanes),
    /// Rounded to bfloat16 for a kernel that multiplies f32: half the memory, and half of what is
    /// read from it. Each task widens the panels that it needs.
    Halves(Vec<u16>),
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({:?}, {} x {})", self.kernel, self.n, self.k)
    }
}

impl Packed {
    /// Packs `b`, whose rows are columns of the result or elements along k.
    ///
    /// # Panics
    /// If `b` is smaller than `n` and `k` say.
    pub fn new<B: Matrix>(engine: Engine, n: usize, k: usize, b: Operand<'_, B>) -> Self {
        let kernel = Kernel::of(engine);
        let (_, block_lanes) = shape_of_k(kernel, k);
        let layout = BPanels::new(kernel, n, block_lanes);
        let mut lanes = Lanes::default();
        let whole = lanes.sized(layout.len(k));
        pack_all(kernel, (n, k), b, layout, whole, true);
        let kept = match engine.precision() {
            Precision::Bf16 if kernel.depth() == 1 => Kept::Halves(halves(whole)),
            _ => Kept::Lanes(lanes),
        };
        Self { kernel, n, k, layout, kept }
    }

    /// Columns of the result.
    pub fn columns(&self) -> usize {
        self.n
    }

    /// Products summed for each element.
    pub fn depth(&self) -> usize {
        self.k
    }

    pub(super) fn right<B>(&self) -> Right<'_, B> {
        match &self.kept {
            Kept::Lanes(lanes) => Right::Packed(lanes.all()),
            Kept::Halves(halves) => Right::Halves(halves),
        }
    }

    pub(crate) fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The panels, for who multiplies them otherwise than as they are.
    pub(crate) fn panel_rows(&self) -> PanelRows<'_> {
        PanelRows { packed: self }
    }

    fn lane(&self, at: usize) -> u32 {
        match &self.kept {
            Kept::Lanes(lanes) => lanes.all()[at],
            Kept::Halves(halves) => u32::from(halves[at]) << 16,
        }
    }

    /// Whether left operands of these weights are read where they lie.
    pub(crate) fn reads_lying(&self) -> bool {
        self.kernel.reads_lying()
    }

    /// All of `x` as pairs of bfloat16, if products of these weights are of such pairs.
    pub(crate) fn rounded_pairs(&self, x: &[f32]) -> Option<Vec<u32>> {
        super::rounded_for(self.kernel, x)
    }

    /// The weights again, as `n` rows of `k`; rounded if the engine rounds.
    pub fn unpack(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.n * self.k];
        let (lanes, block_lanes) = shape_of_k(self.kernel, self.k);
        rows.par_chunks_mut(self.k.max(1)).enumerate().for_each(|(column, row)| {
            let panel = column / self.kernel.columns();
            let (width, inside) = (self.layout.width(panel), column % self.kernel.columns());
            for lane in 0..lanes {
                let block = lane / block_lanes * self.layout.block() + self.layout.start(panel);
                let value = self.lane(block + lane % block_lanes * width + inside);
                if self.kernel.depth() == 1 {
                    row[lane] = f32::from_bits(value);
                    continue;
                }
                for (half, to) in row.iter_mut().skip(2 * lane).take(2).enumerate() {
                    *to = f32::from_bits(if half == 0 { value << 16 } else { value & 0xffff_0000 });
                }
            }
        });
        rows
    }
}

/// The panels of a right operand as f32, row by row.
#[derive(Clone, Copy)]
pub(crate) struct PanelRows<'a> {
    packed: &'a Packed,
}

impl PanelRows<'_> {
    /// What multiplies the rows.
    pub(crate) fn kernel(&self) -> Kernel {
        self.packed.kernel.of_singles()
    }

    pub(crate) fn columns(&self) -> usize {
        self.packed.n
    }

    pub(crate) fn rows(&self) -> usize {
        self.packed.k
    }

    /// Copies some rows of a panel, an even number from an even one where lanes are pairs.
    pub(crate) fn copy(&self, panel: usize, rows: Range<usize>, to: &mut [f32]) {
        let (packed, width) = (self.packed, self.packed.layout.width(panel));
        let (kernel, depth) = (packed.kernel, packed.kernel.depth());
        debug_assert!(rows.start.is_multiple_of(depth) && rows.len().is_multiple_of(depth));
        let (_, block_lanes) = shape_of_k(kernel, packed.k);
        let (mut lane, end, mut rest) = (rows.start / depth, rows.end / depth, to);
        while lane < end {
            let count = (end - lane).min(block_lanes - lane % block_lanes);
            let block = lane / block_lanes * packed.layout.block() + packed.layout.start(panel);
            let from = block + lane % block_lanes * width;
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(count * depth * width);
            let (here, piece) = (from..from + count * width, bits_mut(piece));
            match &packed.kept {
                Kept::Lanes(lanes) if depth == 2 => {
                    part_pairs(kernel.level(), &lanes.all()[here], width, piece);
                }
                Kept::Lanes(lanes) => piece.copy_from_slice(&lanes.all()[here]),
                Kept::Halves(halves) => widen(kernel.level(), &halves[here], piece),
            }
            (lane, rest) = (lane + count, after);
        }
    }
}

/// Lanes of f32, rounded to the nearest bfloat16, ties to even.
fn halves(lanes: &[u32]) -> Vec<u16> {
    let round = |lane: &u32| half::bf16::from_f32(f32::from_bits(*lane)).to_bits();
    lanes.par_iter().map(round).collect()
}

vectorised! {
    /// The lanes of f32 that `halves` stand for.
    pub(super) fn widen(level: Level, halves: &[u16], to: &mut [u32]) {
        for (to, half) in to.iter_mut().zip(halves) {
            *to = u32::from(*half) << 16;
        }
    }
}

vectorised! {
    /// The two rows of f32 that each row of `width` pairs of bfloat16 stands for.
    fn part_pairs(level: Level, pairs: &[u32], width: usize, to: &mut [u32]) {
        for (pairs, to) in pairs.chunks_exact(width).zip(to.chunks_exact_mut(2 * width)) {
            let (even, odd) = to.split_at_mut(width);
            for ((pair, even), odd) in pairs.iter().zip(even).zip(odd) {
                *even = pair << 16;
                *odd = pair & 0xffff_0000;
            }
        }
    }
}

/// Packs all columns of `b` into `to`, of [`BPanels::len`] lanes: block along k, then panel.
pub(super) fn pack_all<B: Matrix>(
    kernel: Kernel,
    (n, k): (usize, usize),
    b: Operand<'_, B>,
    layout: BPanels,
    to: &mut [u32],
    parallel: bool,
) {
    /// Elements of a task.
    const TASK: usize = 1 << 15;
    let (lanes, block_lanes) = shape_of_k(kernel, k);
    let blocks = lanes.div_ceil(block_lanes.max(1));
    let shared = Shared::new(to);
    let (columns, panels) = (kernel.columns(), layout.count());
    let a_task = (TASK / (columns * block_lanes).max(1)).clamp(1, panels.max(1));
    let tasks = panels.div_ceil(a_task);
    let pack = |task: usize| {
        let (index, first) = (task / tasks, task % tasks * a_task);
        let last = (first + a_task).min(panels);
        let lane = index * block_lanes;
        let block = Block {
            start: first * columns,
            end: (last * columns).min(n),
            lane,
            lanes: (lanes - lane).min(block_lanes),
            k,
        };
        let at = index * layout.block() + layout.start(first);
        let len = (first..last).map(|panel| layout.width(panel)).sum::<usize>() * block_lanes;
        // SAFETY: each call has its own panels.
        #[allow(unsafe_code)]
        let part = unsafe { shared.part(at, len) };
        with_rows(|rows| pack_b(kernel, b, block, layout, rows, part));
    };
    if parallel && n * k >= super::PARALLEL_FROM / 8 && rayon::current_num_threads() > 1 {
        (0..blocks * tasks).into_par_iter().for_each(pack);
    } else {
        (0..blocks * tasks).for_each(pack);
    }
}

crate::scratch::thread_scratch!(with_rows, Rows);
