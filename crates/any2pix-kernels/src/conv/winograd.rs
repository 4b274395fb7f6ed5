//! Winograd's minimal filtering, F(4×4, 3×3): a quarter of the products of 3×3 convolutions that
//! go over every pixel.
//!
//! The result is cut into tiles of 4×4 pixels. For each, the 6×6 pixels under it and the 3×3 taps
//! become 36 numbers a channel, the 36 matrices of (tile, input) are multiplied by those of
//! (input, output), and the 36 sums become the tile's pixels (Winograd 1980; Lavin and Gray 2016,
//! arXiv:1509.09308). The five points are 0, ±√½ and ±√2, with which sums of f32 stray five times
//! as far as direct ones do; with the usual 0, ±1, ±2 it is ten times, and forty at the worst.
//! What is infinite, or no number, spreads over all tiles that see it.
#![allow(unsafe_code)]

mod by_weight;
mod forward;
mod transform;
mod weights;

use std::ops::Range;

use super::Patches;
use crate::gemm::kernel::Kernel;
use crate::gemm::{Cut, for_each};
use crate::level::Level;
use crate::scratch::Shared;
pub(super) use by_weight::by_weight;
pub(super) use forward::Forward;
use transform::{LANES, gradients, windows};
pub(super) use weights::{Plain, Weights};

/// Rows and columns of a tile of the result.
const TILE: usize = 4;
/// Rows and columns of the pixels under a tile.
const WINDOW: usize = 6;
/// Matrices.
const PLACES: usize = WINDOW * WINDOW;
/// Taps of a kernel.
const TAPS: usize = 9;
/// Fewer channels, and fewer tiles, cost more to transform than is saved.
const FEWEST_CHANNELS: usize = 32;
const FEWEST_TILES: usize = 8;
/// Channels that are multiplied before the sums go back to memory.
const MOST_CHANNELS: usize = 128;
/// Transformed elements at once.
const MOST_AT_ONCE: usize = 1 << 22;

/// Whether it takes less time than [`crate::gemm`] with this kernel for these patches and so many
/// outputs. Products are of f32 here, even if that kernel's are of pairs of bfloat16, which are
/// twice as fast: a quarter of the products is still less work, and more exact.
pub(super) fn suits(kernel: Kernel, patches: &Patches<'_>, outputs: usize) -> bool {
    let (height, width, inputs) = patches.size;
    let pictures = patches.data.len() / (height * width * inputs).max(1);
    let tiles = patches.grid.0.div_ceil(TILE) * patches.grid.1.div_ceil(TILE);
    kernel.of_singles().depth() == 1
        && patches.kernel == (3, 3)
        && (patches.step, patches.zoom) == (1, 1)
        && inputs.is_multiple_of(LANES)
        && outputs.is_multiple_of(LANES)
        && inputs.min(outputs) >= FEWEST_CHANNELS
        && pictures * tiles >= FEWEST_TILES * kernel.depth()
        // Tiles that reach beyond the picture are work for nothing.
        && tiles * PLACES * 3 <= patches.grid.0 * patches.grid.1 * TAPS * 2
}

/// Channels in pieces that are multiplied at once.
fn pieces_of(channels: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let cut = Cut::into((channels, LANES), channels.div_ceil(most));
    (0..cut.count()).map(move |index| cut.piece(index))
}

/// Pictures under, or of, tiles.
#[derive(Clone, Copy)]
struct Tiled<'a> {
    data: &'a [f32],
    /// Rows, columns, channels of a picture.
    size: (usize, usize, usize),
    /// Rows and columns of tiles in a picture.
    tiles: (usize, usize),
    /// Where the first tile's pixels begin.
    shift: (isize, isize),
}

impl<'a> Tiled<'a> {
    /// What patches see.
    fn under(patches: &Patches<'a>) -> Self {
        let tiles = (patches.grid.0.div_ceil(TILE), patches.grid.1.div_ceil(TILE));
        Self { data: patches.data, size: patches.size, tiles, shift: patches.shift }
    }

    /// Rows of `side` pixels from where a tile begins, some of their channels; zeros where there
    /// are none.
    fn pixels<const COUNT: usize>(
        &self,
        tile: usize,
        channels: &Range<usize>,
        side: usize,
    ) -> [&'a [f32]; COUNT] {
        static ZEROS: [f32; MOST_CHANNELS] = [0.0; MOST_CHANNELS];
        let (height, width, depth) = self.size;
        let (picture, row, column) = self.place(tile);
        let first = |index: usize, shift: isize| (index * TILE) as isize + shift;
        let (y, x) = (first(row, self.shift.0), first(column, self.shift.1));
        let inside = |at: isize, length: usize| usize::try_from(at).ok().filter(|at| *at < length);
        std::array::from_fn(|at| {
            let y = inside(y + (at / side) as isize, height);
            match (y, inside(x + (at % side) as isize, width)) {
                (Some(y), Some(x)) => {
                    let pixel = (picture * height + y) * width + x;
                    &self.data[pixel * depth..][channels.clone()]
                }
                _ => &ZEROS[..channels.len()],
            }
        })
    }

    /// Picture, row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (line, column) = (tile / self.tiles.1, tile % self.tiles.1);
        (line / self.tiles.0, line % self.tiles.0, column)
    }

    /// Windows of some tiles: `(piece of the channels, place, tile, channel)`.
    fn windows(&self, level: Level, most: usize, tiles: Range<usize>, to: &mut [f32]) {
        self.transform((WINDOW, most), tiles, to, |pixels, to, plane| {
            windows(level, pixels, to, plane);
        });
    }

    /// Tiles of a gradient, in the same order.
    fn gradients(&self, level: Level, most: usize, tiles: Range<usize>, to: &mut [f32]) {
        self.transform((TILE, most), tiles, to, |pixels, to, plane| {
            gradients(level, pixels, to, plane);
        });
    }

    /// Lets `work` write the places of `side`² pixels, some channels of a tile at a time.
    fn transform<const COUNT: usize>(
        &self,
        (side, most): (usize, usize),
        tiles: Range<usize>,
        to: &mut [f32],
        work: impl Fn(&[&[f32]; COUNT], &mut [f32], usize),
    ) {
        for (index, tile) in tiles.clone().enumerate() {
            for piece in pieces_of(self.size.2, most) {
                let at = piece.start * PLACES * tiles.len() + index * piece.len();
                work(&self.pixels(tile, &piece, side), &mut to[at..], tiles.len() * piece.len());
            }
        }
    }
}

/// Lets `work` write the transform of each block of tiles, counted from the first.
fn for_blocks(
    (cut, first): (Cut, usize),
    parallel: bool,
    (to, channels): (&mut [f32], usize),
    work: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
) {
    let to = Shared::new(to);
    for_each(parallel, cut.count(), |index| {
        let Range { start, end } = cut.piece(index);
        let element = channels * PLACES;
        // SAFETY: blocks do not overlap.
        let part = unsafe { to.part(start * element, (end - start) * element) };
        work(first + start..first + end, part);
    });
}
