//! 2-D convolution on channels-last activations: forward, by data, by weights.
//!
//! All three are matrix products; the matrix of patches is virtual: its rows are read from the
//! activations as panels are packed, so it never exists as a whole; or kernels read them where the
//! activations lie, with zeros around each picture.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::{Fresh, in_chunks};
use crate::gemm::kernel::Kernel;
use crate::gemm::{
    Dense, Lying, Matrix, Operand, Output, Packed, Size, gemm, gemm_packed, reads_lying,
    rounded_pairs,
};
use crate::level::{Engine, vectorised};
use winograd::{Forward, Plain, Weights};

mod winograd;

/// Pictures with margins are not made if they would have more elements.
const MOST_WITH_MARGINS: usize = 1 << 26;

/// Shapes of a convolution: `x` `(batch, height, width, inputs)`, `weight`
/// `(outputs, inputs, kernel_height, kernel_width)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
/// Tap `t` of grid position `p` reads the pixel `(p · step + shift + t) / zoom`, zero if that is
/// no whole number or outside.
struct Patches<'a> {
    data: &'a [f32],
    /// `data` rounded to pairs of bfloat16, where the kernel wants them.
    pairs: Option<Vec<u32>>,
    /// Rows, columns, channels of `data`.
    size: (usize, usize, usize),
    grid: (usize, usize),
    kernel: (usize, usize),
    step: isize,
    shift: (isize, isize),
    zoom: isize,
}

impl<'a> Patches<'a> {
    fn of_input(x: &'a [f32], shape: &ConvShape) -> Self {
        let shift = -(shape.padding as isize);
        Self {
            data: x,
            pairs: None,
            size: (shape.height, shape.width, shape.inputs),
            grid: shape.output_size(),
            kernel: shape.kernel,
            step: shape.stride as isize,
            shift: (shift, shift),
            zoom: 1,
        }
    }

    /// For the gradient by data: taps run backwards, see [`FlippedTaps`].
    fn of_output(gradient: &'a [f32], shape: &ConvShape) -> Self {
        let (height, width) = shape.output_size();
        let shift = |kernel: usize| shape.padding as isize + 1 - kernel as isize;
        Self {
            data: gradient,
            pairs: None,
            size: (height, width, shape.outputs),
            grid: (shape.height, shape.width),
            kernel: shape.kernel,
            step: 1,
            shift: (shift(shape.kernel.0), shift(shape.kernel.1)),
            zoom: shape.stride as isize,
        }
    }

    /// The data with as many zeros around it that no patch reaches beyond them; `None` if that
    /// cannot be, or would take more memory than it saves time.
    fn with_margins(&self) -> Option<Vec<f32>> {
        let (height, width, channels) = self.with_margins_size();
        let line = width * channels;
        let pictures = self.data.len() / (self.size.0 * self.size.1 * channels).max(1);
        let len = pictures * height * line;
        if self.zoom != 1 || self.data.is_empty() || len > MOST_WITH_MARGINS {
            return None;
        }
        let copy = |start: usize, to: &mut Fresh| {
            let (picture, y) = (start / line / height, start / line % height);
            self.line_with_margins((picture, y as isize + self.shift.0), channels, to);
        };
        // SAFETY: each chunk is one line, all of which is written.
        Some(unsafe { in_chunks(len, line, copy) })
    }

    /// Rows, columns and channels with margins.
    fn with_margins_size(&self) -> (usize, usize, usize) {
        let length = |grid: usize, kernel: usize| (grid.max(1) - 1) * self.step as usize + kernel;
        let (height, width) =
            (length(self.grid.0, self.kernel.0), length(self.grid.1, self.kernel.1));
        (height, width, self.size.2)
    }

    /// Writes a line of pixels with zeros where there are none.
    fn line_with_margins(&self, (picture, y): (usize, isize), channels: usize, to: &mut Fresh) {
        let line = self.size.1 * channels;
        let first = self.shift.1 * channels as isize;
        let left = (-first).clamp(0, to.len() as isize) as usize;
        let start = first.max(0) as usize;
        let pixels = match self.unzoom(y, self.size.0) {
            Some(y) => &self.data[(picture * self.size.0 + y) * line..][..line],
            None => &[],
        };
        let pixels = &pixels[start.min(pixels.len())..];
        let count = pixels.len().min(to.len() - left);
        let (before, rest) = to.split_at_mut(left);
        let (inside, after) = rest.split_at_mut(count);
        for slot in before.iter_mut().chain(after) {
            slot.write(0.0);
        }
        inside.iter_mut().zip(pixels).for_each(|(slot, pixel)| {
            slot.write(*pixel);
        });
    }

    /// The same patches, read from data with margins.
    fn inside<'b>(&self, data: &'b [f32]) -> Patches<'b> {
        let size = self.with_margins_size();
        let (grid, kernel, step, zoom) = (self.grid, self.kernel, self.step, self.zoom);
        Patches { data, pairs: None, size, grid, kernel, step, shift: (0, 0), zoom }
    }

    /// Ready to be a left operand: in memory where rows can be read there, in `margins` if need be,
    /// else rounded if the engine rounds.
    fn ready(
        self,
        reads_lying: bool,
        margins: &'a mut Option<Vec<f32>>,
        round: impl FnOnce(&[f32]) -> Option<Vec<u32>>,
    ) -> Self {
        if reads_lying && self.lying().is_none() {
            *margins = self.with_margins();
        }
        match margins {
            Some(data) => self.inside(data),
            None => self.rounded(round),
        }
    }

    /// Rounds the data once instead of once for each tap, if the engine rounds at all.
    fn rounded(mut self, round: impl FnOnce(&[f32]) -> Option<Vec<u32>>) -> Self {
        if self.size.2.is_multiple_of(2) {
            self.pairs = round(self.data);
        }
        self
    }

    /// Picture, row and column where the patch of a grid position starts.
    #[inline]
    fn origin(&self, row: usize) -> (usize, isize, isize) {
        let (height, width) = self.grid;
        let (y, x) = (row / width, row % width);
        let (picture, y) = (y / height, y % height);
        let place = |position: usize, shift: isize| position as isize * self.step + shift;
        (picture, place(y, self.shift.0), place(x, self.shift.1))
    }

    #[inline]
    fn unzoom(&self, position: isize, length: usize) -> Option<usize> {
        if self.zoom == 1 {
            return (position >= 0 && position < length as isize).then_some(position as usize);
        }
        let whole = position >= 0 && position % self.zoom == 0;
        (whole && position / self.zoom < length as isize).then_some((position / self.zoom) as usize)
    }

    /// Elements `start..start + length` of a row, if they lie side by side in `data`, where a
    /// pixel has `channels` elements.
    #[inline]
    fn run(&self, row: usize, start: usize, length: usize, channels: usize) -> Option<usize> {
        let line = self.kernel.1 * channels;
        let (ky, from) = (start / line, start % line);
        if self.zoom != 1 || from + length > line {
            return None;
        }
        let (picture, y, x) = self.origin(row);
        let y = self.unzoom(y + ky as isize, self.size.0)?;
        let first = x * channels as isize + from as isize;
        let inside = first >= 0 && first as usize + length <= self.size.1 * channels;
        inside.then(|| (picture * self.size.0 + y) * self.size.1 * channels + first as usize)
    }

    /// Copies elements of a row from `start` on; pixels of `data` have `channels` elements.
    #[inline]
    fn gather<T: Copy + Default>(
        &self,
        (data, channels): (&[T], usize),
        row: usize,
        start: usize,
        to: &mut [T],
    ) {
        let (picture, y, x) = self.origin(row);
        let line = self.kernel.1 * channels;
        let (mut ky, mut from) = (start / line, start % line);
        let mut rest = to;
        while !rest.is_empty() {
            let length = rest.len().min(line - from);
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            match self.unzoom(y + ky as isize, self.size.0).filter(|_| ky < self.kernel.0) {
                None => piece.fill(T::default()),
                Some(y) => {
                    let at = (picture * self.size.0 + y) * self.size.1 * channels;
                    let pixels = &data[at..at + self.size.1 * channels];
                    self.gather_line((pixels, channels), x, from, piece);
                }
            }
            ky += 1;
            from = 0;
        }
    }

    /// Copies elements of the taps of one kernel row, whose first tap is at column `x`.
    #[inline]
    fn gather_line<T: Copy + Default>(
        &self,
        (pixels, channels): (&[T], usize),
        x: isize,
        from: usize,
        to: &mut [T],
    ) {
        if self.zoom == 1 {
            let first = x * channels as isize + from as isize;
            let left = (-first).clamp(0, to.len() as isize) as usize;
            let end = (pixels.len() as isize - first).clamp(left as isize, to.len() as isize);
            let end = end as usize;
            to[..left].fill(T::default());
            to[end..].fill(T::default());
            if left < end {
                let at = (first + left as isize) as usize;
                to[left..end].copy_from_slice(&pixels[at..at + end - left]);
            }
            return;
        }
        let (mut kx, mut channel) = (from / channels, from % channels);
        let mut rest = to;
        while !rest.is_empty() {
            let length = rest.len().min(channels - channel);
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            match self.unzoom(x + kx as isize, self.size.1) {
                None => piece.fill(T::default()),
                Some(x) => {
                    let at = x * channels + channel;
                    piece.copy_from_slice(&pixels[at..at + length]);
                }
            }
            kx += 1;
            channel = 0;
        }
    }
}

impl Matrix for Patches<'_> {
    #[inline]
    fn each_row(
        &self,
        rows: Range<usize>,
        column: usize,
        buffer: &mut [f32],
        mut visit: impl FnMut(&[f32]),
    ) {
        let channels = self.size.2;
        let line = self.kernel.1 * channels;
        let (ky, from) = (column / line, column % line);
        let whole = self.zoom == 1 && from + buffer.len() <= line;
        let mut next = rows.start;
        while next < rows.end {
            // Patches of one line of the grid: only their column changes.
            let (picture, y, x) = self.origin(next);
            let count = (self.grid.1 - next % self.grid.1).min(rows.end - next);
            let y = self.unzoom(y + ky as isize, self.size.0).filter(|_| whole);
            for i in 0..count {
                let first = (x + i as isize * self.step) * channels as isize + from as isize;
                let end = first + buffer.len() as isize;
                match y {
                    Some(y) if first >= 0 && end as usize <= self.size.1 * channels => {
                        let at = (picture * self.size.0 + y) * self.size.1 * channels;
                        visit(&self.data[at + first as usize..at + end as usize]);
                    }
                    _ => {
                        self.gather((self.data, channels), next + i, column, buffer);
                        visit(buffer);
                    }
                }
            }
            next += count;
        }
    }

    #[inline]
    fn row<'b>(&'b self, row: usize, column: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let channels = self.size.2;
        if let Some(start) = self.run(row, column, buffer.len(), channels) {
            return &self.data[start..start + buffer.len()];
        }
        self.gather((self.data, channels), row, column, buffer);
        buffer
    }

    fn lying(&self) -> Option<Lying<'_>> {
        let (height, width, channels) = self.with_margins_size();
        let fits = self.shift == (0, 0) && height <= self.size.0 && width <= self.size.1;
        if self.zoom != 1 || !fits {
            return None;
        }
        let (step, line) = (self.step as usize, self.size.1 * channels);
        Some(Lying {
            data: self.data,
            row: step * channels,
            line: (self.grid.1, step * line),
            picture: (self.grid.0, self.size.0 * line),
            run: (self.kernel.1 * channels, line),
        })
    }

    #[inline]
    fn pairs(&self, row: usize, lane: usize, to: &mut [u32]) -> bool {
        let Some(pairs) = &self.pairs else { return false };
        self.gather((pairs, self.size.2 / 2), row, lane, to);
        true
    }
}

vectorised! {
    /// The transpose of `from`, rows of `width`: rows of `from.len() / width`.
    fn transpose(level: Level, from: &[f32], width: usize, to: &mut [f32]) {
        let height = from.len() / width;
        if width == 9 {
            // 3×3 kernels: sixteen rows of nine at a time, so that reads and writes both stay
            // in a few cache lines.
            let whole = height / 16 * 16;
            for start in (0..whole).step_by(16) {
                let block = &from[start * 9..start * 9 + 144];
                for tap in 0..9 {
                    let to = &mut to[tap * height + start..tap * height + start + 16];
                    for i in 0..16 {
                        to[i] = block[i * 9 + tap];
                    }
                }
            }
            for row in whole..height {
                for tap in 0..9 {
                    to[tap * height + row] = from[row * 9 + tap];
                }
            }
            return;
        }
        for (row, from) in from.chunks_exact(width).enumerate() {
            for (column, value) in from.iter().enumerate() {
                to[column * height + row] = *value;
            }
        }
    }
}

vectorised! {
    /// [`transpose`] to rows of nine.
    fn transpose_to_nine(level: Level, from: &[f32], to: &mut [f32]) {
        let width = from.len() / 9;
        let whole = width / 16 * 16;
        for start in (0..whole).step_by(16) {
            let block = &mut to[start * 9..start * 9 + 144];
            for tap in 0..9 {
                let from = &from[tap * width + start..tap * width + start + 16];
                for i in 0..16 {
                    block[i * 9 + tap] = from[i];
                }
            }
        }
        for row in whole..width {
            for tap in 0..9 {
                to[row * 9 + tap] = from[tap * width + row];
            }
        }
    }
}

/// `(outputs, inputs, taps)` → `(outputs, taps, inputs)`.
fn taps_before_inputs(engine: Engine, weight: &[f32], shape: &ConvShape) -> Vec<f32> {
    let mut to = vec![0.0; weight.len()];
    let size = (shape.inputs * shape.taps()).max(1);
    to.par_chunks_exact_mut(size)
        .zip(weight.par_chunks_exact(size))
        .with_min_len(16)
        .for_each(|(to, from)| transpose(engine.level(), from, shape.taps(), to));
    to
}

/// `(outputs, taps, inputs)` → `(outputs, inputs, taps)`.
fn inputs_before_taps(engine: Engine, from: &[f32], shape: &ConvShape, to: &mut [f32]) {
    let size = (shape.inputs * shape.taps()).max(1);
    to.par_chunks_exact_mut(size).zip(from.par_chunks_exact(size)).with_min_len(16).for_each(
        |(to, from)| {
            if shape.taps() == 9 {
                transpose_to_nine(engine.level(), from, to);
            } else {
                transpose(engine.level(), from, shape.inputs, to);
            }
        },
    );
}

/// `(taps, outputs, inputs)`, the last tap first, of weights whose memory is
/// `(outputs, taps, inputs)`.
struct FlippedTaps<'a> {
    weight: &'a [f32],
    taps: usize,
    outputs: usize,
    inputs: usize,
}

impl Matrix for FlippedTaps<'_> {
    #[inline]
    fn row<'b>(&'b self, row: usize, column: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let (tap, output) = (self.taps - 1 - row / self.outputs, row % self.outputs);
        let start = (output * self.taps + tap) * self.inputs + column;
        &self.weight[start..start + buffer.len()]
    }
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
    let (patches, kernel) = (Patches::of_input(x, shape), Kernel::of(engine));
    if winograd::suits(kernel, &patches, shape.outputs) {
        let weight = Weights::Plain(Plain::new(kernel, shape, weight));
        return Forward::new(&patches, weight, bias).execute(output.data);
    }
    let weight = taps_before_inputs(engine, weight, shape);
    let weight = Dense::new(&weight, size.k);
    of_patches(engine, size, patches, Operand::rows_along_k(&weight), output);
}

/// Packs the weights of convolutions of this shape, whatever the batch and the picture's size.
pub fn pack_conv2d(engine: Engine, shape: &ConvShape, weight: &[f32]) -> Packed {
    let k = shape.taps() * shape.inputs;
    let weight = taps_before_inputs(engine, weight, shape);
    let weight = Dense::new(&weight, k);
    Packed::new(engine, shape.outputs, k, Operand::rows_along_k(&weight))
}

/// [`conv2d`] with weights of [`pack_conv2d`].
pub fn conv2d_packed(
    shape: &ConvShape,
    (x, weight, bias): (&[f32], &Packed, Option<&[f32]>),
    y: &mut [f32],
) {
    let output = Output { data: y, stride: shape.outputs, bias, accumulate: false };
    if shape.is_pointwise() {
        let x = Dense::new(x, shape.inputs);
        return gemm_packed(shape.output_pixels(), Operand::rows_along_k(&x), weight, output);
    }
    let patches = Patches::of_input(x, shape);
    if winograd::suits(weight.kernel(), &patches, shape.outputs) {
        return Forward::new(&patches, Weights::Packed(weight.panel_rows()), bias).execute(y);
    }
    let mut margins = None;
    let patches = patches.ready(weight.reads_lying(), &mut margins, |x| weight.rounded_pairs(x));
    gemm_packed(shape.output_pixels(), Operand::rows_along_k(&patches), weight, output);
}

/// The gradient of [`conv2d_packed`] by `x`, given that of `y`.
pub fn conv2d_packed_by_data(
    engine: Engine,
    shape: &ConvShape,
    (gradient, weight): (&[f32], &Packed),
    by_data: &mut [f32],
) {
    let weight = weight.unpack();
    if winograd::suits(Kernel::of(engine), &Patches::of_output(gradient, shape), shape.inputs) {
        let mut plain = vec![0.0; weight.len()];
        inputs_before_taps(engine, &weight, shape, &mut plain);
        return conv2d_by_data(engine, shape, (gradient, &plain), by_data);
    }
    by_data_of_taps(engine, shape, (gradient, &weight), by_data);
}

/// The gradient of [`conv2d`] by `x`, given that of `y`.
pub fn conv2d_by_data(
    engine: Engine,
    shape: &ConvShape,
    (gradient, weight): (&[f32], &[f32]),
    by_data: &mut [f32],
) {
    if shape.is_pointwise() {
        return by_data_of_taps(engine, shape, (gradient, weight), by_data);
    }
    let (patches, kernel) = (Patches::of_output(gradient, shape), Kernel::of(engine));
    if winograd::suits(kernel, &patches, shape.inputs) {
        let weight = Weights::Backwards(Plain::new(kernel, shape, weight));
        return Forward::new(&patches, weight, None).execute(by_data);
    }
    let weight = taps_before_inputs(engine, weight, shape);
    by_data_of_taps(engine, shape, (gradient, &weight), by_data);
}

/// [`conv2d_by_data`] of weights `(outputs, taps, inputs)`.
fn by_data_of_taps(
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
    let (taps, outputs, inputs) = (shape.taps(), shape.outputs, shape.inputs);
    let weight = FlippedTaps { weight, taps, outputs, inputs };
    of_patches(
        engine,
        size,
        Patches::of_output(gradient, shape),
        Operand::rows_across_k(&weight),
        output,
    );
}

/// The product of patches with weights of `(tap, channel)` along k.
fn of_patches<B: Matrix>(
    engine: Engine,
    size: Size,
    patches: Patches<'_>,
    weight: Operand<'_, B>,
    output: Output<'_>,
) {
    let mut margins = None;
    let patches = patches.ready(reads_lying(engine), &mut margins, |x| rounded_pairs(engine, x));
    gemm(engine, size, Operand::rows_along_k(&patches), weight, output);
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
    let rows = Dense::new(gradient, size.m);
    let rows = Operand::rows_across_k(&rows);
    if shape.is_pointwise() {
        let x = Dense::new(x, size.n);
        let output = Output { data: by_weight, stride: size.n, bias: None, accumulate: false };
        return gemm(engine, size, rows, Operand::rows_across_k(&x), output);
    }
    let patches = Patches::of_input(x, shape);
    let kernel = Kernel::of(engine);
    if winograd::suits(kernel, &patches, shape.outputs) {
        return winograd::by_weight(
            kernel.of_singles(),
            &patches,
            (gradient, shape.outputs),
            by_weight,
        );
    }
    let mut margins = None;
    let patches = patches.ready(reads_lying(engine), &mut margins, |_| None);
    let mut sums = vec![0.0; size.m * size.n];
    let output = Output { data: &mut sums, stride: size.n, bias: None, accumulate: false };
    gemm(engine, size, rows, Operand::rows_across_k(&patches), output);
    inputs_before_taps(engine, &sums, shape, by_weight);
}

#[cfg(test)]
mod tests;
