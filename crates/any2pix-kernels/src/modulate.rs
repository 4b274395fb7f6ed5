//! Feature-wise modulation: channels scaled and shifted by vectors of each picture, SiLU fused.

use rayon::prelude::*;

use crate::activation::{silu, silu_slope};
use crate::buffer::rows_of_chunk;
use crate::level::{Engine, vectorised};

/// `x` `(batch, positions, channels)`; vectors `(batch, 2·channels)`: scales, then shifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModulateShape {
    /// Height times width.
    pub positions: usize,
    /// Channels.
    pub channels: usize,
    /// SiLU follows.
    pub silu: bool,
}

impl ModulateShape {
    fn picture(&self) -> usize {
        self.positions * self.channels
    }

    fn chunk(&self) -> usize {
        rows_of_chunk(self.channels)
    }
}

vectorised! {
    fn forward_chunk(level: Level, x: &[f32], vectors: &[f32], with_silu: bool, y: &mut [f32]) {
        let (scale, shift) = vectors.split_at(vectors.len() / 2);
        for (y, x) in y.chunks_exact_mut(scale.len()).zip(x.chunks_exact(scale.len())) {
            for ((y, x), (scale, shift)) in y.iter_mut().zip(x).zip(scale.iter().zip(shift)) {
                *y = x * (1.0 + scale) + shift;
            }
            if with_silu {
                y.iter_mut().for_each(|y| *y = silu::<FUSED>(*y));
            }
        }
    }
}

vectorised! {
    fn backward_chunk(
        level: Level, x: &[f32], vectors: &[f32], gradient: &[f32], with_silu: bool,
        by_x: &mut [f32], by_vectors: &mut [f32],
    ) {
        let width = vectors.len() / 2;
        let (scale, shift) = vectors.split_at(width);
        let (by_scale, by_shift) = by_vectors.split_at_mut(width);
        let (shift, by_shift) = (&shift[..width], &mut by_shift[..width]);
        let inputs = x.chunks_exact(width).zip(gradient.chunks_exact(width));
        for (to, (x, gradient)) in by_x.chunks_exact_mut(width).zip(inputs) {
            for c in 0..width {
                let slope =
                    if with_silu { silu_slope::<FUSED>(x[c] * (1.0 + scale[c]) + shift[c]) } else { 1.0 };
                let d = gradient[c] * slope;
                to[c] = d * (1.0 + scale[c]);
                by_scale[c] += d * x[c];
                by_shift[c] += d;
            }
        }
    }
}

/// `y = x · (1 + scale) + shift`.
pub fn modulate(
    engine: Engine,
    shape: &ModulateShape,
    (x, vectors): (&[f32], &[f32]),
    y: &mut [f32],
) {
    if shape.picture() == 0 {
        return;
    }
    let pictures = y.par_chunks_mut(shape.picture()).zip(x.par_chunks(shape.picture()));
    pictures.zip(vectors.par_chunks(2 * shape.channels)).for_each(|((y, x), vectors)| {
        y.par_chunks_mut(shape.chunk())
            .zip(x.par_chunks(shape.chunk()))
            .for_each(|(y, x)| forward_chunk(engine.level(), x, vectors, shape.silu, y));
    });
}

/// The gradients of [`modulate`].
pub fn modulate_backward(
    engine: Engine,
    shape: &ModulateShape,
    (x, vectors, gradient): (&[f32], &[f32], &[f32]),
    (by_x, by_vectors): (&mut [f32], &mut [f32]),
) {
    by_vectors.fill(0.0);
    if shape.picture() == 0 {
        return;
    }
    let (picture, chunk, width) = (shape.picture(), shape.chunk(), 2 * shape.channels);
    let inputs = x.par_chunks(picture).zip(gradient.par_chunks(picture));
    let outputs = by_x.par_chunks_mut(picture).zip(by_vectors.par_chunks_mut(width));
    outputs.zip(inputs).zip(vectors.par_chunks(width)).for_each(
        |(((by_x, by_vectors), (x, gradient)), vectors)| {
            let partials: Vec<Vec<f32>> = by_x
                .par_chunks_mut(chunk)
                .zip(x.par_chunks(chunk).zip(gradient.par_chunks(chunk)))
                .map(|(to, (x, gradient))| {
                    let mut sums = vec![0.0; width];
                    let level = engine.level();
                    backward_chunk(level, x, vectors, gradient, shape.silu, to, &mut sums);
                    sums
                })
                .collect();
            for sums in partials {
                by_vectors.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::{assert_close, numbers};

    #[test]
    fn equals_the_plain_loop_with_gradients() {
        let (batch, positions, channels) = (2, 2000, 17);
        let x = numbers(1, batch * positions * channels);
        let vectors = numbers(2, batch * 2 * channels);
        let gradient = numbers(3, x.len());
        for silu in [false, true] {
            let shape = ModulateShape { positions, channels, silu };
            let mut expected = Vec::new();
            let mut slopes = Vec::new();
            let mut by = vec![0f64; vectors.len()];
            for i in 0..x.len() {
                let (b, c) = (i / (positions * channels), i % channels);
                let (at, x) = (b * 2 * channels + c, f64::from(x[i]));
                let scale = 1.0 + f64::from(vectors[at]);
                let z = x * scale + f64::from(vectors[at + channels]);
                let s = 1.0 / (1.0 + (-z).exp());
                let slope = if silu { s * (1.0 + z * (1.0 - s)) } else { 1.0 };
                let d = f64::from(gradient[i]) * slope;
                expected.push(if silu { z * s } else { z });
                slopes.push(d * scale);
                by[at] += d * x;
                by[at + channels] += d;
            }
            for level in Level::available() {
                let engine = Engine::new(level, Precision::F32);
                let mut y = vec![0.0; x.len()];
                modulate(engine, &shape, (&x, &vectors), &mut y);
                assert_close(&y, &expected, 2e-6, "forward");
                let (mut by_x, mut by_vectors) = (vec![0.0; x.len()], vec![0.0; vectors.len()]);
                let to = (&mut by_x[..], &mut by_vectors[..]);
                modulate_backward(engine, &shape, (&x, &vectors, &gradient), to);
                assert_close(&by_x, &slopes, 2e-6, "by x");
                assert_close(&by_vectors, &by, 1e-4, "by vectors");
            }
        }
    }
}
