//! Means with bootstrap intervals, the same for the same values.

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

impl Estimate {
    /// Of these values (percentile bootstrap); nothing when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len();
        let mut generator = Generator::new(count as u64).fork("bootstrap");
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| (0..count).map(|_| values[generator.below(count)]).sum::<f64>() / count as f64)
            .collect();
        means.sort_by(f64::total_cmp);
        Some(Self {
            mean: values.iter().sum::<f64>() / count as f64,
            low: means[RESAMPLES * 25 / 1000],
            high: means[RESAMPLES * 975 / 1000 - 1],
            count,
        })
    }

    /// Of the differences of pairs: the paired bootstrap.
    pub fn of_differences(pairs: &[(f64, f64)]) -> Option<Self> {
        Self::of(&pairs.iter().map(|(a, b)| a - b).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_has_the_width_of_the_standard_error() {
        let mut generator = Generator::new(3);
        let values: Vec<f64> = (0..400).map(|_| f64::from(generator.normal())).collect();
        let estimate = Estimate::of(&values).unwrap();
        assert!(estimate.low < estimate.mean && estimate.mean < estimate.high);
        let width = estimate.high - estimate.low;
        assert!((width - 2.0 * 1.96 / 20.0).abs() < 0.03, "{width}");
        assert_eq!(Estimate::of(&values), Some(estimate));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn pairs_that_always_differ_the_same_way_leave_no_doubt() {
        let pairs: Vec<_> = (0..50).map(|i| (f64::from(i) + 1.0, f64::from(i))).collect();
        let estimate = Estimate::of_differences(&pairs).unwrap();
        assert_eq!((estimate.low, estimate.high), (1.0, 1.0));
    }
}
