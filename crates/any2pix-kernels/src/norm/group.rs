//! Group normalisation of channels-last activations, SiLU fused.
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::activation::{silu, silu_slope};
use crate::buffer::{CHUNK, Fresh, fill, in_chunks, rows_of_chunk};
use crate::level::{Engine, vectorised};
use crate::math::mul_add;

/// `(batch, positions, channels)`, channels in `groups` equal groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Pictures.
    pub batch: usize,
    /// Height times width.
    pub positions: usize,
    /// Channels.
    pub channels: usize,
    /// Groups; divides the channels.
    pub groups: usize,
    /// SiLU follows.
    pub silu: bool,
}

impl GroupShape {
    fn chunk(&self) -> usize {
        (CHUNK / self.channels.max(1)).clamp(1, 512) * self.channels
    }

    fn picture(&self) -> usize {
        self.positions * self.channels
    }

    fn is_empty(&self) -> bool {
        self.batch * self.picture() == 0
    }

    /// `(picture, start of the chunk in it)` of every task.
    fn tasks(&self) -> Vec<(usize, usize)> {
        let starts = (0..self.picture()).step_by(self.chunk());
        (0..self.batch).flat_map(|b| starts.clone().map(move |start| (b, start))).collect()
    }

    fn part<'a>(&self, x: &'a [f32], (picture, start): (usize, usize)) -> &'a [f32] {
        let end = (start + self.chunk()).min(self.picture());
        &x[picture * self.picture() + start..picture * self.picture() + end]
    }
}

/// Mean and reciprocal standard deviation of each group of each picture.
#[derive(Clone, Debug, Default)]
pub struct GroupStatistics(Vec<(f64, f64)>);

/// Two sums for each channel.
type Sums = (Vec<f32>, Vec<f32>);

vectorised! {
    fn moments(level: Level, x: &[f32], shift: &[f32], first: &mut [f32], second: &mut [f32]) {
        // Four rows at a time, so that the sums are read and written a quarter as often.
        const TOGETHER: usize = 4;
        let width = shift.len();
        let (first, second) = (&mut first[..width], &mut second[..width]);
        let mut several = x.chunks_exact(TOGETHER * width);
        for rows in several.by_ref() {
            let row = |i: usize| &rows[i * width..][..width];
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            for i in 0..width {
                let [a, b, c, d] = [a[i], b[i], c[i], d[i]].map(|x| x - shift[i]);
                first[i] += (a + b) + (c + d);
                let squares = mul_add::<FUSED>(a, a, b * b) + mul_add::<FUSED>(c, c, d * d);
                second[i] += squares;
            }
        }
        for row in several.remainder().chunks_exact(width) {
            for i in 0..width {
                let centred = row[i] - shift[i];
                first[i] += centred;
                second[i] = mul_add::<FUSED>(centred, centred, second[i]);
            }
        }
    }
}

vectorised! {
    fn apply(level: Level, x: &[f32], scale: &[f32], shift: &[f32], with_silu: bool, y: &mut Fresh) {
        let width = scale.len();
        let shift = &shift[..width];
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let line = x.iter().zip(scale.iter().zip(shift));
            let line = line.map(|(x, (scale, shift))| mul_add::<FUSED>(*x, *scale, *shift));
            // SAFETY: all rows have `width` elements.
            unsafe {
                if with_silu { fill(y, line.map(silu::<FUSED>)) } else { fill(y, line) };
            }
        }
    }
}

/// What normalises one picture: for each channel `y = x · scale + shift` and `x̂ = x · rstd + offset`.
struct Channels {
    scale: Vec<f32>,
    shift: Vec<f32>,
    rstd: Vec<f32>,
    offset: Vec<f32>,
}

impl Channels {
    fn new(shape: &GroupShape, groups: &[(f64, f64)], weight: &[f32], bias: &[f32]) -> Self {
        let size = shape.channels / shape.groups;
        let empty = || Vec::with_capacity(shape.channels);
        let mut new = Self { scale: empty(), shift: empty(), rstd: empty(), offset: empty() };
        let lines = weight.chunks_exact(size).zip(bias.chunks_exact(size));
        for ((mean, rstd), (weight, bias)) in groups.iter().zip(lines) {
            let (scale, shift) = (weight.iter(), weight.iter().zip(bias));
            new.scale.extend(scale.map(|weight| (rstd * f64::from(*weight)) as f32));
            new.shift.extend(shift.map(|(weight, bias)| {
                (f64::from(*bias) - mean * rstd * f64::from(*weight)) as f32
            }));
            new.rstd.extend(std::iter::repeat_n(*rstd as f32, size));
            new.offset.extend(std::iter::repeat_n((-mean * rstd) as f32, size));
        }
        new
    }
}

fn statistics(engine: Engine, shape: &GroupShape, eps: f64, x: &[f32]) -> GroupStatistics {
    let channels = shape.channels;
    let tasks = shape.tasks();
    // Deviations from the picture's first pixel: sums of squares without cancellation.
    let first = |picture: usize| &x[picture * shape.picture()..][..channels];
    let sums: Vec<Sums> = tasks
        .par_iter()
        .map(|task| {
            let (mut one, mut two) = (vec![0.0; channels], vec![0.0; channels]);
            moments(engine.level(), shape.part(x, *task), first(task.0), &mut one, &mut two);
            (one, two)
        })
        .collect();
    let per_picture = tasks.len() / shape.batch;
    let (size, positions) = (channels / shape.groups, shape.positions as f64);
    let mut statistics = Vec::with_capacity(shape.batch * shape.groups);
    for (picture, sums) in sums.chunks(per_picture).enumerate() {
        let shift = first(picture);
        let (totals, squares): (Vec<f64>, _) = total(sums, channels);
        for group in 0..shape.groups {
            let range = group * size..(group + 1) * size;
            let count = positions * size as f64;
            let mean =
                range.clone().map(|c| totals[c] + positions * f64::from(shift[c])).sum::<f64>()
                    / count;
            let variance = range
                .map(|c| {
                    let distance = f64::from(shift[c]) - mean;
                    squares[c] + 2.0 * distance * totals[c] + positions * distance * distance
                })
                .sum::<f64>()
                / count;
            statistics.push((mean, 1.0 / (variance.clamp(0.0, f64::INFINITY) + eps).sqrt()));
        }
    }
    GroupStatistics(statistics)
}

/// Group normalisation; returns the result and what [`group_norm_backward`] wants.
pub fn group_norm(
    engine: Engine,
    shape: &GroupShape,
    eps: f64,
    (x, weight, bias): (&[f32], &[f32], &[f32]),
) -> (Vec<f32>, GroupStatistics) {
    if shape.is_empty() {
        return (Vec::new(), GroupStatistics::default());
    }
    let statistics = statistics(engine, shape, eps, x);
    let channels: Vec<Channels> = statistics
        .0
        .chunks(shape.groups)
        .map(|groups| Channels::new(shape, groups, weight, bias))
        .collect();
    // No chunk reaches from one picture into the next.
    let chunk = rows_of_chunk(shape.channels);
    let picture = shape.picture();
    let whole = shape.batch == 1 || picture.is_multiple_of(chunk);
    // SAFETY: a chunk is whole rows, each of which is written.
    let y = unsafe {
        in_chunks(shape.batch * picture, if whole { chunk } else { picture }, |start, y| {
            let channels = &channels[start / picture];
            apply(engine.level(), &x[start..], &channels.scale, &channels.shift, shape.silu, y);
        })
    };
    (y, statistics)
}

vectorised! {
    fn gradient_sums(
        level: Level, x: &[f32], gradient: &[f32], channels: &Channels, with_silu: bool,
        by_bias: &mut [f32], by_weight: &mut [f32],
    ) {
        let Channels { scale, shift, rstd, offset } = channels;
        let width = scale.len();
        let (shift, rstd, offset) = (&shift[..width], &rstd[..width], &offset[..width]);
        let (by_bias, by_weight) = (&mut by_bias[..width], &mut by_weight[..width]);
        for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact(width)) {
            for c in 0..width {
                let slope = if with_silu { silu_slope::<FUSED>(x[c] * scale[c] + shift[c]) } else { 1.0 };
                let d = gradient[c] * slope;
                by_bias[c] += d;
                by_weight[c] += d * (x[c] * rstd[c] + offset[c]);
            }
        }
    }
}

/// `∂x = d · scale + x · slope + level`, where d is the gradient before SiLU.
struct DataGradient {
    slope: Vec<f32>,
    level: Vec<f32>,
}

vectorised! {
    fn gradient_by_x(
        level: Level, x: &[f32], gradient: &[f32], channels: &Channels, line: &DataGradient,
        with_silu: bool, by_x: &mut [f32],
    ) {
        let Channels { scale, shift, .. } = channels;
        let width = scale.len();
        let (shift, slopes, levels) =
            (&shift[..width], &line.slope[..width], &line.level[..width]);
        let inputs = x.chunks_exact(width).zip(gradient.chunks_exact(width));
        for (to, (x, gradient)) in by_x.chunks_exact_mut(width).zip(inputs) {
            for c in 0..width {
                let slope = if with_silu { silu_slope::<FUSED>(x[c] * scale[c] + shift[c]) } else { 1.0 };
                to[c] = gradient[c] * slope * scale[c] + x[c] * slopes[c] + levels[c];
            }
        }
    }
}

/// The gradients of [`group_norm`]: by `x` into `by_x`, returned by weight and by bias.
pub fn group_norm_backward(
    engine: Engine,
    shape: &GroupShape,
    statistics: &GroupStatistics,
    (x, weight, bias, gradient): (&[f32], &[f32], &[f32], &[f32]),
    by_x: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let width = shape.channels;
    let (mut by_weight, mut by_bias) = (vec![0.0; width], vec![0.0; width]);
    if shape.is_empty() {
        return (by_weight, by_bias);
    }
    let channels: Vec<Channels> = statistics
        .0
        .chunks(shape.groups)
        .map(|groups| Channels::new(shape, groups, weight, bias))
        .collect();
    let tasks = shape.tasks();
    let sums: Vec<Sums> = tasks
        .par_iter()
        .map(|task| {
            let (mut by_bias, mut by_weight) = (vec![0.0; width], vec![0.0; width]);
            let (x, gradient) = (shape.part(x, *task), shape.part(gradient, *task));
            let level = engine.level();
            let channels = &channels[task.0];
            let silu = shape.silu;
            gradient_sums(level, x, gradient, channels, silu, &mut by_bias, &mut by_weight);
            (by_bias, by_weight)
        })
        .collect();
    let lines: Vec<DataGradient> = sums
        .chunks(tasks.len() / shape.batch)
        .enumerate()
        .map(|(picture, sums)| {
            let (bias_sums, weight_sums): (Vec<f32>, _) = total(sums, width);
            for c in 0..width {
                by_bias[c] += bias_sums[c];
                by_weight[c] += weight_sums[c];
            }
            let groups = &statistics.0[picture * shape.groups..(picture + 1) * shape.groups];
            data_gradient(shape, groups, weight, (&bias_sums, &weight_sums))
        })
        .collect();
    let parts: Vec<_> = by_x
        .chunks_mut(shape.picture())
        .flat_map(|to| to.chunks_mut(shape.chunk()))
        .zip(tasks)
        .collect();
    parts.into_par_iter().for_each(|(to, task)| {
        let (x, gradient) = (shape.part(x, task), shape.part(gradient, task));
        let (channels, line) = (&channels[task.0], &lines[task.0]);
        gradient_by_x(engine.level(), x, gradient, channels, line, shape.silu, to);
    });
    (by_weight, by_bias)
}

/// The sums of all tasks of a picture, channel by channel.
fn total<T>(sums: &[Sums], width: usize) -> (Vec<T>, Vec<T>)
where
    T: Copy + Default + From<f32> + std::ops::AddAssign,
{
    let mut total = (vec![T::default(); width], vec![T::default(); width]);
    for (one, two) in sums {
        total.0.iter_mut().zip(one).for_each(|(to, v)| *to += T::from(*v));
        total.1.iter_mut().zip(two).for_each(|(to, v)| *to += T::from(*v));
    }
    total
}

fn data_gradient(
    shape: &GroupShape,
    groups: &[(f64, f64)],
    weight: &[f32],
    (bias_sums, weight_sums): (&[f32], &[f32]),
) -> DataGradient {
    let size = shape.channels / shape.groups;
    let count = (shape.positions * size) as f64;
    let mut line = DataGradient { slope: Vec::new(), level: Vec::new() };
    for (group, (mean, rstd)) in groups.iter().enumerate() {
        let weighted = |sums: &[f32]| -> f64 {
            let range = group * size..(group + 1) * size;
            range.map(|c| f64::from(weight[c]) * f64::from(sums[c])).sum::<f64>() / count
        };
        let (plain, along) = (weighted(bias_sums), weighted(weight_sums));
        let slope = -rstd * rstd * along;
        let level = -rstd * plain - slope * mean;
        line.slope.extend(std::iter::repeat_n(slope as f32, size));
        line.level.extend(std::iter::repeat_n(level as f32, size));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::{assert_close, numbers, put, same_for_all, strange};
    use proptest::prelude::*;

    fn plain(shape: &GroupShape, x: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let size = shape.channels / shape.groups;
        let mut y = vec![0.0; x.len()];
        for b in 0..shape.batch {
            for g in 0..shape.groups {
                let at: Vec<usize> = (0..shape.positions)
                    .flat_map(|p| {
                        let start = (b * shape.positions + p) * shape.channels + g * size;
                        start..start + size
                    })
                    .collect();
                let mean = at.iter().map(|i| x[*i]).sum::<f64>() / at.len() as f64;
                let variance =
                    at.iter().map(|i| (x[*i] - mean).powi(2)).sum::<f64>() / at.len() as f64;
                for i in at {
                    let c = i % shape.channels;
                    let z = (x[i] - mean) / (variance + 1e-5).sqrt() * f64::from(weight[c])
                        + f64::from(bias[c]);
                    y[i] = if shape.silu { z / (1.0 + (-z).exp()) } else { z };
                }
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn any_shape_equals_the_plain_loop(
            batch in 0..4usize, positions in 0..90usize, size in 1..21usize, groups in 1..6usize,
            silu: bool, value in strange(), place: usize,
        ) {
            let channels = size * groups;
            let shape = GroupShape { batch, positions, channels, groups, silu };
            let mut x = numbers(1, batch * positions * channels);
            put(&mut x, place, value);
            let (weight, bias) = (numbers(2, channels), numbers(3, channels));
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let expected = plain(&shape, &wide, &weight, &bias);
            same_for_all(1e-4, &expected, &format!("{shape:?}"), |engine| {
                group_norm(engine, &shape, 1e-5, (&x, &weight, &bias)).0
            });
        }
    }

    #[test]
    fn equals_the_plain_loop_with_gradients() {
        for (batch, positions, channels, groups) in [(2, 9, 6, 3), (1, 700, 40, 4), (3, 1, 32, 2)] {
            for silu in [false, true] {
                let shape = GroupShape { batch, positions, channels, groups, silu };
                let x: Vec<f32> =
                    numbers(1, batch * positions * channels).iter().map(|x| x + 3.0).collect();
                let (weight, bias) = (numbers(2, channels), numbers(3, channels));
                let gradient = numbers(4, x.len());
                let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                let expected = plain(&shape, &wide, &weight, &bias);
                let loss = |x: &[f64], weight: &[f32], bias: &[f32]| -> f64 {
                    let y = plain(&shape, x, weight, bias);
                    y.iter().zip(&gradient).map(|(y, g)| y * f64::from(*g)).sum()
                };
                for level in Level::available() {
                    let engine = Engine::new(level, Precision::F32);
                    let (y, statistics) = group_norm(engine, &shape, 1e-5, (&x, &weight, &bias));
                    assert_close(&y, &expected, 1e-5, &format!("{shape:?}"));
                    let mut by_x = vec![0.0; x.len()];
                    let (by_weight, by_bias) = group_norm_backward(
                        engine,
                        &shape,
                        &statistics,
                        (&x, &weight, &bias, &gradient),
                        &mut by_x,
                    );
                    for i in (0..x.len()).step_by(x.len() / 7 + 1) {
                        let at = |delta: f64| {
                            let mut x = wide.clone();
                            x[i] += delta;
                            loss(&x, &weight, &bias)
                        };
                        let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
                        let close =
                            (f64::from(by_x[i]) - slope).abs() < 2e-4 * slope.abs().max(1.0);
                        assert!(close, "{shape:?} by x {}: {slope}", by_x[i]);
                    }
                    let c = channels / 2;
                    let step = |vector: &[f32], delta: f32| {
                        let mut vector = vector.to_vec();
                        vector[c] += delta;
                        vector
                    };
                    let slope = (loss(&wide, &step(&weight, 0.01), &bias)
                        - loss(&wide, &step(&weight, -0.01), &bias))
                        / 0.02;
                    assert!((f64::from(by_weight[c]) - slope).abs() < 1e-2 * slope.abs().max(1.0));
                    let slope = (loss(&wide, &weight, &step(&bias, 0.01))
                        - loss(&wide, &weight, &step(&bias, -0.01)))
                        / 0.02;
                    assert!((f64::from(by_bias[c]) - slope).abs() < 1e-2 * slope.abs().max(1.0));
                }
            }
        }
    }
}
