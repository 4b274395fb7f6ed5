//! Sounds for the page: short, telephone quality, in a file that every browser plays; and what
//! they look like.

use any2pix_encoders::audio::Waveform;
use any2pix_encoders::fbank::Fbank;
use image::{GrayImage, Luma};

/// Samples a second of what is played.
const RATE: u32 = 8_000;
/// What is played: as much as the encoder hears at once.
const SECONDS: usize = 2;
/// Samples a second of what is drawn, as the encoder hears it.
const DRAWN_RATE: u32 = 16_000;
/// Rows of the drawing.
const MEL_BINS: usize = 48;
/// Every so many frames of 10 ms are one column of the drawing.
const FRAMES_A_COLUMN: usize = 2;

fn beginning(sound: &Waveform, rate: u32) -> Vec<f32> {
    let mut samples = sound.resampled(rate).mono();
    samples.truncate(rate as usize * SECONDS);
    samples
}

/// The beginning of a sound as a WAV file of 8-bit µ-law samples (ITU-T G.711).
pub(super) fn coded(sound: &Waveform) -> Vec<u8> {
    let samples = beginning(sound, RATE);
    let peak = samples.iter().fold(1.0f32, |peak, sample| peak.max(sample.abs()));
    let data: Vec<u8> = samples.iter().map(|sample| mu_law(sample / peak)).collect();
    let size = |length: usize| (length as u32).to_le_bytes();
    let mut file = Vec::with_capacity(data.len() + 64);
    file.extend(b"RIFF");
    file.extend(size(4 + (8 + 18) + (8 + 4) + 8 + data.len() + data.len() % 2));
    file.extend(b"WAVEfmt ");
    file.extend(size(18));
    // µ-law, one channel, samples and bytes a second, one byte a frame, eight bits, no extension.
    file.extend([7, 0, 1, 0]);
    file.extend(RATE.to_le_bytes());
    file.extend(RATE.to_le_bytes());
    file.extend([1, 0, 8, 0, 0, 0]);
    // Coded sounds say how many samples they hold.
    file.extend(b"fact");
    file.extend(size(4));
    file.extend(size(data.len()));
    file.extend(b"data");
    file.extend(size(data.len()));
    file.extend(&data);
    file.resize(file.len() + data.len() % 2, 0);
    file
}

/// One sample in ±1 as G.711 has it: sign, the position of the highest bit, four bits behind it.
fn mu_law(sample: f32) -> u8 {
    const BIAS: u16 = 132;
    let magnitude = (sample.abs().min(1.0) * 32_635.0) as u16 + BIAS;
    let exponent = 8 - (magnitude.leading_zeros() as u8).min(8);
    let mantissa = (magnitude >> (exponent + 3)) as u8 & 0x0f;
    let sign = if sample < 0.0 { 0x80 } else { 0 };
    !(sign | exponent << 4 | mantissa)
}

/// Log-mel energies of the same part, low tones below, loud white on black; nothing when it is
/// shorter than one frame.
pub(super) fn spectrogram(sound: &Waveform) -> Option<GrayImage> {
    let rows = Fbank::new(DRAWN_RATE, MEL_BINS).compute(&beginning(sound, DRAWN_RATE));
    let width = rows.first()?.len().div_ceil(FRAMES_A_COLUMN) as u32;
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for value in rows.iter().flatten() {
        (low, high) = (low.min(*value), high.max(*value));
    }
    // Nothing that is 60 dB softer than the loudest can be heard beside it.
    let low = low.max(high - 60.0 / 10.0 * std::f32::consts::LN_10);
    let scale = 255.0 / (high - low).max(f32::EPSILON);
    let shade = |x: u32, y: u32| {
        let row = &rows[rows.len() - 1 - y as usize];
        let value = row.get(x as usize * FRAMES_A_COLUMN).copied().unwrap_or(low);
        Luma([((value - low).max(0.0) * scale) as u8])
    };
    (width > 0).then(|| GrayImage::from_fn(width, rows.len() as u32, shade))
}

#[cfg(test)]
mod tests {
    use super::*;
    use any2pix_encoders::audio::{self, AudioLimits};

    fn tone(hertz: f32, seconds: f32) -> Waveform {
        let rate = 22_050;
        let step = hertz * std::f32::consts::TAU / rate as f32;
        let samples = (0..(rate as f32 * seconds) as usize).map(|i| (i as f32 * step).sin() * 0.7);
        Waveform { channels: vec![samples.collect()], sample_rate: rate, warnings: Vec::new() }
    }

    #[test]
    fn a_coded_sound_is_short_and_decodes_to_what_it_was() {
        let sound = tone(440.0, 3.1);
        let file = coded(&sound);
        assert!(file.len() < 16_100, "{}", file.len());
        let back = audio::decode("coded.wav", &file, &AudioLimits::default()).unwrap();
        assert_eq!((back.sample_rate, back.frames(), back.warnings.len()), (8_000, 16_000, 0));
        let expected = beginning(&sound, 8_000);
        let error = |(a, b): (&f32, &f32)| (a - b).abs();
        let worst = back.channels[0].iter().zip(&expected).map(error).fold(0.0, f32::max);
        // The steps of G.711 at full scale are 1/32 of it.
        assert!(worst < 0.02, "{worst}");
        assert!(coded(&tone(440.0, 0.1001)).len().is_multiple_of(2));
    }

    #[test]
    fn a_higher_tone_is_drawn_higher() {
        let brightest = |hertz: f32| {
            let drawing = spectrogram(&tone(hertz, 1.0)).unwrap();
            let middle = drawing.width() / 2;
            (0..drawing.height()).max_by_key(|y| drawing.get_pixel(middle, *y).0[0]).unwrap()
        };
        assert!(brightest(2_000.0) + 10 < brightest(300.0));
        assert!(spectrogram(&tone(300.0, 0.01)).is_none());
    }
}
