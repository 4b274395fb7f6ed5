//! Sounds as they might have been recorded elsewhere: cropped, bent, filtered, in noise.

use any2pix_nn::Generator;

use super::audio::{self, SAMPLE_RATE};

const RATE: f32 = SAMPLE_RATE as f32;

/// A perturbed copy of `clip`, one to two seconds; `noise` is what may be heard behind it.
pub fn augment(clip: &[f32], noise: Option<&[f32]>, generator: &mut Generator) -> Vec<f32> {
    let mut samples = speed(clip, generator.uniform_in(0.8, 1.25));
    samples = crop_or_loop(&samples, generator);
    if generator.chance(0.4) {
        tilt(&mut samples, generator.uniform_in(-0.7, 0.7));
    }
    if generator.chance(0.15) {
        telephone(&mut samples);
    }
    if generator.chance(0.3) {
        reverb(&mut samples, generator.uniform_in(0.2, 0.6), generator.uniform_in(0.1, 0.4));
    }
    if generator.chance(0.1) {
        samples.iter_mut().for_each(|s| *s = (*s * 127.0).round() / 127.0);
    }
    if generator.chance(0.5) {
        let decibels = generator.uniform_in(0.0, 25.0);
        match noise {
            Some(noise) if generator.chance(0.5) => mix(&mut samples, noise, decibels, generator),
            _ => hiss(&mut samples, decibels, generator),
        }
    }
    let gain = libm::powf(10.0, generator.uniform_in(-12.0, 12.0) / 20.0);
    samples.iter_mut().for_each(|s| *s = (*s * gain).clamp(-1.0, 1.0));
    samples
}

/// Plays faster (`factor` above 1) or slower, and higher or lower with it.
fn speed(clip: &[f32], factor: f32) -> Vec<f32> {
    let length = ((clip.len() as f32 / factor) as usize).max(1);
    let at = |i: usize| clip.get(i).copied().unwrap_or(0.0);
    (0..length)
        .map(|i| {
            let position = i as f32 * factor;
            let before = position as usize;
            let part = position - before as f32;
            at(before) * (1.0 - part) + at(before + 1) * part
        })
        .collect()
}

/// A random second or two: a cut of what is longer, repetitions with pauses of what is shorter.
fn crop_or_loop(samples: &[f32], generator: &mut Generator) -> Vec<f32> {
    let wanted = (generator.uniform_in(1.0, 2.0) * RATE) as usize;
    if samples.len() >= wanted {
        let start = generator.below(samples.len() - wanted + 1);
        let cut = &samples[start..start + wanted];
        // A cut from the quiet end of a clip says nothing: keep the start instead.
        let loud = |part: &[f32]| part.iter().fold(0f32, |most, s| most.max(s.abs()));
        let keep = if loud(cut) < 0.25 * loud(samples) { &samples[..wanted] } else { cut };
        return keep.to_vec();
    }
    let mut result = Vec::with_capacity(wanted);
    result.resize(generator.below(wanted / 8 + 1), 0.0);
    while result.len() < wanted {
        result.extend_from_slice(samples);
        let pause = generator.below(SAMPLE_RATE as usize / 3);
        result.resize(result.len() + pause, 0.0);
    }
    result.truncate(wanted);
    result
}

/// More highs (positive) or more lows (negative).
fn tilt(samples: &mut [f32], amount: f32) {
    let mut low = 0f32;
    for sample in samples {
        low += 0.2 * (*sample - low);
        let high = *sample - low;
        *sample = low * (1.0 - amount) + high * (1.0 + amount);
    }
}

/// Keeps about 300 to 3400 Hz.
fn telephone(samples: &mut [f32]) {
    let smooth = |frequency: f32| 1.0 - libm::expf(-std::f32::consts::TAU * frequency / RATE);
    let (above, below) = (smooth(300.0), smooth(3400.0));
    let (mut low, mut first, mut second) = (0f32, 0f32, 0f32);
    for sample in samples {
        low += above * (*sample - low);
        first += below * (*sample - low - first);
        second += below * (first - second);
        *sample = second * 1.4;
    }
}

/// A room: four decaying echoes of different lengths that feed back.
fn reverb(samples: &mut [f32], decay: f32, wet: f32) {
    const DELAYS: [usize; 4] = [467, 613, 751, 887];
    let dry = samples.to_vec();
    for delay in DELAYS {
        let feedback = libm::powf(0.001, delay as f32 / RATE / decay);
        let mut line = vec![0f32; delay];
        for (i, sample) in samples.iter_mut().enumerate() {
            let echo = line[i % delay];
            line[i % delay] = dry[i] + echo * feedback;
            *sample += echo * wet * 0.5;
        }
    }
}

fn power(samples: &[f32]) -> f32 {
    samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32
}

/// Adds `noise`, repeated from a random place, `decibels` below the sound.
fn mix(samples: &mut [f32], noise: &[f32], decibels: f32, generator: &mut Generator) {
    if noise.is_empty() {
        return;
    }
    let ratio = libm::powf(10.0, -decibels / 10.0);
    let gain = (power(samples) * ratio / power(noise).max(1e-9)).sqrt();
    let start = generator.below(noise.len());
    for (i, sample) in samples.iter_mut().enumerate() {
        *sample += noise[(start + i) % noise.len()] * gain;
    }
}

/// Adds coloured noise, `decibels` below the sound.
fn hiss(samples: &mut [f32], decibels: f32, generator: &mut Generator) {
    let colour = generator.uniform_in(0.05, 1.0);
    let mut low = 0f32;
    let noise: Vec<f32> = (0..samples.len().min(4096))
        .map(|_| {
            low += colour * (generator.uniform_in(-1.0, 1.0) - low);
            low
        })
        .collect();
    mix(samples, &noise, decibels, generator);
}

/// A clip as a reference without perturbation: at most six seconds, at full level.
pub fn plain(clip: &[f32]) -> Vec<f32> {
    let mut samples = clip.to_vec();
    audio::normalise(&mut samples, 0.8);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn augmented_clips_are_audible_bounded_and_repeatable() {
        let clip: Vec<f32> = (0..5000).map(|i| libm::sinf(i as f32 * 0.2) * 0.5).collect();
        for seed in 0..40 {
            let out = augment(&clip, Some(&clip), &mut Generator::new(seed));
            assert!((16_000..=32_000).contains(&out.len()));
            assert!(power(&out) > 1e-5 && out.iter().all(|s| s.abs() <= 1.0));
            assert_eq!(out, augment(&clip, Some(&clip), &mut Generator::new(seed)));
        }
    }
}
