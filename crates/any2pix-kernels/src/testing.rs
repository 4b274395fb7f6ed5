//! Numbers and comparisons for tests.

/// Seeded numbers in [-1, 1).
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..16).for_each(|_| {
        next();
    });
    (0..count).map(|_| next()).collect()
}

/// To bfloat16 and back.
pub(crate) fn rounded(value: f32) -> f32 {
    half::bf16::from_f32(value).to_f32()
}

/// Fails if an element is further from its f64 value than `tolerance`, relative above 1.
pub(crate) fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*a) - e).abs() / e.abs().max(1.0);
        assert!(error <= tolerance, "{what}: element {i} is {a}, expected {e} ({error:.2e})");
    }
}
