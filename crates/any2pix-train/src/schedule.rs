//! The learning rate over a run: linear warm-up, then constant or a cosine down to a fraction.

use serde::{Deserialize, Serialize};

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Half a cosine, from 1 to `final_ratio`.
    #[default]
    Cosine,
    /// Stays.
    Constant,
}

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The highest rate.
    pub learning_rate: f64,
    /// Steps of linear growth.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    /// What follows the warm-up.
    pub decay: Decay,
    /// The fraction that is left at the end.
    pub final_ratio: f64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.learning_rate,
            Decay::Cosine => {
                let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let part = ((step - self.warmup) as f64 / span).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * part).cos());
                self.learning_rate * (self.final_ratio + (1.0 - self.final_ratio) * cosine)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_top_and_falls_to_the_fraction() {
        let schedule = Schedule {
            learning_rate: 1e-3,
            warmup: 10,
            steps: 110,
            decay: Decay::Cosine,
            final_ratio: 0.1,
        };
        assert!((schedule.at(0) - 1e-4).abs() < 1e-12);
        assert!((schedule.at(10) - 1e-3).abs() < 1e-12);
        assert!((schedule.at(60) - 0.55e-3).abs() < 1e-9);
        assert!((schedule.at(110) - 1e-4).abs() < 1e-12);
        let constant = Schedule { decay: Decay::Constant, ..schedule };
        assert_eq!(constant.at(100), 1e-3);
    }
}
