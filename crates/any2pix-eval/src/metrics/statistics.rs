//! Means with bootstrap intervals, the same for the same values.

use std::collections::BTreeMap;

use any2pix_nn::Generator;
use serde::{Deserialize, Serialize};

const RESAMPLES: usize = 2000;

/// A mean and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// How many values.
    pub count: usize,
}

/// Percentile bootstrap; values of the same count are resampled the same way, which is drawn once.
#[derive(Default)]
pub struct Bootstrap {
    /// By count, [`RESAMPLES`] times that many indices.
    drawn: BTreeMap<usize, Vec<u32>>,
}

impl Bootstrap {
    /// The mean of these values and its interval; nothing when there are none.
    pub fn estimate(&mut self, values: &[f64]) -> Option<Estimate> {
        if values.is_empty() {
            return None;
        }
        let count = values.len();
        let drawn = self.drawn.entry(count).or_insert_with(|| {
            let mut generator = Generator::new(count as u64).fork("bootstrap");
            (0..RESAMPLES * count).map(|_| generator.below(count) as u32).collect()
        });
        let mean = |indices: &[u32]| {
            indices.iter().map(|index| values[*index as usize]).sum::<f64>() / count as f64
        };
        let mut means: Vec<f64> = drawn.chunks_exact(count).map(mean).collect();
        means.sort_by(f64::total_cmp);
        Some(Estimate {
            mean: values.iter().sum::<f64>() / count as f64,
            low: means[RESAMPLES * 25 / 1000],
            high: means[RESAMPLES * 975 / 1000 - 1],
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_has_the_width_of_the_standard_error() {
        let mut generator = Generator::new(3);
        let values: Vec<f64> = (0..400).map(|_| f64::from(generator.normal())).collect();
        let mut bootstrap = Bootstrap::default();
        let estimate = bootstrap.estimate(&values).unwrap();
        assert!(estimate.low < estimate.mean && estimate.mean < estimate.high);
        let width = estimate.high - estimate.low;
        assert!((width - 2.0 * 1.96 / 20.0).abs() < 0.03, "{width}");
        assert_eq!(Bootstrap::default().estimate(&values), Some(estimate));
        assert_eq!(bootstrap.estimate(&values), Some(estimate));
        assert_eq!(bootstrap.estimate(&[]), None);
    }

    #[test]
    fn values_that_are_all_the_same_leave_no_doubt() {
        let estimate = Bootstrap::default().estimate(&[1.0; 50]).unwrap();
        assert_eq!((estimate.low, estimate.high), (1.0, 1.0));
    }
}
