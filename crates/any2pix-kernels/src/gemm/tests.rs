//! Matrix products against their definition, on every instruction set.

use super::*;
use crate::level::{Level, Precision};
use crate::testing::{assert_close, numbers, put, rounded, same_for_all, strange};
use proptest::prelude::*;

fn reference(
    size: Size,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..size.m {
        for j in 0..size.n {
            out.push((0..size.k).map(|k| f64::from(a(i, k)) * f64::from(b(k, j))).sum());
        }
    }
    out
}

fn check(engine: Engine, size: Size, seed: u64) {
    let Size { m, n, k } = size;
    let (mut a, mut b) = (numbers(seed, m * k), numbers(seed + 1, n * k));
    let bias = numbers(seed + 2, n);
    if engine.precision() == Precision::Bf16 {
        // Products of rounded values are exact in f32, so that only sums differ.
        a.iter_mut().chain(&mut b).for_each(|v| *v = rounded(*v));
    }
    for (a_along, b_along) in [(true, true), (true, false), (false, false), (false, true)] {
        let at = |i: usize, l: usize| if a_along { a[i * k + l] } else { a[l * m + i] };
        let bt = |l: usize, j: usize| if b_along { b[j * k + l] } else { b[l * n + j] };
        let mut expected = reference(size, at, bt);
        for (i, value) in expected.iter_mut().enumerate() {
            *value += f64::from(bias[i % n]) + 0.5;
        }
        let a = Dense::new(&a, if a_along { k } else { m });
        let b = Dense::new(&b, if b_along { k } else { n });
        let a = if a_along { Operand::rows_along_k(&a) } else { Operand::rows_across_k(&a) };
        let b = if b_along { Operand::rows_along_k(&b) } else { Operand::rows_across_k(&b) };
        let stride = n + 3;
        let mut out = vec![0.5; m * stride];
        let output = Output { data: &mut out, stride, bias: Some(&bias), accumulate: true };
        gemm(engine, size, a, b, output);
        let packed: Vec<f32> = out.chunks(stride).flat_map(|row| row[..n].to_vec()).collect();
        let what = format!("{engine:?} {size:?} {a_along} {b_along}");
        assert_close(&packed, &expected, 2e-6 * (k as f64).sqrt() + 1e-6, &what);
        assert!(out.chunks(stride).all(|row| row[n..].iter().all(|v| *v == 0.5)), "{what}: edge");
    }
}

#[test]
fn equals_the_plain_loop_at_every_level() {
    let sizes = [
        (3, 50, 40),
        (1, 1, 1),
        (5, 3, 7),
        (37, 41, 33),
        (70, 35, 600),
        (12, 130, 31),
        (33, 65, 1),
        (129, 64, 96),
    ];
    for level in Level::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            for (seed, (m, n, k)) in sizes.into_iter().enumerate() {
                check(Engine::new(level, precision), Size { m, n, k }, seed as u64);
            }
        }
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let size = Size { m: 190, n: 150, k: 700 };
    let (a, b) = (numbers(1, size.m * size.k), numbers(2, size.n * size.k));
    for precision in [Precision::F32, Precision::Bf16] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; size.m * size.n];
            pool.install(|| {
                let (a, b) = (Dense::new(&a, size.k), Dense::new(&b, size.n));
                let output =
                    Output { data: &mut out, stride: size.n, bias: None, accumulate: false };
                gemm(
                    Engine::current(precision),
                    size,
                    Operand::rows_along_k(&a),
                    Operand::rows_across_k(&b),
                    output,
                );
            });
            out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let one = run(1);
        assert!(one == run(2) && one == run(7));
    }
}

#[test]
fn not_a_number_stays_in_its_row() {
    let size = Size { m: 20, n: 20, k: 40 };
    let (mut a, b) = (numbers(1, size.m * size.k), numbers(2, size.n * size.k));
    a[3 * size.k + 5] = f32::NAN;
    for level in Level::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut out = vec![0.0; size.m * size.n];
            let (a, b) = (Dense::new(&a, size.k), Dense::new(&b, size.n));
            let output = Output { data: &mut out, stride: size.n, bias: None, accumulate: false };
            let engine = Engine::new(level, precision);
            gemm(engine, size, Operand::rows_along_k(&a), Operand::rows_across_k(&b), output);
            for (i, row) in out.chunks(size.n).enumerate() {
                assert!(row.iter().all(|v| v.is_nan() == (i == 3)), "{engine:?} row {i}");
            }
        }
    }
}

#[test]
fn packed_weights_give_the_same_bytes_and_come_back() {
    for level in Level::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let engine = Engine::new(level, precision);
            for (m, n, k) in [(1, 5, 3), (4, 64, 128), (7, 65, 130), (50, 200, 600), (450, 33, 40)]
            {
                let (mut a, mut b) = (numbers(1, m * k), numbers(2, n * k));
                if precision == Precision::Bf16 {
                    a.iter_mut().chain(&mut b).for_each(|v| *v = rounded(*v));
                }
                let (rows, columns) = (Dense::new(&a, k), Dense::new(&b, k));
                let packed = Packed::new(engine, n, k, Operand::rows_along_k(&columns));
                assert!(packed.unpack() == b, "{engine:?} {m}x{n}x{k}: weights changed");
                let run = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    let mut out = vec![f32::NAN; m * n];
                    let output =
                        Output { data: &mut out, stride: n, bias: None, accumulate: false };
                    let rows = Operand::rows_along_k(&rows);
                    pool.unwrap().install(|| gemm_packed(m, rows, &packed, output));
                    out
                };
                let one = run(1);
                let expected =
                    reference(Size { m, n, k }, |i, l| a[i * k + l], |l, j| b[j * k + l]);
                let tolerance = 2e-6 * (k as f64).sqrt() + 1e-6;
                assert_close(&one, &expected, tolerance, &format!("{engine:?} {m}x{n}x{k}"));
                assert!(one == run(2) && one == run(7), "{engine:?} {m}x{n}x{k}: threads");
            }
        }
    }
}

fn plain_output(data: &mut [f32], stride: usize) -> Output<'_> {
    Output { data, stride, bias: None, accumulate: false }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_size_equals_the_plain_loop(m in 0..90usize, n in 0..140usize, k in 0..300usize) {
        for level in Level::available() {
            check(Engine::new(level, Precision::F32), Size { m, n, k }, 3);
        }
    }

    #[test]
    fn strange_numbers_reach_what_they_touch(
        m in 1..90usize, n in 1..140usize, k in 1..300usize, value in strange(), place: usize,
    ) {
        let (mut a, b) = (numbers(1, m * k), numbers(2, n * k));
        put(&mut a, place, value);
        let size = Size { m, n, k };
        let expected = reference(size, |i, l| a[i * k + l], |l, j| b[j * k + l]);
        let (a, b) = (Dense::new(&a, k), Dense::new(&b, k));
        let (a, b) = (Operand::rows_along_k(&a), Operand::rows_along_k(&b));
        same_for_all(1e-4, &expected, &format!("{size:?}"), |engine| {
            let mut y = vec![0.0; m * n];
            gemm(engine, size, a, b, plain_output(&mut y, n));
            y
        });
        same_for_all(1e-4, &expected, &format!("{size:?} packed"), |engine| {
            let mut y = vec![0.0; m * n];
            gemm_packed(m, a, &Packed::new(engine, n, k, b), plain_output(&mut y, n));
            y
        });
    }
}
