//! Layer and root-mean-square normalisation of rows.
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::buffer::{Fresh, fill, in_chunks, rows_of_chunk};
use crate::level::{Engine, vectorised};
use crate::math::{sum, sum2};

/// Rows of a task; partial gradients of the weight are summed task by task.
const ROWS: usize = 64;

/// Which normalisation of rows of `width` elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// Elements of a row.
    pub width: usize,
    /// Subtracts the mean (layer norm) or not (root mean square).
    pub centred: bool,
    /// Added to the variance.
    pub eps: f32,
}

#[inline(always)]
fn mean_and_rstd(norm: RowNorm, x: &[f32]) -> (f32, f32) {
    let count = norm.width as f32;
    let mean = if norm.centred { sum(x, |x| x) / count } else { 0.0 };
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + norm.eps).sqrt())
}

vectorised! {
    fn forward_rows(
        level: Level, norm: RowNorm, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut Fresh,
    ) {
        let weight = &weight[..norm.width];
        for (y, x) in y.chunks_exact_mut(norm.width).zip(x.chunks_exact(norm.width)) {
            let (mean, rstd) = mean_and_rstd(norm, x);
            let scaled = x.iter().zip(weight).map(|(x, weight)| (x - mean) * rstd * weight);
            // SAFETY: both rows and the weight have `width` elements.
            let y = unsafe { fill(y, scaled) };
            if let Some(bias) = bias {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
    }
}

vectorised! {
    fn backward_rows(
        level: Level, norm: RowNorm, x: &[f32], weight: &[f32], gradient: &[f32],
        by_x: &mut [f32], by_weight: &mut [f32], by_bias: &mut [f32],
    ) {
        let width = norm.width;
        let count = width as f32;
        let inputs = x.chunks_exact(width).zip(gradient.chunks_exact(width));
        for (to, (x, gradient)) in by_x.chunks_exact_mut(width).zip(inputs) {
            let (mean, rstd) = mean_and_rstd(norm, x);
            for ((to, gradient), weight) in to.iter_mut().zip(gradient).zip(weight) {
                *to = gradient * weight;
            }
            let level = if norm.centred { sum(to, |g| g) / count } else { 0.0 };
            let slope = sum2(to, x, |g, x| g * ((x - mean) * rstd)) / count;
            for (to, x) in to.iter_mut().zip(x) {
                *to = (*to - level - (x - mean) * rstd * slope) * rstd;
            }
            for ((to, x), gradient) in by_weight.iter_mut().zip(x).zip(gradient) {
                *to += gradient * ((x - mean) * rstd);
            }
            by_bias.iter_mut().zip(gradient).for_each(|(to, gradient)| *to += gradient);
        }
    }
}

/// Normalises rows, scales by `weight`, adds `bias`.
pub fn row_norm(
    engine: Engine,
    norm: RowNorm,
    (x, weight, bias): (&[f32], &[f32], Option<&[f32]>),
) -> Vec<f32> {
    if norm.width == 0 {
        return Vec::new();
    }
    let rows = x.len() / norm.width;
    // SAFETY: a chunk is whole rows, each of which is written.
    unsafe {
        in_chunks(rows * norm.width, rows_of_chunk(norm.width), |start, y| {
            forward_rows(engine.level(), norm, &x[start..], weight, bias, y);
        })
    }
}

/// The gradients of [`row_norm`]: by `x` into `by_x`, returned by weight and by bias.
pub fn row_norm_backward(
    engine: Engine,
    norm: RowNorm,
    (x, weight, gradient): (&[f32], &[f32], &[f32]),
    by_x: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let width = norm.width;
    let mut total = (vec![0.0; width], vec![0.0; width]);
    if width == 0 {
        return total;
    }
    let chunk = ROWS * width;
    let partials: Vec<(Vec<f32>, Vec<f32>)> = by_x
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk).zip(gradient.par_chunks(chunk)))
        .map(|(to, (x, gradient))| {
            let (mut by_weight, mut by_bias) = (vec![0.0; width], vec![0.0; width]);
            let level = engine.level();
            backward_rows(level, norm, x, weight, gradient, to, &mut by_weight, &mut by_bias);
            (by_weight, by_bias)
        })
        .collect();
    for (by_weight, by_bias) in partials {
        total.0.iter_mut().zip(by_weight).for_each(|(to, v)| *to += v);
        total.1.iter_mut().zip(by_bias).for_each(|(to, v)| *to += v);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::{assert_close, numbers, put, same_for_all, strange};
    use proptest::prelude::*;

    fn plain(norm: RowNorm, x: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let count = norm.width as f64;
        x.chunks(norm.width)
            .flat_map(|x| {
                let mean = if norm.centred { x.iter().sum::<f64>() / count } else { 0.0 };
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                let rstd = 1.0 / (variance + f64::from(norm.eps)).sqrt();
                x.iter()
                    .zip(weight)
                    .zip(bias)
                    .map(|((x, w), b)| (x - mean) * rstd * f64::from(*w) + f64::from(*b))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn any_shape_equals_the_plain_loop(
            rows in 0..40usize, width in 1..200usize, centred: bool, value in strange(),
            place: usize,
        ) {
            let norm = RowNorm { width, centred, eps: 1e-5 };
            let mut x = numbers(1, rows * width);
            put(&mut x, place, value);
            let (weight, bias) = (numbers(2, width), numbers(3, width));
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let expected = plain(norm, &wide, &weight, &bias);
            same_for_all(2e-4, &expected, &format!("{norm:?}"), |engine| {
                row_norm(engine, norm, (&x, &weight, Some(&bias)))
            });
        }
    }

    #[test]
    fn equals_the_plain_loop_with_gradients() {
        for (width, centred) in [(1, false), (7, true), (48, false), (100, true)] {
            let norm = RowNorm { width, centred, eps: 1e-5 };
            let x = numbers(1, 150 * width);
            let (weight, bias) = (numbers(2, width), numbers(3, width));
            let gradient = numbers(4, x.len());
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let expected = plain(norm, &wide, &weight, &bias);
            let loss = |x: &[f64], weight: &[f32]| -> f64 {
                let y = plain(norm, x, weight, &bias);
                y.iter().zip(&gradient).map(|(y, g)| y * f64::from(*g)).sum()
            };
            for level in Level::available() {
                let engine = Engine::new(level, Precision::F32);
                let y = row_norm(engine, norm, (&x, &weight, Some(&bias)));
                assert_close(&y, &expected, 1e-4, &format!("{norm:?}"));
                let mut by_x = vec![0.0; x.len()];
                let (by_weight, by_bias) =
                    row_norm_backward(engine, norm, (&x, &weight, &gradient), &mut by_x);
                for i in (0..x.len()).step_by(x.len() / 9 + 1) {
                    let at = |delta: f64| {
                        let mut x = wide.clone();
                        x[i] += delta;
                        loss(&x, &weight)
                    };
                    let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let close = (f64::from(by_x[i]) - slope).abs() < 1e-3 * slope.abs().max(1.0);
                    assert!(close, "{norm:?} by x {i}: {} is {slope}", by_x[i]);
                }
                let c = width / 2;
                let moved = |delta: f32| {
                    let mut weight = weight.clone();
                    weight[c] += delta;
                    loss(&wide, &weight)
                };
                let slope = (moved(0.01) - moved(-0.01)) / 0.02;
                assert!((f64::from(by_weight[c]) - slope).abs() < 1e-2 * slope.abs().max(1.0));
                let sum: f64 = gradient.iter().skip(c).step_by(width).map(|g| f64::from(*g)).sum();
                assert!((f64::from(by_bias[c]) - sum).abs() < 1e-3);
            }
        }
    }
}
