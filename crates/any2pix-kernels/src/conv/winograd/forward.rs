//! A convolution by transformed windows and transformed taps.
#![allow(unsafe_code)]

use std::ops::Range;

use super::transform::{PAIRS, filters, pixels};
use super::weights::Weights;
use super::{
    MOST_AT_ONCE, MOST_CHANNELS, PLACES, TAPS, TILE, Tiled, WINDOW, for_blocks, pieces_of,
};
use crate::conv::Patches;
use crate::gemm::kernel::{Call, Kernel};
use crate::gemm::{Cut, Size, count, for_each, pieces, runs_in_parallel};
use crate::scratch::{Lanes, Shared, thread_scratch};

/// Tiles of a task: as many as keep its sums in the second cache.
const MOST_TILES: usize = 96;

#[derive(Default)]
struct Workspace {
    taps: Lanes,
    filters: Lanes,
    sums: Lanes,
}

thread_scratch!(with_workspace, Workspace);
thread_scratch!(with_windows, Lanes);

/// One convolution: patches that [suit](super::suits), and weights.
pub(in crate::conv) struct Forward<'a> {
    kernel: Kernel,
    input: Tiled<'a>,
    /// Rows and columns of the result.
    grid: (usize, usize),
    weight: Weights<'a>,
    bias: Option<&'a [f32]>,
    outputs: usize,
}

impl<'a> Forward<'a> {
    pub(in crate::conv) fn new(
        patches: &Patches<'a>,
        weight: Weights<'a>,
        bias: Option<&'a [f32]>,
    ) -> Self {
        let (kernel, outputs) = (weight.kernel(), weight.columns());
        Self { kernel, input: Tiled::under(patches), grid: patches.grid, weight, bias, outputs }
    }

    /// Writes the result, `(picture, row, column, output)`.
    pub(in crate::conv) fn execute(&self, y: &mut [f32]) {
        let (inputs, pixels) = (self.input.size.2, self.grid.0 * self.grid.1);
        let size = Size { m: y.len() / self.outputs, n: self.outputs, k: TAPS * inputs };
        assert!(y.len() == size.m * size.n && size.m.is_multiple_of(pixels));
        // What the layer's definition has, so that rates of all convolutions compare.
        count(size.m, size.n, size.k);
        let tiles = size.m / pixels * self.input.tiles.0 * self.input.tiles.1;
        let stretches = (tiles * inputs * PLACES).div_ceil(MOST_AT_ONCE);
        let cut = Cut::into((tiles, self.kernel.rows()), stretches);
        let y = Shared::new(y);
        for stretch in (0..stretches).map(|index| cut.piece(index)) {
            self.stretch(stretch, runs_in_parallel(size), y);
        }
    }

    /// Some of the tiles: their windows are transformed once, for all outputs.
    fn stretch(&self, tiles: Range<usize>, parallel: bool, y: Shared<f32>) {
        let (panels, inputs) = (self.weight.panels(), self.input.size.2);
        let element = inputs * PLACES;
        let threads = if parallel { rayon::current_num_threads() } else { 1 };
        let rows = (tiles.len(), self.kernel.rows());
        let cut = Cut::new(rows, (MOST_TILES / 4, MOST_TILES), panels, threads);
        with_windows(|windows| {
            let windows = windows.sized_f32(tiles.len() * element);
            let (level, first) = (self.kernel.level(), tiles.start);
            for_blocks((cut, first), parallel, (windows, inputs), |tiles, to| {
                self.input.windows(level, MOST_CHANNELS, tiles, to);
            });
            for_each(parallel, cut.count() * panels, |task| {
                let Range { start, end } = cut.piece(task / panels);
                let windows = &windows[start * element..end * element];
                self.block(first + start..first + end, task % panels, windows, y);
            });
        });
    }

    /// Some tiles of the outputs of a panel.
    fn block(&self, tiles: Range<usize>, panel: usize, windows: &[f32], y: Shared<f32>) {
        let (width, inputs) = (self.weight.panel(panel).len(), self.input.size.2);
        with_workspace(|space| {
            let sums = space.sums.sized_f32(PLACES * tiles.len() * width);
            for piece in pieces_of(inputs, MOST_CHANNELS) {
                let taps = space.taps.sized_f32(TAPS * piece.len() * width);
                self.weight.copy(panel, piece.clone(), taps);
                let windows = &windows[piece.start * PLACES * tiles.len()..];
                let room = space.filters.sized_f32(2 * WINDOW * piece.len() * width);
                for (pair, lines) in PAIRS.into_iter().enumerate() {
                    filters(self.kernel.level(), pair, taps, room);
                    let room = room.chunks_exact(WINDOW * piece.len() * width);
                    for (line, room) in [lines.0, lines.1].into_iter().zip(room) {
                        let first = line * WINDOW * tiles.len();
                        let windows = (&windows[first * piece.len()..], tiles.len());
                        let sums = (&mut sums[first * width..], piece.start > 0);
                        self.multiply(windows, (room, piece.len(), width), sums);
                    }
                }
            }
            self.write(tiles, self.weight.panel(panel), sums, y);
        });
    }

    /// The products of one line of places.
    fn multiply(
        &self,
        (windows, tiles): (&[f32], usize),
        (filters, depth, width): (&[f32], usize, usize),
        (sums, add): (&mut [f32], bool),
    ) {
        let windows = windows.chunks_exact(tiles * depth);
        let filters = filters.chunks_exact(depth * width);
        let sums = sums.chunks_exact_mut(tiles * width);
        for ((windows, filters), sums) in windows.zip(filters).zip(sums) {
            for rows in pieces(&(0..tiles), self.kernel.rows()) {
                let a = &windows[rows.start * depth..rows.end * depth];
                let call = Call {
                    lanes: depth,
                    a: a.as_ptr().cast(),
                    a_row: depth,
                    a_lane: 1,
                    b: filters.as_ptr().cast(),
                    to: sums[rows.start * width..rows.end * width].as_mut_ptr(),
                    stride: width,
                    rows: rows.len(),
                    columns: width,
                    add,
                    ahead: [a.as_ptr_range().end.cast(), std::ptr::null()],
                };
                // SAFETY: rows and sums are as long as their slices, `filters` has `depth` rows of
                // `width`, and the kernel, of one element a lane, needs no preparation.
                unsafe { self.kernel.run(&call) };
            }
        }
    }

    /// The pixels of some tiles.
    fn write(&self, tiles: Range<usize>, outputs: Range<usize>, sums: &[f32], y: Shared<f32>) {
        let (first, width) = (outputs.start, outputs.len());
        let zeros = vec![0.0; width];
        let bias = self.bias.map_or(&*zeros, |bias| &bias[outputs]);
        let (height, length) = self.grid;
        for (index, tile) in tiles.clone().enumerate() {
            let (picture, row, column) = self.input.place(tile);
            let mut to = std::array::from_fn(|at| {
                let (row, column) = (row * TILE + at / TILE, column * TILE + at % TILE);
                let at = ((picture * height + row) * length + column) * self.outputs + first;
                // SAFETY: tiles do not overlap, nor do panels.
                (row < height && column < length).then(|| unsafe { y.part(at, width) })
            });
            let plane = tiles.len() * width;
            pixels(self.kernel.level(), &sums[index * width..], plane, bias, &mut to);
        }
    }
}
