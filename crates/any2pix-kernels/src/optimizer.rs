//! AdamW and moving averages of weights, each one pass over memory.

use rayon::prelude::*;

use crate::level::{Engine, vectorised};
use crate::math::sum;

/// Elements of a task.
const CHUNK: usize = 1 << 14;

/// One step of AdamW (decoupled weight decay).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the mean of squares.
    pub eps: f32,
    /// Weight decay, times the rate.
    pub decay: f32,
    /// Multiplies the gradient first (clipping).
    pub gradient_scale: f32,
    /// The number of this step, from 1.
    pub step: u32,
}

/// The numbers of a step that all elements share.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    rate: f32,
    root: f32,
}

impl AdamW {
    fn factors(&self) -> Factors {
        let step = f64::from(self.step);
        let correction1 = 1.0 - f64::from(self.beta1).powf(step);
        let correction2 = 1.0 - f64::from(self.beta2).powf(step);
        Factors {
            keep: 1.0 - self.rate * self.decay,
            rate: (f64::from(self.rate) / correction1) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
        }
    }
}

vectorised! {
    fn adamw_chunk(
        level: Level, options: &AdamW, factors: Factors,
        weight: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32],
    ) {
        let AdamW { beta1, beta2, eps, gradient_scale, .. } = *options;
        let states = mean.iter_mut().zip(square);
        for ((weight, gradient), (mean, square)) in weight.iter_mut().zip(gradient).zip(states) {
            let gradient = gradient * gradient_scale;
            *mean = beta1 * *mean + (1.0 - beta1) * gradient;
            *square = beta2 * *square + (1.0 - beta2) * (gradient * gradient);
            let step = *mean / (square.sqrt() * factors.root + eps);
            *weight = *weight * factors.keep - factors.rate * step;
        }
    }
}

/// Updates `weight` and the two running means in one pass.
pub fn adamw_step(
    engine: Engine,
    options: &AdamW,
    weight: &mut [f32],
    gradient: &[f32],
    (mean, square): (&mut [f32], &mut [f32]),
) {
    let factors = options.factors();
    weight
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK)))
        .for_each(|((weight, gradient), (mean, square))| {
            adamw_chunk(engine.level(), options, factors, weight, gradient, mean, square);
        });
}

vectorised! {
    fn ema_chunk(level: Level, decay: f32, average: &mut [f32], value: &[f32]) {
        for (average, value) in average.iter_mut().zip(value) {
            *average += (1.0 - decay) * (value - *average);
        }
    }
}

/// `average = decay · average + (1 - decay) · value`.
pub fn ema(engine: Engine, decay: f32, average: &mut [f32], value: &[f32]) {
    average
        .par_chunks_mut(CHUNK)
        .zip(value.par_chunks(CHUNK))
        .for_each(|(average, value)| ema_chunk(engine.level(), decay, average, value));
}

vectorised! {
    fn squares_chunk(level: Level, x: &[f32]) -> f32 {
        sum(x, |x| x * x)
    }
}

/// `Σ x²`, the same on any number of threads.
pub fn sum_of_squares(engine: Engine, x: &[f32]) -> f64 {
    let partials: Vec<f32> =
        x.par_chunks(CHUNK).map(|x| squares_chunk(engine.level(), x)).collect();
    partials.into_iter().map(f64::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::{assert_close, numbers};

    #[test]
    fn adamw_equals_the_plain_loop() {
        let start = numbers(1, 20_000);
        for level in Level::available() {
            let engine = Engine::new(level, Precision::F32);
            let mut weight = start.clone();
            let (mut mean, mut square) = (vec![0.0; start.len()], vec![0.0; start.len()]);
            let mut plain: Vec<[f64; 3]> =
                start.iter().map(|w| [f64::from(*w), 0.0, 0.0]).collect();
            for step in 1..=3 {
                let gradient = numbers(10 + u64::from(step), start.len());
                let options = AdamW {
                    rate: 1e-2,
                    beta1: 0.9,
                    beta2: 0.99,
                    eps: 1e-8,
                    decay: 0.1,
                    gradient_scale: 0.5,
                    step,
                };
                adamw_step(engine, &options, &mut weight, &gradient, (&mut mean, &mut square));
                for ([w, m, v], g) in plain.iter_mut().zip(&gradient) {
                    let g = f64::from(*g) * 0.5;
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.99 * *v + 0.01 * g * g;
                    let hat_m = *m / (1.0 - 0.9f64.powi(step as i32));
                    let hat_v = *v / (1.0 - 0.99f64.powi(step as i32));
                    *w = *w * (1.0 - 1e-3) - 1e-2 * hat_m / (hat_v.sqrt() + 1e-8);
                }
            }
            let expected: Vec<f64> = plain.iter().map(|p| p[0]).collect();
            assert_close(&weight, &expected, 1e-6, &format!("{level:?}"));
        }
    }

    #[test]
    fn averages_and_squares() {
        let (a, b) = (numbers(1, 30_000), numbers(2, 30_000));
        let engine = Engine::current(Precision::F32);
        let mut average = a.clone();
        ema(engine, 0.9, &mut average, &b);
        let expected: Vec<f64> =
            a.iter().zip(&b).map(|(a, b)| 0.9 * f64::from(*a) + 0.1 * f64::from(*b)).collect();
        assert_close(&average, &expected, 1e-6, "average");
        let squares: f64 = a.iter().map(|a| f64::from(*a).powi(2)).sum();
        assert!((sum_of_squares(engine, &a) / squares - 1.0).abs() < 1e-6);
    }
}
