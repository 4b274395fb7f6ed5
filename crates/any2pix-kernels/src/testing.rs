//! Numbers and comparisons for tests.

use proptest::prelude::*;

use crate::level::{Engine, Level, Precision};

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

/// Nothing, or a number that is none.
pub(crate) fn strange() -> impl Strategy<Value = Option<f32>> {
    let numbers = [Some(f32::NAN), Some(f32::INFINITY), Some(f32::NEG_INFINITY)];
    prop_oneof![2 => Just(None), 1 => prop::sample::select(numbers.to_vec())]
}

/// Puts the value, if there is one, somewhere among the others.
pub(crate) fn put(x: &mut [f32], place: usize, value: Option<f32>) {
    if let (Some(value), false) = (value, x.is_empty()) {
        x[place % x.len()] = value;
    }
}

/// Runs `work` on every instruction set and with 1, 2 and 7 threads: the bytes are the same for
/// all numbers of threads, and the values within `tolerance` of the expected ones.
pub(crate) fn same_for_all(
    tolerance: f64,
    expected: &[f64],
    what: &str,
    work: impl Fn(Engine) -> Vec<f32> + Sync,
) {
    for level in Level::available() {
        let engine = Engine::new(level, Precision::F32);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| work(engine))
        };
        let first = run(1);
        assert_close(&first, expected, tolerance, &format!("{level:?} {what}"));
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for threads in [2, 7] {
            assert_eq!(bits(&run(threads)), bits(&first), "{level:?} {what}: {threads} threads");
        }
    }
}

/// Fails if an element is further from its f64 value than `tolerance`, relative above 1. What is no
/// number, or infinite, is to be the same.
pub(crate) fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let a = f64::from(*a);
        let error = (a - e).abs() / e.abs().max(1.0);
        let same = a == *e || (a.is_nan() && e.is_nan()) || error <= tolerance;
        assert!(same, "{what}: element {i} is {a}, expected {e} ({error:.2e})");
    }
}
