//! What follows from a row's id: the name of its picture and its seed.

use sha2::{Digest, Sha256};

use crate::outcome::sha256;

/// Longest readable part of a file's name, in characters.
const MAX_STEM: usize = 64;

/// The name, without extension, of the picture of the row called `id`. An id of at most 64 letters,
/// digits, `-` and `_` is its own name; of any other the rest becomes `_`, and the hash follows.
pub(super) fn output_stem(id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if id.len() <= MAX_STEM && id.chars().all(is_plain) {
        return id.to_string();
    }
    let readable = id.chars().take(MAX_STEM).map(|c| if is_plain(c) { c } else { '_' });
    format!("{}-{}", readable.collect::<String>(), &sha256(id.as_bytes())[..16])
}

/// The seed of the row called `id` in a batch with `seed`: the first 8 bytes, little-endian, of
/// SHA-256 over `any2pix row seed`, a zero byte, `seed` in 8 bytes, little-endian, and the id in
/// UTF-8; of them the lower 53 bits, which every reader of JSON keeps.
pub(super) fn row_seed(seed: u64, id: &str) -> u64 {
    let mut hasher = Sha256::new_with_prefix(b"any2pix row seed\0");
    hasher.update(seed.to_le_bytes());
    hasher.update(id.as_bytes());
    let digest = hasher.finalize();
    let first = digest.iter().take(8).rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    first & ((1 << 53) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_always_one_plain_file() {
        assert_eq!(output_stem("dog-1_B"), "dog-1_B");
        let strange = ["../x", "a/b", "a\\b", "a.png", ".", "..", "ü", "a b", "con:", "\u{202e}x"];
        for id in strange.iter().copied().chain([&*"x".repeat(200)]) {
            let stem = output_stem(id);
            assert!(stem.len() <= MAX_STEM + 17, "{stem}");
            assert!(stem.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{stem}");
            assert_ne!(stem, id);
        }
        assert_ne!(output_stem("a/b"), output_stem("a\\b"));
    }

    /// Computed with Python's hashlib, as the documentation says.
    #[test]
    fn seeds_are_what_is_documented() {
        assert_eq!(row_seed(0, "a"), 8_947_331_379_973_139);
        assert_ne!(row_seed(0, "a"), row_seed(1, "a"));
        assert_ne!(row_seed(0, "a"), row_seed(0, "b"));
    }
}
