//! The taps of a convolution, from wherever its weights are.

use std::ops::Range;

use super::TAPS;
use super::transform::LANES;
use crate::conv::ConvShape;
use crate::gemm::PanelRows;
use crate::gemm::kernel::Kernel;
use crate::level::vectorised;
use crate::scratch::{bits, bits_mut};

/// Weights of `(tap, input)` by outputs.
#[derive(Clone, Copy)]
pub(in crate::conv) enum Weights<'a> {
    /// Prepared once.
    Packed(PanelRows<'a>),
    /// `(output, input, tap)`, as they are trained.
    Plain(Plain<'a>),
    /// The same of the gradient by data: its inputs are the outputs, and taps run backwards.
    Backwards(Plain<'a>),
}

/// Weights `(output, input, tap)`.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Plain<'a> {
    kernel: Kernel,
    weight: &'a [f32],
    outputs: usize,
    inputs: usize,
}

impl<'a> Plain<'a> {
    pub(in crate::conv) fn new(kernel: Kernel, shape: &ConvShape, weight: &'a [f32]) -> Self {
        let ConvShape { outputs, inputs, .. } = *shape;
        assert_eq!(weight.len(), outputs * inputs * TAPS);
        Self { kernel: kernel.of_singles(), weight, outputs, inputs }
    }
}

impl Weights<'_> {
    pub(super) fn kernel(&self) -> Kernel {
        match self {
            Self::Packed(panels) => panels.kernel(),
            Self::Plain(plain) | Self::Backwards(plain) => plain.kernel,
        }
    }

    /// Columns of all panels.
    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Packed(panels) => panels.columns(),
            Self::Plain(plain) => plain.outputs,
            Self::Backwards(plain) => plain.inputs,
        }
    }

    pub(super) fn panels(&self) -> usize {
        self.columns().div_ceil(self.kernel().columns())
    }

    /// The columns of a panel.
    pub(super) fn panel(&self, panel: usize) -> Range<usize> {
        let width = self.kernel().columns();
        panel * width..((panel + 1) * width).min(self.columns())
    }

    /// Copies the taps of some inputs and of a panel: `(tap, input, column)`.
    pub(super) fn copy(&self, panel: usize, piece: Range<usize>, to: &mut [f32]) {
        let columns = self.panel(panel);
        let plane = piece.len() * columns.len();
        match self {
            Self::Packed(panels) => {
                for (tap, to) in to.chunks_exact_mut(plane).enumerate() {
                    let first = tap * (panels.rows() / TAPS) + piece.start;
                    panels.copy(panel, first..first + piece.len(), to);
                }
            }
            Self::Plain(plain) => {
                let (from, row) = (&plain.weight[piece.start * TAPS..], plain.inputs * TAPS);
                across(plain.kernel, (from, row), (&columns, piece.len()), to);
            }
            Self::Backwards(plain) => {
                for (index, output) in piece.enumerate() {
                    let row = &plain.weight[output * plain.inputs * TAPS..];
                    let row = &row[columns.start * TAPS..columns.end * TAPS];
                    let to = &mut to[index * columns.len()..];
                    backwards(plain.kernel.level(), row, to, plane);
                }
            }
        }
    }
}

/// Columns of `(input, tap)`, `row` apart, become `(tap, input, column)`.
fn across(
    kernel: Kernel,
    (from, row): (&[f32], usize),
    (columns, inputs): (&Range<usize>, usize),
    to: &mut [f32],
) {
    let (from, mut block) = (bits(from), [0.0; LANES * LANES]);
    for column in columns.clone().step_by(LANES) {
        for first in (0..inputs * TAPS).step_by(LANES) {
            kernel.transpose16(&from[column * row + first..], row, bits_mut(&mut block), LANES);
            for (index, lanes) in block.as_chunks::<LANES>().0.iter().enumerate() {
                let (input, tap) = ((first + index) / TAPS, (first + index) % TAPS);
                let at = (tap * inputs + input) * columns.len() + column - columns.start;
                to[at..at + LANES].copy_from_slice(lanes);
            }
        }
    }
}

vectorised! {
    /// `(element, tap)` become `(tap, element)`, `plane` apart, the last tap first.
    fn backwards(level: Level, from: &[f32], to: &mut [f32], plane: usize) {
        let (blocks, _) = from.as_chunks::<{ LANES * TAPS }>();
        for (index, block) in blocks.iter().enumerate() {
            for tap in 0..TAPS {
                let to = &mut to[(TAPS - 1 - tap) * plane + index * LANES..][..LANES];
                for i in 0..LANES {
                    to[i] = block[i * TAPS + tap];
                }
            }
        }
    }
}
