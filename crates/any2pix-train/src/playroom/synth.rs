//! Sounds made from a General MIDI soundfont: instruments playing alone, and music of a known mood.

use std::path::Path;
use std::sync::Arc;

use any2pix_encoders::resample::resample;
use any2pix_nn::Generator;
use rustysynth::{SoundFont, Synthesizer, SynthesizerSettings};

use super::audio::{self, SAMPLE_RATE};
use super::error::{PlayroomError, Result};

/// Rate of synthesis; sounds are then resampled to 16 kHz.
const RATE: u32 = 32_000;
const MAJOR: [i32; 7] = [0, 2, 4, 5, 7, 9, 11];
const MINOR: [i32; 7] = [0, 2, 3, 5, 7, 8, 10];

/// One note of a score: when (seconds), how long, on which channel, which key, how hard.
struct Note {
    start: f32,
    length: f32,
    channel: i32,
    key: i32,
    velocity: i32,
}

/// What a piece of music is like.
#[derive(Clone, Copy, Debug)]
pub struct Mood {
    /// Major (true) or minor.
    pub major: bool,
    /// Beats a minute.
    pub tempo: u32,
    /// From 0 (soft) to 1 (loud).
    pub loudness: f32,
}

/// From this program on there are noises instead of instruments.
const FIRST_EFFECT: u8 = 120;

/// Plays General MIDI programs.
pub struct Orchestra {
    font: Arc<SoundFont>,
}

impl Orchestra {
    /// Reads the soundfont at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = std::fs::File::open(path).map_err(PlayroomError::io(path))?;
        let font = SoundFont::new(&mut file).map_err(PlayroomError::format(path))?;
        Ok(Self { font: Arc::new(font) })
    }

    /// A short free phrase on `program`, about two seconds, 16 kHz.
    pub fn phrase(&self, program: u8, generator: &mut Generator) -> Result<Vec<f32>> {
        if program >= FIRST_EFFECT {
            let key = 55 + generator.below(12) as i32;
            let note = Note { start: 0.0, length: 2.4, channel: 0, key, velocity: 110 };
            return self.play(&[(0, program)], &[note], 2.6);
        }
        let scale = if generator.chance(0.5) { MAJOR } else { MINOR };
        let root = lowest_key(program) + generator.below(8) as i32;
        let step = generator.uniform_in(0.18, 0.55);
        let count = (2.0 / step) as usize;
        let mut degree = generator.below(7) as i32;
        let mut notes = Vec::new();
        for i in 0..count {
            degree = (degree + generator.below(5) as i32 - 2).clamp(0, 13);
            let key = root + 12 * (degree / 7) + scale[(degree % 7) as usize];
            let velocity = 80 + generator.below(40) as i32;
            let length = step * generator.uniform_in(0.7, 1.1);
            notes.push(Note { start: i as f32 * step, length, channel: 0, key, velocity });
        }
        self.play(&[(0, program)], &notes, 2.6)
    }

    /// Four seconds of music of the given mood: chords, bass and a tune.
    pub fn music(&self, mood: Mood, generator: &mut Generator) -> Result<Vec<f32>> {
        let scale = if mood.major { MAJOR } else { MINOR };
        let progression: [usize; 4] = if mood.major { [0, 3, 4, 0] } else { [0, 5, 3, 0] };
        let beat = 60.0 / mood.tempo as f32;
        let velocity = (35.0 + 85.0 * mood.loudness) as i32;
        let root = 55 + generator.below(7) as i32;
        let tone = |degree: usize| root + 12 * (degree as i32 / 7) + scale[degree % 7];
        let mut notes = Vec::new();
        let beats = (4.0 / beat).ceil() as usize;
        for i in 0..beats {
            let start = i as f32 * beat;
            let chord = progression[(i / 2) % 4];
            for third in [0, 2, 4] {
                let key = tone(chord + third);
                notes.push(Note { start, length: beat, channel: 0, key, velocity });
            }
            let key = tone(chord) - 24;
            notes.push(Note { start, length: beat * 0.9, channel: 1, key, velocity });
            let key = tone(chord + 2 * generator.below(3)) + 12;
            notes.push(Note { start, length: beat * 0.5, channel: 2, key, velocity });
            let key = tone(chord + generator.below(6)) + 12;
            let start = start + beat * 0.5;
            notes.push(Note { start, length: beat * 0.5, channel: 2, key, velocity });
        }
        let tune = *generator.choose(&[0u8, 24, 40, 71, 73]).unwrap_or(&0);
        let mut samples = self.play(&[(0, 48), (1, 32), (2, tune)], &notes, 4.0)?;
        audio::normalise(&mut samples, 0.08 + 0.85 * mood.loudness);
        Ok(samples)
    }

    fn play(&self, programs: &[(i32, u8)], notes: &[Note], seconds: f32) -> Result<Vec<f32>> {
        let settings = SynthesizerSettings::new(RATE as i32);
        let mut synthesizer = Synthesizer::new(&self.font, &settings)
            .map_err(PlayroomError::format(Path::new("soundfont")))?;
        for &(channel, program) in programs {
            synthesizer.process_midi_message(channel, 0xC0, i32::from(program), 0);
        }
        let mut events: Vec<(usize, bool, &Note)> = Vec::new();
        for note in notes {
            let at = |time: f32| (time * RATE as f32) as usize;
            events.push((at(note.start), true, note));
            events.push((at(note.start + note.length), false, note));
        }
        events.sort_by_key(|&(time, on, _)| (time, on));
        let total = (seconds * RATE as f32) as usize;
        let mut left = vec![0f32; total];
        let mut right = vec![0f32; total];
        let mut now = 0;
        for (time, on, note) in events {
            let until = time.min(total);
            synthesizer.render(&mut left[now..until], &mut right[now..until]);
            now = until;
            if on {
                synthesizer.note_on(note.channel, note.key, note.velocity);
            } else {
                synthesizer.note_off(note.channel, note.key);
            }
        }
        synthesizer.render(&mut left[now..], &mut right[now..]);
        let mono: Vec<f32> = left.iter().zip(&right).map(|(l, r)| 0.5 * (l + r)).collect();
        Ok(resample(&mono, RATE, SAMPLE_RATE))
    }
}

/// The lowest comfortable root key of an instrument.
fn lowest_key(program: u8) -> i32 {
    match program {
        42 | 43 | 57 | 58 | 70 => 41,
        40 | 56 | 73 | 74 => 62,
        _ => 52,
    }
}

/// Rain has no recording among the packages: noise through a slow filter, with drops.
pub fn rain(seconds: f32, generator: &mut Generator) -> Vec<f32> {
    let count = (seconds * SAMPLE_RATE as f32) as usize;
    let heaviness = generator.uniform_in(0.5, 1.0);
    let mut low = 0f32;
    let mut samples: Vec<f32> = (0..count)
        .map(|_| {
            let noise = generator.uniform_in(-1.0, 1.0);
            low += 0.35 * (noise - low);
            (noise - low) * 0.12 * heaviness + low * 0.05
        })
        .collect();
    for _ in 0..(seconds * 60.0 * heaviness) as usize {
        let start = generator.below(count);
        let strength = generator.uniform_in(0.05, 0.45);
        let decay = generator.uniform_in(0.90, 0.985);
        let pitch = generator.uniform_in(0.2, 1.2);
        let mut level = strength;
        for (i, sample) in samples[start..].iter_mut().take(400).enumerate() {
            *sample += level * libm::sinf(pitch * i as f32);
            level *= decay;
        }
    }
    audio::normalise(&mut samples, 0.5);
    samples
}

/// Barks, two or three in a row: a throat whose pitch jumps up and falls, through a muzzle.
///
/// No recording of a dog among the packages may be passed on, so that this one is made here.
pub fn barks(generator: &mut Generator) -> Vec<f32> {
    let size = generator.uniform_in(0.75, 1.35);
    let mut samples = Vec::new();
    for _ in 0..2 + generator.below(2) {
        bark(&mut samples, size, generator);
        let pause = generator.uniform_in(0.12, 0.35) * SAMPLE_RATE as f32;
        samples.resize(samples.len() + pause as usize, 0.0);
    }
    audio::normalise(&mut samples, 0.8);
    samples
}

/// One bark of a dog whose size goes from 0.75 (large) to 1.35 (small).
fn bark(samples: &mut Vec<f32>, size: f32, generator: &mut Generator) {
    const HARMONICS: usize = 22;
    let rate = SAMPLE_RATE as f32;
    let seconds = generator.uniform_in(0.13, 0.22);
    let formants = [(620.0 * size, 160.0), (1250.0 * size, 260.0), (2500.0 * size, 500.0)];
    let response = |frequency: f32| -> f32 {
        formants
            .iter()
            .enumerate()
            .map(|(i, (centre, width))| {
                let away = (frequency - centre) / width;
                libm::powf(0.55, i as f32) / (1.0 + away * away)
            })
            .sum()
    };
    let top = 520.0 * size * generator.uniform_in(0.9, 1.1);
    let (mut phase, mut breath) = (0f32, 0f32);
    let count = (seconds * rate) as usize;
    for i in 0..count {
        let part = i as f32 / count as f32;
        let rise = (part / 0.18).min(1.0);
        let fall = ((part - 0.18) / 0.82).max(0.0);
        let pitch = top * (0.55 + 0.45 * rise) * (1.0 - 0.5 * fall);
        phase += pitch / rate * (1.0 + 0.03 * (generator.uniform() - 0.5));
        let voiced: f32 = (1..=HARMONICS)
            .filter(|n| pitch * (*n as f32) < 7000.0)
            .map(|n| {
                let tone = libm::sinf(std::f32::consts::TAU * (phase * n as f32).fract());
                tone * response(pitch * n as f32) / libm::powf(n as f32, 0.4)
            })
            .sum();
        breath += 0.45 * (generator.uniform_in(-1.0, 1.0) - breath);
        let loudness = (part / 0.08).min(1.0) * (1.0 - fall) * libm::expf(-1.2 * fall);
        samples.push(loudness * (voiced + 0.5 * breath));
    }
}
