//! 2-D convolution on channels-last activations: forward, by data, by weights.
//!
//! All three are matrix products; the matrix of patches is virtual: its rows are read from the
//! activations as panels are packed, so it never exists as a whole.

use rayon::prelude::*;

use crate::gemm::{Dense, Matrix, Operand, Output, Size, gemm};
use crate::level::Engine;

/// Shapes of a convolution: `x` `(batch, height, width, inputs)`, `weight`
/// `(outputs, inputs, kernel_height, kernel_width)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Pictures.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Rows and columns of the kernel.
    pub kernel: (usize, usize),
    /// Step.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
}

impl ConvShape {
    /// Rows and columns of the output.
    pub fn output_size(&self) -> (usize, usize) {
        let size = |length: usize, kernel: usize| {
            (length + 2 * self.padding).checked_sub(kernel).map_or(0, |room| room / self.stride + 1)
        };
        (size(self.height, self.kernel.0), size(self.width, self.kernel.1))
    }

    fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    fn output_pixels(&self) -> usize {
        let (height, width) = self.output_size();
        self.batch * height * width
    }

    /// A convolution that is a plain matrix product.
    fn is_pointwise(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == 0
    }
}

/// The virtual matrix of patches: one row for each position of a grid, columns `(tap, channel)`.
///
/// Tap `t` of grid position `p` reads the pixel `(p · step + shift ± t) / zoom`, zero if that is
/// no whole number or outside.
struct Patches<'a> {
    data: &'a [f32],
    /// Rows, columns, channels of `data`.
    size: (usize, usize, usize),
    grid: (usize, usize),
    kernel_width: usize,
    step: isize,
    shift: isize,
    sign: isize,
    zoom: isize,
}

impl<'a> Patches<'a> {
    fn of_input(x: &'a [f32], shape: &ConvShape) -> Self {
        Self {
            data: x,
            size: (shape.height, shape.width, shape.inputs),
            grid: shape.output_size(),
            kernel_width: shape.kernel.1,
            step: shape.stride as isize,
            shift: -(shape.padding as isize),
            sign: 1,
            zoom: 1,
        }
    }

    fn of_output(gradient: &'a [f32], shape: &ConvShape) -> Self {
        let (height, width) = shape.output_size();
        Self {
            data: gradient,
            size: (height, width, shape.outputs),
            grid: (shape.height, shape.width),
            kernel_width: shape.kernel.1,
            step: 1,
            shift: shape.padding as isize,
            sign: -1,
            zoom: shape.stride as isize,
        }
    }

    /// Start of the pixel that a tap of a row reads, if there is one.
    #[inline]
    fn pixel(&self, (batch, y, x): (usize, isize, isize), tap: usize) -> Option<usize> {
        let (height, width, channels) = self.size;
        let (ky, kx) = (tap / self.kernel_width, tap % self.kernel_width);
        let y = self.unzoom(y + self.sign * ky as isize, height)?;
        let x = self.unzoom(x + self.sign * kx as isize, width)?;
        Some(((batch * height + y) * width + x) * channels)
    }

    #[inline]
    fn unzoom(&self, position: isize, length: usize) -> Option<usize> {
        if self.zoom == 1 {
            return (position >= 0 && position < length as isize).then_some(position as usize);
        }
        let whole = position >= 0 && position % self.zoom == 0;
        (whole && position / self.zoom < length as isize).then_some((position / self.zoom) as usize)
    }
}

impl Matrix for Patches<'_> {
    #[inline]
    fn row<'b>(&'b self, row: usize, column: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let (height, width) = self.grid;
        let channels = self.size.2;
        let place = |position: usize| position as isize * self.step + self.shift;
        let origin = (row / (height * width), place(row / width % height), place(row % width));
        let (mut tap, mut channel) = (column / channels, column % channels);
        if channel + buffer.len() <= channels {
            return match self.pixel(origin, tap) {
                Some(start) => &self.data[start + channel..start + channel + buffer.len()],
                None => {
                    buffer.fill(0.0);
                    buffer
                }
            };
        }
        let mut rest = &mut *buffer;
        while !rest.is_empty() {
            let len = rest.len().min(channels - channel);
            let (piece, after) = rest.split_at_mut(len);
            match self.pixel(origin, tap) {
                Some(start) => {
                    let start = start + channel;
                    piece.copy_from_slice(&self.data[start..start + len]);
                }
                None => piece.fill(0.0),
            }
            rest = after;
            tap += 1;
            channel = 0;
        }
        buffer
    }
}

/// `(outputs, inputs, taps)` → `(outputs, taps, inputs)`.
fn taps_before_inputs(weight: &[f32], shape: &ConvShape) -> Vec<f32> {
    let (inputs, taps) = (shape.inputs, shape.taps());
    let mut to = vec![0.0; weight.len()];
    let size = (inputs * taps).max(1);
    to.par_chunks_exact_mut(size).zip(weight.par_chunks_exact(size)).with_min_len(16).for_each(
        |(to, from)| {
            for (tap, to) in to.chunks_exact_mut(inputs).enumerate() {
                for (to, from) in to.iter_mut().zip(from[tap..].iter().step_by(taps)) {
                    *to = *from;
                }
            }
        },
    );
    to
}

/// `(outputs, inputs, taps)` → `(taps, outputs, inputs)`.
fn taps_before_outputs(weight: &[f32], shape: &ConvShape) -> Vec<f32> {
    let (inputs, outputs, taps) = (shape.inputs, shape.outputs, shape.taps());
    let mut to = vec![0.0; weight.len()];
    to.par_chunks_exact_mut(inputs.max(1)).with_min_len(128).enumerate().for_each(|(row, to)| {
        let (tap, output) = (row / outputs, row % outputs);
        let from = &weight[output * inputs * taps + tap..];
        for (to, from) in to.iter_mut().zip(from.iter().step_by(taps)) {
            *to = *from;
        }
    });
    to
}

/// `y = x ⋆ weight + bias`, `y` `(batch, h', w', outputs)`.
pub fn conv2d(
    engine: Engine,
    shape: &ConvShape,
    (x, weight, bias): (&[f32], &[f32], Option<&[f32]>),
    y: &mut [f32],
) {
    let size = Size { m: shape.output_pixels(), n: shape.outputs, k: shape.taps() * shape.inputs };
    let output = Output { data: y, stride: size.n, bias, accumulate: false };
    if shape.is_pointwise() {
        let (x, weight) = (Dense::new(x, size.k), Dense::new(weight, size.k));
        let (x, weight) = (Operand::rows_along_k(&x), Operand::rows_along_k(&weight));
        return gemm(engine, size, x, weight, output);
    }
    let patches = Patches::of_input(x, shape);
    let weight = taps_before_inputs(weight, shape);
    let weight = Dense::new(&weight, size.k);
    let (patches, weight) = (Operand::rows_along_k(&patches), Operand::rows_along_k(&weight));
    gemm(engine, size, patches, weight, output);
}

/// The gradient of [`conv2d`] by `x`, given that of `y`.
pub fn conv2d_by_data(
    engine: Engine,
    shape: &ConvShape,
    (gradient, weight): (&[f32], &[f32]),
    by_data: &mut [f32],
) {
    let m = shape.batch * shape.height * shape.width;
    let size = Size { m, n: shape.inputs, k: shape.taps() * shape.outputs };
    let output = Output { data: by_data, stride: size.n, bias: None, accumulate: false };
    if shape.is_pointwise() {
        let (gradient, weight) = (Dense::new(gradient, size.k), Dense::new(weight, size.n));
        let (gradient, weight) =
            (Operand::rows_along_k(&gradient), Operand::rows_across_k(&weight));
        return gemm(engine, size, gradient, weight, output);
    }
    let patches = Patches::of_output(gradient, shape);
    let weight = taps_before_outputs(weight, shape);
    let weight = Dense::new(&weight, size.n);
    let (patches, weight) = (Operand::rows_along_k(&patches), Operand::rows_across_k(&weight));
    gemm(engine, size, patches, weight, output);
}

/// The gradient of [`conv2d`] by `weight`, given that of `y`.
pub fn conv2d_by_weight(
    engine: Engine,
    shape: &ConvShape,
    (gradient, x): (&[f32], &[f32]),
    by_weight: &mut [f32],
) {
    let (inputs, taps) = (shape.inputs, shape.taps());
    let size = Size { m: shape.outputs, n: taps * inputs, k: shape.output_pixels() };
    let gradient = Dense::new(gradient, size.m);
    let gradient = Operand::rows_across_k(&gradient);
    if shape.is_pointwise() {
        let x = Dense::new(x, size.n);
        let output = Output { data: by_weight, stride: size.n, bias: None, accumulate: false };
        return gemm(engine, size, gradient, Operand::rows_across_k(&x), output);
    }
    let patches = Patches::of_input(x, shape);
    let mut sums = vec![0.0; size.m * size.n];
    let output = Output { data: &mut sums, stride: size.n, bias: None, accumulate: false };
    gemm(engine, size, gradient, Operand::rows_across_k(&patches), output);
    let rows = by_weight.par_chunks_exact_mut(size.n).zip(sums.par_chunks_exact(size.n));
    rows.with_min_len(16).for_each(|(to, from)| {
        for (tap, from) in from.chunks_exact(inputs).enumerate() {
            for (to, from) in to[tap..].iter_mut().step_by(taps).zip(from) {
                *to = *from;
            }
        }
    });
}

#[cfg(test)]
mod tests;
