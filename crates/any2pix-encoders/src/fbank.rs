//! Kaldi's log-mel filter bank, as torchaudio computes it: 25 ms frames every 10 ms, symmetric
//! Hann window, pre-emphasis, power spectrum, natural logarithm.

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex};

/// The floor under the logarithm: f32's epsilon.
const FLOOR: f64 = f32::EPSILON as f64;
const PRE_EMPHASIS: f64 = 0.97;
const LOW_HZ: f64 = 20.0;

fn mel(hertz: f64) -> f64 {
    1127.0 * (1.0 + hertz / 700.0).ln()
}

/// A filter bank for one sample rate and one number of mel bins.
pub struct Fbank {
    frame: usize,
    shift: usize,
    window: Vec<f64>,
    fft: Arc<dyn RealToComplex<f64>>,
    /// For every mel bin, its first FFT bin and its weights from there.
    filters: Vec<(usize, Vec<f64>)>,
}

impl Fbank {
    /// Frames of 25 ms; the FFT is the next power of two.
    pub fn new(sample_rate: u32, mel_bins: usize) -> Self {
        let frame = (f64::from(sample_rate) * 0.025) as usize;
        let shift = (f64::from(sample_rate) * 0.010) as usize;
        let padded = frame.next_power_of_two();
        let step = 2.0 * std::f64::consts::PI / (frame.max(2) - 1) as f64;
        let window = (0..frame).map(|i| 0.5 - 0.5 * (i as f64 * step).cos()).collect();
        let fft = RealFftPlanner::new().plan_fft_forward(padded);
        Self { frame, shift, window, fft, filters: filters(sample_rate, padded, mel_bins) }
    }

    /// How many frames `samples` samples make; none is padded.
    pub fn frames(&self, samples: usize) -> usize {
        match samples.checked_sub(self.frame) {
            Some(rest) => 1 + rest / self.shift.max(1),
            None => 0,
        }
    }

    /// # Shapes
    /// `samples` `(n)` → `(mel_bins, frames(n))`, one row a bin.
    pub fn compute(&self, samples: &[f32]) -> Vec<Vec<f32>> {
        let count = self.frames(samples.len());
        let mut rows = vec![Vec::with_capacity(count); self.filters.len()];
        let mut input = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        for index in 0..count {
            self.prepare(&samples[index * self.shift..][..self.frame], &mut input);
            // The only failure is a buffer of a wrong length, and these were made for it.
            if self.fft.process_with_scratch(&mut input, &mut spectrum, &mut scratch).is_err() {
                spectrum.fill(Default::default());
            }
            for (row, (first, weights)) in rows.iter_mut().zip(&self.filters) {
                let energy: f64 =
                    weights.iter().zip(&spectrum[*first..]).map(|(w, c)| w * c.norm_sqr()).sum();
                row.push(energy.max(FLOOR).ln() as f32);
            }
        }
        rows
    }

    /// Removes the mean, emphasises, windows and pads one frame.
    fn prepare(&self, samples: &[f32], input: &mut [f64]) {
        let mean = samples.iter().map(|&s| f64::from(s)).sum::<f64>() / self.frame as f64;
        let mut previous = f64::from(samples[0]) - mean;
        for ((out, &sample), window) in input.iter_mut().zip(samples).zip(&self.window) {
            let centred = f64::from(sample) - mean;
            *out = (centred - PRE_EMPHASIS * previous) * window;
            previous = centred;
        }
        input[self.frame..].fill(0.0);
    }
}

/// Triangles, evenly spaced on the mel scale from 20 Hz to the Nyquist frequency.
fn filters(sample_rate: u32, padded: usize, mel_bins: usize) -> Vec<(usize, Vec<f64>)> {
    let bin_width = f64::from(sample_rate) / padded as f64;
    let low = mel(LOW_HZ);
    let delta = (mel(f64::from(sample_rate) / 2.0) - low) / (mel_bins + 1) as f64;
    (0..mel_bins)
        .map(|bin| {
            let left = low + bin as f64 * delta;
            let weight = |fft_bin: usize| {
                let position = (mel(bin_width * fft_bin as f64) - left) / delta;
                position.min(2.0 - position).max(0.0)
            };
            let first = (0..padded / 2).find(|&i| weight(i) > 0.0).unwrap_or(0);
            let weights = (first..padded / 2).map(weight).take_while(|&w| w > 0.0).collect();
            (first, weights)
        })
        .collect()
}
