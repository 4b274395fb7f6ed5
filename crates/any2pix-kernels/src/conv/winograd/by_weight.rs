//! The gradient by the weights: transformed windows times transformed tiles of the gradient.
#![allow(unsafe_code)]

use std::ops::Range;

use super::transform::taps;
use super::{MOST_AT_ONCE, PLACES, TAPS, Tiled, for_blocks, pieces_of};
use crate::conv::Patches;
use crate::gemm::kernel::{Call, Kernel};
use crate::gemm::{Cut, Size, count, for_each, pieces, runs_in_parallel};
use crate::scratch::{Lanes, Shared, thread_scratch};

/// Tiles whose products are summed before the sums go back to memory.
const MOST_TILES: usize = 128;
/// Rows of a product.
const MOST_ROWS: usize = 96;

#[derive(Default)]
struct Workspace {
    windows: Lanes,
    gradients: Lanes,
    sums: Lanes,
}

thread_scratch!(with_workspace, Workspace);

/// Some tiles, transformed.
struct Stretch<'a> {
    kernel: Kernel,
    /// Blocks of tiles, each `(piece of the channels, place, tile, channel)`.
    cut: Cut,
    windows: &'a [f32],
    gradients: &'a [f32],
    /// Inputs and outputs.
    channels: (usize, usize),
    /// Adds to what is there.
    add: bool,
}

/// Writes the gradient by weights `(output, input, tap)` of the convolution of patches that
/// [suit](super::suits), given that by its result, `(pixel, output)`.
pub(in crate::conv) fn by_weight(
    kernel: Kernel,
    patches: &Patches<'_>,
    (gradient, outputs): (&[f32], usize),
    to: &mut [f32],
) {
    let input = Tiled::under(patches);
    let grid = patches.grid;
    let gradient =
        Tiled { data: gradient, size: (grid.0, grid.1, outputs), shift: (0, 0), ..input };
    let inputs = input.size.2;
    let pixels = gradient.data.len() / outputs;
    let size = Size { m: outputs, n: TAPS * inputs, k: pixels };
    assert_eq!(to.len(), size.m * size.n);
    count(size.m, size.n, size.k);
    let parallel = runs_in_parallel(size);
    let tiles = pixels / (grid.0 * grid.1) * input.tiles.0 * input.tiles.1;
    let stretches = (tiles * (inputs + outputs) * PLACES).div_ceil(MOST_AT_ONCE);
    let whole = Cut::into((tiles, 1), stretches);
    with_workspace(|space| {
        let sums = space.sums.sized_f32(PLACES * inputs * outputs);
        for tiles in (0..stretches).map(|index| whole.piece(index)) {
            let cut = Cut::into((tiles.len(), 1), tiles.len().div_ceil(MOST_TILES));
            let windows = space.windows.sized_f32(tiles.len() * inputs * PLACES);
            let gradients = space.gradients.sized_f32(tiles.len() * outputs * PLACES);
            let (level, first) = (kernel.level(), tiles.start);
            for_blocks((cut, first), parallel, (windows, inputs), |tiles, to| {
                input.windows(level, kernel.columns(), tiles, to);
            });
            for_blocks((cut, first), parallel, (gradients, outputs), |tiles, to| {
                gradient.gradients(level, MOST_ROWS, tiles, to);
            });
            let (channels, add) = ((inputs, outputs), first > 0);
            Stretch { kernel, cut, windows, gradients, channels, add }.add_to(sums, parallel);
        }
        let sums = &*sums;
        let to = Shared::new(to);
        for_each(parallel, outputs, |output| {
            // SAFETY: outputs do not overlap.
            let to = unsafe { to.part(output * inputs * TAPS, inputs * TAPS) };
            taps(kernel.level(), &sums[output * inputs..], outputs * inputs, to);
        });
    });
}

impl Stretch<'_> {
    /// Adds the products to sums `(place, output, input)`.
    fn add_to(&self, sums: &mut [f32], parallel: bool) {
        let (inputs, outputs) = self.channels;
        let rows: Vec<_> = pieces_of(outputs, MOST_ROWS).collect();
        let columns: Vec<_> = pieces_of(inputs, self.kernel.columns()).collect();
        let sums = Shared::new(sums);
        let pairs = rows.len() * columns.len();
        for_each(parallel, PLACES * pairs, |task| {
            let (place, pair) = (task / pairs, task % pairs);
            let (rows, columns) = (&rows[pair / columns.len()], &columns[pair % columns.len()]);
            self.product(place, (rows, columns), sums);
        });
    }

    /// The sums of one place, some outputs and inputs.
    fn product(
        &self,
        place: usize,
        (rows, columns): (&Range<usize>, &Range<usize>),
        sums: Shared<f32>,
    ) {
        let (inputs, outputs) = self.channels;
        for block in (0..self.cut.count()).map(|index| self.cut.piece(index)) {
            let part = |channels: usize, piece: &Range<usize>| {
                let at = block.start * channels + piece.start * block.len();
                let at = at * PLACES + place * block.len() * piece.len();
                at..at + block.len() * piece.len()
            };
            let (a, b) =
                (&self.gradients[part(outputs, rows)], &self.windows[part(inputs, columns)]);
            for strip in pieces(&(0..rows.len()), self.kernel.rows()) {
                let at = (place * outputs + rows.start + strip.start) * inputs + columns.start;
                let span = (strip.len() - 1) * inputs + columns.len();
                let call = Call {
                    lanes: block.len(),
                    a: a[strip.start..].as_ptr().cast(),
                    a_row: 1,
                    a_lane: rows.len(),
                    b: b.as_ptr().cast(),
                    to: sums.pointer(at, span),
                    stride: inputs,
                    rows: strip.len(),
                    columns: columns.len(),
                    add: self.add || block.start > 0,
                    ahead: [std::ptr::null(); 2],
                };
                // SAFETY: both operands have a row for each tile of the block, and no other task has
                // these sums.
                unsafe { self.kernel.run(&call) };
            }
        }
    }
}
