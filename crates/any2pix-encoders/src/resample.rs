//! Band-limited resampling: the windowed sinc of torchaudio's `sinc_interp_hann`.

/// Zero crossings of the sinc on each side.
const LOWPASS_WIDTH: f64 = 6.0;
/// Where the pass band ends, as a part of the lower Nyquist frequency.
const ROLLOFF: f64 = 0.99;

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Converts `samples` from `from` to `to` hertz; `⌈len·to/from⌉` samples come out.
///
/// Only the taps inside the window are kept, so that memory grows with the rates' ratio and not
/// with their least common multiple.
pub fn resample(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to || samples.is_empty() || from == 0 || to == 0 {
        return samples.to_vec();
    }
    let divisor = gcd(from, to);
    let (from, to) = (u64::from(from / divisor), u64::from(to / divisor));
    let length = (samples.len() as u64 * to).div_ceil(from) as usize;
    let kernels: Vec<Kernel> =
        (0..to.min(length as u64)).map(|phase| Kernel::new(phase, from, to)).collect();
    (0..length)
        .map(|n| {
            let n = n as u64;
            let kernel = &kernels[(n % to) as usize];
            kernel.apply(samples, (n / to * from) as i64)
        })
        .collect()
}

/// The taps for output positions of one phase, relative to the input block that they start in.
struct Kernel {
    first: i64,
    taps: Vec<f32>,
}

impl Kernel {
    fn new(phase: u64, from: u64, to: u64) -> Self {
        let base = from.min(to) as f64 * ROLLOFF;
        let width = (LOWPASS_WIDTH * from as f64 / base).ceil() as i64;
        let offset = phase as f64 / to as f64;
        let reach = LOWPASS_WIDTH / base * from as f64;
        let centre = offset * from as f64;
        let first = ((centre - reach).floor() as i64).max(-width);
        let last = ((centre + reach).ceil() as i64).min(width + from as i64 - 1);
        let taps = (first..=last)
            .map(|i| {
                let t =
                    ((i as f64 / from as f64 - offset) * base).clamp(-LOWPASS_WIDTH, LOWPASS_WIDTH);
                let window = (t * std::f64::consts::PI / LOWPASS_WIDTH / 2.0).cos().powi(2);
                let angle = t * std::f64::consts::PI;
                let sinc = if angle == 0.0 { 1.0 } else { angle.sin() / angle };
                (sinc * window * base / from as f64) as f32
            })
            .collect();
        Self { first, taps }
    }

    fn apply(&self, samples: &[f32], block: i64) -> f32 {
        let start = block + self.first;
        let skip = (-start).max(0) as usize;
        let source = samples.get(start.max(0) as usize..).unwrap_or_default();
        let taps = self.taps.get(skip..).unwrap_or_default();
        taps.iter().zip(source).map(|(tap, sample)| f64::from(tap * sample)).sum::<f64>() as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_keeps_its_pitch_and_height() {
        let tone = |rate: u32| -> Vec<f32> {
            let step = 2.0 * std::f64::consts::PI * 440.0 / f64::from(rate);
            (0..rate).map(|i| (f64::from(i) * step).sin() as f32).collect()
        };
        for rate in [8_000, 11_025, 44_100, 44_101, 96_000] {
            let ours = resample(&tone(rate), rate, 16_000);
            assert_eq!(ours.len(), 16_000, "{rate}");
            let inner = 200..15_800;
            let error = ours[inner.clone()]
                .iter()
                .zip(&tone(16_000)[inner])
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(error < 5e-3, "{rate} Hz: {error}");
        }
    }
}
