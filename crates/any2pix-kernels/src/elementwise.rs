//! Sums, repetition and concatenation of channels-last activations.
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::buffer::{CHUNK, Fresh, fill, in_chunks, rows_of_chunk};
use crate::level::{Engine, vectorised};
use crate::reduce::sum_rows;

vectorised! {
    fn add_chunk(level: Level, a: &[f32], b: &[f32], y: &mut Fresh) {
        let (a, b) = (&a[..y.len()], &b[..y.len()]);
        // SAFETY: both were cut to the length of `y`.
        unsafe { fill(y, a.iter().zip(b).map(|(a, b)| a + b)) };
    }
}

/// `a + b`.
pub fn add(engine: Engine, (a, b): (&[f32], &[f32])) -> Vec<f32> {
    // SAFETY: a chunk is written from as many elements.
    unsafe {
        in_chunks(a.len(), CHUNK, |start, y| {
            add_chunk(engine.level(), &a[start..], &b[start..], y);
        })
    }
}

/// To each of the rows of picture `b`, the b-th row of `vectors`, of `width` elements, is added.
pub fn add_to_positions(engine: Engine, width: usize, (x, vectors): (&[f32], &[f32])) -> Vec<f32> {
    if x.is_empty() || vectors.is_empty() {
        return Vec::new();
    }
    let picture = x.len() / (vectors.len() / width);
    // SAFETY: rows are as wide as vectors, and a chunk is whole rows, each of which is written.
    unsafe {
        in_chunks(x.len(), rows_of_chunk(width), |start, y| {
            for (index, y) in y.chunks_exact_mut(width).enumerate() {
                let at = start + index * width;
                let vector = &vectors[at / picture * width..];
                add_chunk(engine.level(), &x[at..], vector, y);
            }
        })
    }
}

/// The gradient of [`add_to_positions`] by `vectors`: sums over the positions of each picture.
pub fn sum_positions(engine: Engine, width: usize, gradient: &[f32], by_vectors: &mut [f32]) {
    if by_vectors.is_empty() || gradient.is_empty() {
        return by_vectors.fill(0.0);
    }
    let picture = gradient.len() / (by_vectors.len() / width);
    by_vectors
        .par_chunks_mut(width)
        .zip(gradient.par_chunks(picture))
        .for_each(|(to, gradient)| sum_rows(engine, gradient, to));
}

/// Rows of `a` and `b` side by side.
pub fn concat_rows((a, b): (&[f32], &[f32]), widths: (usize, usize), y: &mut [f32]) {
    let width = widths.0 + widths.1;
    if width == 0 {
        return;
    }
    let rows = (CHUNK / width).max(1);
    y.par_chunks_mut(rows * width).enumerate().for_each(|(i, y)| {
        for (j, y) in y.chunks_exact_mut(width).enumerate() {
            let row = i * rows + j;
            let (to_a, to_b) = y.split_at_mut(widths.0);
            to_a.copy_from_slice(&a[row * widths.0..(row + 1) * widths.0]);
            to_b.copy_from_slice(&b[row * widths.1..(row + 1) * widths.1]);
        }
    });
}

/// Columns `start..start + part` of rows of `width`.
pub fn columns(x: &[f32], width: usize, (start, part): (usize, usize), y: &mut [f32]) {
    if part == 0 {
        return;
    }
    let rows = (CHUNK / part).max(1);
    y.par_chunks_mut(rows * part).enumerate().for_each(|(i, y)| {
        for (j, y) in y.chunks_exact_mut(part).enumerate() {
            let at = (i * rows + j) * width + start;
            y.copy_from_slice(&x[at..at + part]);
        }
    });
}

/// Repeats each pixel twice along each side: rows of `width` pixels of `channels`.
pub fn upsample2x(x: &[f32], width: usize, channels: usize, y: &mut [f32]) {
    let row = width * channels;
    if row == 0 {
        return;
    }
    y.par_chunks_mut(4 * row).zip(x.par_chunks(row)).for_each(|(y, x)| {
        let (first, second) = y.split_at_mut(2 * row);
        for (to, pixel) in first.chunks_exact_mut(2 * channels).zip(x.chunks_exact(channels)) {
            to[..channels].copy_from_slice(pixel);
            to[channels..].copy_from_slice(pixel);
        }
        second.copy_from_slice(first);
    });
}

vectorised! {
    fn fold_row(level: Level, gradient: &[f32], channels: usize, by_x: &mut [f32]) {
        let (first, second) = gradient.split_at(gradient.len() / 2);
        let rows = first.chunks_exact(2 * channels).zip(second.chunks_exact(2 * channels));
        for (to, (first, second)) in by_x.chunks_exact_mut(channels).zip(rows) {
            let ((a, b), (c, d)) = (first.split_at(channels), second.split_at(channels));
            for ((to, (a, b)), (c, d)) in to.iter_mut().zip(a.iter().zip(b)).zip(c.iter().zip(d)) {
                *to = (a + b) + (c + d);
            }
        }
    }
}

/// The gradient of [`upsample2x`].
pub fn upsample2x_backward(
    engine: Engine,
    gradient: &[f32],
    (width, channels): (usize, usize),
    by_x: &mut [f32],
) {
    let row = width * channels;
    if row == 0 {
        return;
    }
    by_x.par_chunks_mut(row)
        .zip(gradient.par_chunks(4 * row))
        .for_each(|(to, gradient)| fold_row(engine.level(), gradient, channels, to));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::numbers;

    #[test]
    fn rows_are_joined_and_cut() {
        let (a, b) = (numbers(1, 3000 * 5), numbers(2, 3000 * 7));
        let mut y = vec![0.0; 3000 * 12];
        concat_rows((&a, &b), (5, 7), &mut y);
        let (mut first, mut second) = (vec![0.0; a.len()], vec![0.0; b.len()]);
        columns(&y, 12, (0, 5), &mut first);
        columns(&y, 12, (5, 7), &mut second);
        assert!(first == a && second == b);
        assert_eq!(y[12 * 17 + 5], b[7 * 17]);
    }

    #[test]
    fn upsampling_and_its_gradient_are_transposes() {
        let (height, width, channels) = (6, 5, 3);
        let x = numbers(1, height * width * channels);
        let mut y = vec![0.0; 4 * x.len()];
        upsample2x(&x, width, channels, &mut y);
        let at = |r: usize, c: usize, k: usize| (r * width + c) * channels + k;
        for r in 0..2 * height {
            for c in 0..2 * width {
                let up = (r * 2 * width + c) * channels;
                assert_eq!(y[up + 1], x[at(r / 2, c / 2, 1)]);
            }
        }
        let gradient = numbers(2, y.len());
        for level in Level::available() {
            let mut by_x = vec![0.0; x.len()];
            let engine = Engine::new(level, Precision::F32);
            upsample2x_backward(engine, &gradient, (width, channels), &mut by_x);
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            assert!((dot(&by_x, &x) - dot(&gradient, &y)).abs() < 1e-4);
        }
    }

    #[test]
    fn vectors_are_added_to_positions() {
        let (batch, positions, width) = (3, 50, 9);
        let (x, vectors) = (numbers(1, batch * positions * width), numbers(2, batch * width));
        let engine = Engine::current(Precision::F32);
        let y = add_to_positions(engine, width, (&x, &vectors));
        let mut sums = vec![0.0; vectors.len()];
        sum_positions(engine, width, &x, &mut sums);
        for (i, y) in y.iter().enumerate() {
            let (b, c) = (i / (positions * width), i % width);
            assert_eq!(*y, x[i] + vectors[b * width + c]);
        }
        let plain: f32 = (0..positions).map(|p| x[(positions + p) * width + 4]).sum();
        assert!((sums[width + 4] - plain).abs() < 1e-5);
    }
}
