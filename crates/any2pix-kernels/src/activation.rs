//! Activations, gated units and softmax, forward and backward.
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::buffer::{CHUNK, Fresh, fill, in_chunks, rows_of_chunk};
use crate::level::{Engine, vectorised};
use crate::math::{erf, exp, map_sum, max, mul_add, sigmoid, sum, sum2, tanh};

/// An elementwise activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`.
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// `x · sigmoid(1.702·x)`.
    QuickGelu,
}

#[inline(always)]
pub(crate) fn silu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-x))
}

#[inline(always)]
pub(crate) fn silu_slope<const FUSED: bool>(x: f32) -> f32 {
    let s = sigmoid::<FUSED>(x);
    s * (1.0 + x * (1.0 - s))
}

#[inline(always)]
fn gelu<const FUSED: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_slope<const FUSED: bool>(x: f32) -> f32 {
    let density = exp::<FUSED>(-0.5 * x * x) * 0.398_942_3;
    0.5 * (1.0 + erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2)) + x * density
}

const ROOT_2_OVER_PI: f32 = 0.797_884_6;

#[inline(always)]
fn gelu_tanh<const FUSED: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh::<FUSED>(ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

#[inline(always)]
fn gelu_tanh_slope<const FUSED: bool>(x: f32) -> f32 {
    let t = tanh::<FUSED>(ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x));
    let inner = ROOT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
}

#[inline(always)]
fn quick_gelu<const FUSED: bool>(x: f32) -> f32 {
    x * sigmoid::<FUSED>(1.702 * x)
}

#[inline(always)]
fn quick_gelu_slope<const FUSED: bool>(x: f32) -> f32 {
    let s = sigmoid::<FUSED>(1.702 * x);
    s * (1.0 + 1.702 * x * (1.0 - s))
}

vectorised! {
    fn forward_chunk(level: Level, activation: Activation, x: &[f32], y: &mut Fresh) {
        let x = &x[..y.len()];
        macro_rules! map {
            ($f:ident) => {
                // SAFETY: `x` was cut to the length of `y`.
                unsafe { fill(y, x.iter().map(|x| $f::<FUSED>(*x))) }
            };
        }
        match activation {
            Activation::Silu => map!(silu),
            Activation::Gelu => map!(gelu),
            Activation::GeluTanh => map!(gelu_tanh),
            Activation::QuickGelu => map!(quick_gelu),
        };
    }
}

vectorised! {
    fn backward_chunk(
        level: Level, activation: Activation, x: &[f32], gradient: &[f32], by_x: &mut [f32],
    ) {
        macro_rules! map {
            ($f:ident) => {
                for ((to, x), gradient) in by_x.iter_mut().zip(x).zip(gradient) {
                    *to = gradient * $f::<FUSED>(*x);
                }
            };
        }
        match activation {
            Activation::Silu => map!(silu_slope),
            Activation::Gelu => map!(gelu_slope),
            Activation::GeluTanh => map!(gelu_tanh_slope),
            Activation::QuickGelu => map!(quick_gelu_slope),
        }
    }
}

/// `f(x)`.
pub fn activate(engine: Engine, activation: Activation, x: &[f32]) -> Vec<f32> {
    // SAFETY: a chunk is written from as many elements.
    unsafe {
        in_chunks(x.len(), CHUNK, |start, y| {
            forward_chunk(engine.level(), activation, &x[start..], y);
        })
    }
}

/// `by_x = f'(x) · gradient`.
pub fn activate_backward(
    engine: Engine,
    activation: Activation,
    (x, gradient): (&[f32], &[f32]),
    by_x: &mut [f32],
) {
    by_x.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK).zip(gradient.par_chunks(CHUNK))).for_each(
        |(to, (x, gradient))| backward_chunk(engine.level(), activation, x, gradient, to),
    );
}

/// How the halves of a gated unit meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `value · gelu(gate)`.
    Gelu,
    /// `value · silu(gate)`.
    Silu,
}

vectorised! {
    fn gate_chunk(level: Level, kind: Gate, value: &[f32], gate: &[f32], y: &mut Fresh) {
        let (value, gate) = (&value[..y.len()], &gate[..y.len()]);
        macro_rules! map {
            ($f:ident) => {{
                let values = value.iter().zip(gate).map(|(value, gate)| value * $f::<FUSED>(*gate));
                // SAFETY: both were cut to the length of `y`.
                unsafe { fill(y, values) }
            }};
        }
        match kind {
            Gate::Gelu => map!(gelu),
            Gate::Silu => map!(silu),
        };
    }
}

vectorised! {
    fn gate_backward_chunk(
        level: Level, kind: Gate, value: &[f32], gate: &[f32], gradient: &[f32],
        by_value: &mut [f32], by_gate: &mut [f32],
    ) {
        macro_rules! map {
            ($f:ident, $slope:ident) => {
                for i in 0..by_value.len().min(by_gate.len()).min(value.len()).min(gate.len())
                    .min(gradient.len())
                {
                    by_value[i] = gradient[i] * $f::<FUSED>(gate[i]);
                    by_gate[i] = gradient[i] * value[i] * $slope::<FUSED>(gate[i]);
                }
            };
        }
        match kind {
            Gate::Gelu => map!(gelu, gelu_slope),
            Gate::Silu => map!(silu, silu_slope),
        }
    }
}

/// `value · f(gate)` over separate slices.
pub fn gated(engine: Engine, kind: Gate, (value, gate): (&[f32], &[f32])) -> Vec<f32> {
    // SAFETY: a chunk is written from as many elements.
    unsafe {
        in_chunks(value.len(), CHUNK, |start, y| {
            gate_chunk(engine.level(), kind, &value[start..], &gate[start..], y);
        })
    }
}

/// The gradients of [`gated`].
pub fn gated_backward(
    engine: Engine,
    kind: Gate,
    (value, gate, gradient): (&[f32], &[f32], &[f32]),
    (by_value, by_gate): (&mut [f32], &mut [f32]),
) {
    let inputs =
        value.par_chunks(CHUNK).zip(gate.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK));
    by_value.par_chunks_mut(CHUNK).zip(by_gate.par_chunks_mut(CHUNK)).zip(inputs).for_each(
        |((by_value, by_gate), ((value, gate), gradient))| {
            let level = engine.level();
            gate_backward_chunk(level, kind, value, gate, gradient, by_value, by_gate);
        },
    );
}

/// [`gated`] over rows of `(value, gate)` halves; rows of the result have `width` elements.
pub fn gated_halves(engine: Engine, kind: Gate, width: usize, x: &[f32]) -> Vec<f32> {
    if width == 0 {
        return Vec::new();
    }
    let rows = x.len() / (2 * width);
    // SAFETY: a chunk is whole rows, each of which is written.
    unsafe {
        in_chunks(rows * width, rows_of_chunk(width), |start, y| {
            let x = x[2 * start..].chunks_exact(2 * width);
            for (y, x) in y.chunks_exact_mut(width).zip(x) {
                gate_chunk(engine.level(), kind, &x[..width], &x[width..], y);
            }
        })
    }
}

/// The gradient of [`gated_halves`].
pub fn gated_halves_backward(
    engine: Engine,
    kind: Gate,
    width: usize,
    (x, gradient): (&[f32], &[f32]),
    by_x: &mut [f32],
) {
    if width == 0 {
        return;
    }
    let rows = rows_of_chunk(width);
    by_x.par_chunks_mut(2 * rows)
        .zip(x.par_chunks(2 * rows).zip(gradient.par_chunks(rows)))
        .for_each(|(to, (x, gradient))| {
            let inputs = x.chunks_exact(2 * width).zip(gradient.chunks_exact(width));
            for (to, (x, gradient)) in to.chunks_exact_mut(2 * width).zip(inputs) {
                let ((value, gate), (by_value, by_gate)) =
                    (x.split_at(width), to.split_at_mut(width));
                let level = engine.level();
                gate_backward_chunk(level, kind, value, gate, gradient, by_value, by_gate);
            }
        });
}

vectorised! {
    /// Softmax of `scale · row[..visible]` in place; zero beyond.
    pub(crate) fn softmax_row(level: Level, row: &mut [f32], visible: usize, scale: f32) {
        let visible = visible.min(row.len());
        let (row, hidden) = row.split_at_mut(visible);
        hidden.fill(0.0);
        let top = max(row);
        let top = if top == f32::NEG_INFINITY { 0.0 } else { top * scale };
        let total = map_sum(row, |x| exp::<FUSED>(mul_add::<FUSED>(x, scale, -top)));
        let inverse = 1.0 / total;
        for x in row.iter_mut() {
            *x *= inverse;
        }
    }
}

vectorised! {
    /// `y = y ∘ (gradient - Σ y·gradient) · scale`.
    pub(crate) fn softmax_row_backward(
        level: Level, y: &mut [f32], gradient: &[f32], scale: f32,
    ) {
        let mean = sum2(y, gradient, |y, g| y * g);
        for (y, gradient) in y.iter_mut().zip(gradient) {
            *y *= (gradient - mean) * scale;
        }
    }
}

vectorised! {
    fn softmax_rows(level: Level, width: usize, x: &[f32], y: &mut Fresh) {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let top = max(x);
            let top = if top == f32::NEG_INFINITY { 0.0 } else { top };
            // SAFETY: both rows have `width` elements.
            let y = unsafe { fill(y, x.iter().map(|x| exp::<FUSED>(x - top))) };
            let inverse = 1.0 / sum(y, |y| y);
            y.iter_mut().for_each(|y| *y *= inverse);
        }
    }
}

/// Softmax of rows of `width` elements.
pub fn softmax(engine: Engine, width: usize, x: &[f32]) -> Vec<f32> {
    if width == 0 {
        return Vec::new();
    }
    let rows = x.len() / width;
    // SAFETY: a chunk is whole rows, each of which is written.
    unsafe {
        in_chunks(rows * width, rows_of_chunk(width), |start, y| {
            softmax_rows(engine.level(), width, &x[start..], y);
        })
    }
}

/// The gradient of [`softmax`], given its result.
pub fn softmax_backward(
    engine: Engine,
    width: usize,
    (y, gradient): (&[f32], &[f32]),
    by_x: &mut [f32],
) {
    if width == 0 {
        return;
    }
    let rows = rows_of_chunk(width);
    by_x.par_chunks_mut(rows).zip(y.par_chunks(rows).zip(gradient.par_chunks(rows))).for_each(
        |(to, (y, gradient))| {
            let inputs = y.chunks_exact(width).zip(gradient.chunks_exact(width));
            for (to, (y, gradient)) in to.chunks_exact_mut(width).zip(inputs) {
                to.copy_from_slice(y);
                softmax_row_backward(engine.level(), to, gradient, 1.0);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::{assert_close, numbers, put, same_for_all, strange};
    use proptest::prelude::*;

    fn engines() -> impl Iterator<Item = Engine> {
        Level::available().map(|level| Engine::new(level, Precision::F32))
    }

    fn plain(activation: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Silu => x * sigmoid(x),
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Gelu => {
                // Φ by Simpson's rule.
                let steps = 200;
                let h = x / f64::from(steps);
                let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let area: f64 = (0..steps)
                    .map(|i| {
                        let a = f64::from(i) * h;
                        h / 6.0 * (density(a) + 4.0 * density(a + h / 2.0) + density(a + h))
                    })
                    .sum();
                x * (0.5 + area)
            }
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
        }
    }

    #[test]
    fn activations_and_their_slopes() {
        let x: Vec<f32> = numbers(1, 333).iter().map(|x| x * 6.0).collect();
        let gradient = numbers(2, x.len());
        for activation in
            [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu]
        {
            let expected: Vec<f64> = x.iter().map(|x| plain(activation, f64::from(*x))).collect();
            let slope = |x: f32| {
                let x = f64::from(x);
                (plain(activation, x + 1e-4) - plain(activation, x - 1e-4)) / 2e-4
            };
            let slopes: Vec<f64> =
                x.iter().zip(&gradient).map(|(x, g)| f64::from(*g) * slope(*x)).collect();
            for engine in engines() {
                let mut actual = activate(engine, activation, &x);
                assert_close(&actual, &expected, 2e-6, &format!("{activation:?}"));
                activate_backward(engine, activation, (&x, &gradient), &mut actual);
                assert_close(&actual, &slopes, 2e-6, &format!("{activation:?} slope"));
            }
        }
    }

    #[test]
    fn gates_agree_with_activations() {
        let (width, rows) = (21, 60);
        let x = numbers(1, rows * 2 * width);
        let gradient = numbers(2, rows * width);
        for engine in engines() {
            for (kind, activation) in
                [(Gate::Gelu, Activation::Gelu), (Gate::Silu, Activation::Silu)]
            {
                let y = gated_halves(engine, kind, width, &x);
                let mut by_x = vec![0.0; x.len()];
                gated_halves_backward(engine, kind, width, (&x, &gradient), &mut by_x);
                for r in 0..rows {
                    for c in 0..width {
                        let (a, g) = (x[r * 2 * width + c], x[r * 2 * width + width + c]);
                        let expected = f64::from(a) * plain(activation, f64::from(g));
                        assert!((f64::from(y[r * width + c]) - expected).abs() < 1e-5);
                        let d = f64::from(gradient[r * width + c]);
                        let by_value = d * plain(activation, f64::from(g));
                        let by_value_actual = f64::from(by_x[r * 2 * width + c]);
                        assert!((by_value_actual - by_value).abs() < 1e-5);
                        let slope = (plain(activation, f64::from(g) + 1e-4)
                            - plain(activation, f64::from(g) - 1e-4))
                            / 2e-4;
                        let by_gate = f64::from(by_x[r * 2 * width + width + c]);
                        assert!((by_gate - d * f64::from(a) * slope).abs() < 1e-5);
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn softmax_of_any_shape(
            rows in 0..30usize, width in 1..150usize, scale in 0.1..60f32, value in strange(),
            place: usize,
        ) {
            let mut x: Vec<f32> = numbers(3, rows * width).iter().map(|x| x * scale).collect();
            put(&mut x, place, value);
            let mut expected = Vec::new();
            for x in x.chunks(width) {
                let top = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let e: Vec<f64> = x.iter().map(|x| (f64::from(*x) - top).exp()).collect();
                let total: f64 = e.iter().sum();
                expected.extend(e.iter().map(|e| e / total));
            }
            same_for_all(2e-6, &expected, "softmax", |engine| softmax(engine, width, &x));
        }
    }

    #[test]
    fn softmax_and_its_gradient() {
        for width in [1, 7, 16, 45] {
            let rows = 40;
            let x: Vec<f32> = numbers(3, rows * width).iter().map(|x| x * 20.0).collect();
            let gradient = numbers(4, x.len());
            let (mut expected, mut slopes) = (Vec::new(), Vec::new());
            for (x, g) in x.chunks(width).zip(gradient.chunks(width)) {
                let top = f64::from(x.iter().copied().fold(f32::MIN, f32::max));
                let e: Vec<f64> = x.iter().map(|x| (f64::from(*x) - top).exp()).collect();
                let total: f64 = e.iter().sum();
                let y: Vec<f64> = e.iter().map(|e| e / total).collect();
                let mean: f64 = y.iter().zip(g).map(|(y, g)| y * f64::from(*g)).sum();
                slopes.extend(y.iter().zip(g).map(|(y, g)| y * (f64::from(*g) - mean)));
                expected.extend(y);
            }
            for engine in engines() {
                let y = softmax(engine, width, &x);
                assert_close(&y, &expected, 2e-6, "softmax");
                let mut by_x = vec![0.0; x.len()];
                softmax_backward(engine, width, (&y, &gradient), &mut by_x);
                assert_close(&by_x, &slopes, 2e-6, "softmax backward");
            }
        }
    }
}
