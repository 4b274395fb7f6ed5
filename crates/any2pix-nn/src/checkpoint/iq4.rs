//! The two formats of GGUF with a table of sixteen values, which candle does not know.

use half::f16;

/// What the sixteen codes stand for, times the block's scale.
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Weights in a group that has one scale.
const GROUP: usize = 32;

/// Half of a group lies in the low four bits of its bytes, the other half in the high ones.
fn group(scale: f32, codes: &[u8], into: &mut Vec<f32>) {
    let value = |code: u8| scale * f32::from(VALUES[usize::from(code)]);
    into.extend(codes.iter().map(|byte| value(byte & 15)));
    into.extend(codes.iter().map(|byte| value(byte >> 4)));
}

fn scale(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// IQ4_NL: blocks of 32 weights, a scale and the codes.
pub(super) fn nl(data: &[u8]) -> Vec<f32> {
    let mut values = Vec::with_capacity(data.len() / 18 * GROUP);
    for block in data.chunks_exact(18) {
        group(scale(block), &block[2..], &mut values);
    }
    values
}

/// IQ4_XS: blocks of 256 weights: a scale, the high two and the low four bits of the scales of
/// eight groups, the codes.
pub(super) fn xs(data: &[u8]) -> Vec<f32> {
    let mut values = Vec::with_capacity(data.len() / 136 * 8 * GROUP);
    for block in data.chunks_exact(136) {
        let high = u16::from_le_bytes([block[2], block[3]]);
        for (i, codes) in block[8..].chunks_exact(GROUP / 2).enumerate() {
            let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
            let bits = u16::from(low) | (high >> (2 * i) & 3) << 4;
            group(scale(block) * (f32::from(bits) - 32.0), codes, &mut values);
        }
    }
    values
}
