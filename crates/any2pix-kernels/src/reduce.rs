//! Sums over rows.

use rayon::prelude::*;

use crate::level::{Engine, vectorised};

/// Rows that are summed before partial sums are added; fixed, so that results are too.
const CHUNK: usize = 256;

/// `to[c] = Σ rows[r][c]`; `to.len()` is the length of a row.
pub fn sum_rows(engine: Engine, rows: &[f32], to: &mut [f32]) {
    to.fill(0.0);
    let width = to.len();
    if width == 0 {
        return;
    }
    let partial = |chunk: &[f32]| {
        let mut sums = vec![0.0; width];
        add_rows(engine.level(), chunk, &mut sums);
        sums
    };
    let size = CHUNK * width;
    let partials: Vec<Vec<f32>> = if rows.len() > 1 << 16 {
        rows.par_chunks(size).map(partial).collect()
    } else {
        rows.chunks(size).map(partial).collect()
    };
    for sums in partials {
        to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
    }
}

vectorised! {
    fn add_rows(level: Level, rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Precision};
    use crate::testing::{assert_close, numbers};

    #[test]
    fn equals_the_plain_loop() {
        for (count, width) in [(0, 3), (1, 1), (700, 33), (3000, 40)] {
            let rows = numbers(1, count * width);
            let mut expected = vec![0f64; width];
            for row in rows.chunks(width) {
                expected.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
            }
            for level in Level::available() {
                let mut actual = vec![1.0; width];
                sum_rows(Engine::new(level, Precision::F32), &rows, &mut actual);
                assert_close(&actual, &expected, 1e-4, &format!("{level:?}"));
            }
        }
    }
}
