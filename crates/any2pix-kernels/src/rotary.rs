//! Rotary position embedding: pairs `(i, i + d/2)` of each head turned by their position's angle.

use rayon::prelude::*;

use crate::level::{Engine, vectorised};

/// `x` `(batch, positions, heads · 2 · half)`; angles `(positions, half)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotaryShape {
    /// Elements of a row: heads times twice the half.
    pub width: usize,
    /// Half of a head.
    pub half: usize,
    /// Positions of a sequence.
    pub positions: usize,
    /// Turns by the negative angles: the gradient of turning.
    pub backwards: bool,
}

vectorised! {
    fn turn_row(level: Level, x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
        let half = cos.len();
        for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
            let ((a, b), (to_a, to_b)) = (x.split_at(half), y.split_at_mut(half));
            for (((a, b), (to_a, to_b)), (cos, sin)) in
                a.iter().zip(b).zip(to_a.iter_mut().zip(to_b)).zip(cos.iter().zip(sin))
            {
                let sin = sin * sign;
                *to_a = a * cos - b * sin;
                *to_b = b * cos + a * sin;
            }
        }
    }
}

/// Turns every row by the angles of its position.
pub fn rotary(
    engine: Engine,
    shape: &RotaryShape,
    (x, cos, sin): (&[f32], &[f32], &[f32]),
    y: &mut [f32],
) {
    let RotaryShape { width, half, positions, backwards } = *shape;
    if width == 0 || half == 0 {
        return;
    }
    let sign = if backwards { -1.0 } else { 1.0 };
    let rows = y.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate();
    rows.with_min_len(16).for_each(|(row, (y, x))| {
        let at = row % positions * half;
        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
        turn_row(engine.level(), x, cos, sin, sign, y);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::{assert_close, numbers};

    #[test]
    fn equals_the_plain_loop_and_turns_back() {
        let (batch, positions, heads, half) = (2, 5, 3, 7);
        let width = heads * 2 * half;
        let x = numbers(1, batch * positions * width);
        let angles = numbers(2, positions * half);
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let expected: Vec<f64> = (0..x.len())
            .map(|i| {
                let (row, in_head) = (i / width, i % width % (2 * half));
                let angle = f64::from(angles[row % positions * half + in_head % half]);
                let other = if in_head < half { i + half } else { i - half };
                let sign = if in_head < half { -1.0 } else { 1.0 };
                f64::from(x[i]) * angle.cos() + sign * f64::from(x[other]) * angle.sin()
            })
            .collect();
        for level in Level::available() {
            let engine = Engine::new(level, Precision::F32);
            let shape = RotaryShape { width, half, positions, backwards: false };
            let mut y = vec![0.0; x.len()];
            rotary(engine, &shape, (&x, &cos, &sin), &mut y);
            assert_close(&y, &expected, 1e-6, "turned");
            let mut back = vec![0.0; x.len()];
            let shape = RotaryShape { backwards: true, ..shape };
            rotary(engine, &shape, (&y, &cos, &sin), &mut back);
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            assert_close(&back, &wide, 1e-6, "turned back");
        }
    }
}
