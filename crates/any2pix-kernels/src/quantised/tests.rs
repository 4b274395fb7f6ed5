//! Products with quantised weights against plain loops over the formats as their authors spell them.

use half::f16;

use super::*;
use crate::gemm::{Dense, Matrix, Operand, Output, Size, gemm};
use crate::level::{Engine, Level, Precision};
use crate::testing::{assert_close, numbers};

/// So many random blocks; `tame` makes their factors small numbers.
fn random<const BYTES: usize>(count: usize, tame: impl Fn(usize, &mut [u8])) -> Vec<u8> {
    let byte = |x: &f32| (x * 1000.0).abs() as u32 as u8;
    let mut bytes: Vec<u8> = numbers(1, count * BYTES).iter().map(byte).collect();
    bytes.chunks_exact_mut(BYTES).enumerate().for_each(|(i, block)| tame(i, block));
    bytes
}

/// Factors from subnormal to 2⁻⁵, both signs.
fn q4_0(rows: usize, k: usize) -> Vec<u8> {
    random::<18>(rows * k / 32, |i, block| {
        block[1] = (i % 41) as u8 | if i % 3 == 0 { 0x80 } else { 0 };
    })
}

/// Factors from subnormal to 2⁻¹⁰.
fn q4_k(rows: usize, k: usize) -> Vec<u8> {
    random::<144>(rows * k / 256, |i, block| {
        (block[1], block[3]) = ((i % 21) as u8, (i % 19) as u8);
    })
}

fn half(bytes: &[u8]) -> f64 {
    f64::from(f16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
}

fn plain_q4_0(data: &[u8]) -> Vec<f64> {
    let block = |block: &[u8]| -> Vec<f64> {
        let q = |i: usize| if i < 16 { block[2 + i] & 15 } else { block[i - 14] >> 4 };
        (0..32).map(|i| half(block) * (f64::from(q(i)) - 8.0)).collect()
    };
    data.chunks_exact(18).flat_map(block).collect()
}

fn plain_q4_k(data: &[u8]) -> Vec<f64> {
    let mut weights = Vec::new();
    for block in data.chunks_exact(144) {
        let (d, e, bytes) = (half(block), half(&block[2..]), &block[4..16]);
        for part in 0..8 {
            let (scale, least) = match part {
                0..4 => (bytes[part] & 63, bytes[part + 4] & 63),
                _ => (
                    bytes[part + 4] & 15 | bytes[part - 4] >> 6 << 4,
                    bytes[part + 4] >> 4 | bytes[part] >> 6 << 4,
                ),
            };
            weights.extend((0..32).map(|i| {
                let pair = block[16 + part / 2 * 32 + i];
                let q = if part % 2 == 0 { pair & 15 } else { pair >> 4 };
                d * f64::from(scale) * f64::from(q) - e * f64::from(least)
            }));
        }
    }
    weights
}

/// Holds both products against the plain loop at every level.
fn check<M: Matrix>(
    (weights, plain): (&M, &[f64]),
    (rows, k): (usize, usize),
    gemv: impl Fn(Engine, &M, &[f32], &mut [f32]),
) {
    const MANY: usize = 5;
    let x = numbers(2, MANY * k);
    let expected = |row: &[f32]| -> Vec<f64> {
        let dot = |w: &[f64]| w.iter().zip(row).map(|(w, x)| w * f64::from(*x)).sum();
        plain.chunks_exact(k).map(dot).collect()
    };
    let mut portable = Vec::new();
    for level in Level::available() {
        let (engine, what) = (Engine::new(level, Precision::F32), format!("{level:?} {rows}x{k}"));
        let mut y = vec![0.0; rows];
        gemv(engine, weights, &x[..k], &mut y);
        // Activations of eight bits are off by up to 1/254 of the largest of a block.
        assert_close(&y, &expected(&x[..k]), 0.02, &what);
        if portable.is_empty() {
            portable = y.iter().map(|y| f64::from(*y)).collect();
        }
        assert_close(&y, &portable, 1e-5, &what);
        let mut y = vec![0.0; MANY * rows];
        let size = Size { m: MANY, n: rows, k };
        let output = Output { data: &mut y, stride: rows, bias: None, accumulate: false };
        let dense = Dense::new(&x, k);
        let (a, b) = (Operand::rows_along_k(&dense), Operand::rows_along_k(weights));
        gemm(engine, size, a, b, output);
        let all: Vec<f64> = x.chunks_exact(k).flat_map(expected).collect();
        assert_close(&y, &all, 1e-5, &what);
    }
}

#[test]
fn one_row_and_many_equal_the_plain_loop() {
    for (rows, k) in [(1, 32), (37, 96), (70, 256), (5, 11 * 32), (3, 16 * 32)] {
        let data = q4_0(rows, k);
        let together = grouped(&data, k);
        check((&Q4_0::new(&together, k), &plain_q4_0(&data)), (rows, k), gemv_q4_0);
    }
    for (rows, k) in [(1, 256), (37, 768), (3, 4096)] {
        let data = q4_k(rows, k);
        check((&Q4K::new(&data, k), &plain_q4_k(&data)), (rows, k), gemv_q4_k);
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let engine = Engine::current(Precision::F32);
    for odd in [f32::NAN, f32::INFINITY] {
        let (mut x, mut y) = (numbers(2, 512), vec![0.0; 3]);
        x[400] = odd;
        gemv_q4_0(engine, &Q4_0::new(&grouped(&q4_0(3, 512), 512), 512), &x, &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
        gemv_q4_k(engine, &Q4K::new(&q4_k(3, 512), 512), &x, &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
    }
}
