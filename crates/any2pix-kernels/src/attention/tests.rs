//! Attention against its definition, forward and backward, on every instruction set.

use super::*;
use crate::level::{Level, Precision};
use crate::testing::{assert_close, numbers, put, same_for_all, strange};
use proptest::prelude::*;

fn plain(shape: &AttentionShape, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let AttentionShape { batch, queries, keys, heads, kv_heads, size, .. } = *shape;
    let mut y = vec![0.0; q.len()];
    for b in 0..batch {
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let at_k = |j: usize| ((b * keys + j) * kv_heads + kv_head) * size;
            for i in 0..queries {
                let at_q = ((b * queries + i) * heads + head) * size;
                let sees = |j: &usize| !shape.causal || *j + queries <= i + keys;
                let weights: Vec<f64> = (0..keys)
                    .filter(sees)
                    .map(|j| {
                        let dot: f64 = (0..size).map(|d| q[at_q + d] * k[at_k(j) + d]).sum();
                        (dot * f64::from(shape.scale)).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for (j, weight) in weights.iter().enumerate() {
                    for d in 0..size {
                        y[at_q + d] += weight / total * v[at_k(j) + d];
                    }
                }
            }
        }
    }
    y
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn shapes() -> Vec<AttentionShape> {
    let shape = |batch, queries, keys, heads, kv_heads, size, causal| AttentionShape {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        size,
        scale: 1.0 / (size as f32).sqrt(),
        causal,
    };
    vec![
        shape(2, 5, 5, 2, 2, 8, false),
        shape(1, 150, 9, 3, 3, 5, false),
        shape(1, 140, 140, 2, 1, 16, true),
        shape(2, 3, 7, 4, 2, 33, true),
        shape(1, 1, 20, 6, 2, 4, true),
    ]
}

#[test]
fn equals_the_plain_loop_with_gradients() {
    for shape in shapes() {
        let AttentionShape { batch, queries, keys, heads, kv_heads, size, .. } = shape;
        let q = numbers(1, batch * queries * heads * size);
        let (k, v) = (
            numbers(2, batch * keys * kv_heads * size),
            numbers(3, batch * keys * kv_heads * size),
        );
        let gradient = numbers(4, q.len());
        let inputs = [wide(&q), wide(&k), wide(&v)];
        let expected = plain(&shape, &inputs[0], &inputs[1], &inputs[2]);
        let loss = |x: &[Vec<f64>; 3]| -> f64 {
            let y = plain(&shape, &x[0], &x[1], &x[2]);
            y.iter().zip(&gradient).map(|(y, g)| y * f64::from(*g)).sum()
        };
        for level in Level::available() {
            for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.03)] {
                let engine = Engine::new(level, precision);
                let mut y = vec![0.0; q.len()];
                attention(engine, &shape, (&q, &k, &v), &mut y);
                assert_close(&y, &expected, tolerance, &format!("{engine:?} {shape:?}"));
                let mut by = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
                let [by_q, by_k, by_v] = &mut by;
                let to = (&mut by_q[..], &mut by_k[..], &mut by_v[..]);
                attention_backward(engine, &shape, (&q, &k, &v, &gradient), to);
                for (input, by) in by.iter().enumerate() {
                    for i in (0..by.len()).step_by(by.len() / 5 + 1) {
                        let at = |delta: f64| {
                            let mut moved = inputs.clone();
                            moved[input][i] += delta;
                            loss(&moved)
                        };
                        let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
                        let error = (f64::from(by[i]) - slope).abs() / slope.abs().max(1.0);
                        let what = format!("{engine:?} {shape:?} input {input} element {i}");
                        assert!(error < tolerance * 2.0, "{what}: {} is {slope}", by[i]);
                    }
                }
            }
        }
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let shape = AttentionShape {
        batch: 2,
        queries: 200,
        keys: 200,
        heads: 4,
        kv_heads: 2,
        size: 24,
        scale: 0.2,
        causal: true,
    };
    let q = numbers(1, shape.batch * shape.queries * shape.q_width());
    let k = numbers(2, shape.batch * shape.keys * shape.kv_width());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let engine = Engine::current(Precision::Bf16);
            let mut y = vec![0.0; q.len()];
            attention(engine, &shape, (&q, &k, &k), &mut y);
            let mut by = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]);
            let to = (&mut by.0[..], &mut by.1[..], &mut by.2[..]);
            attention_backward(engine, &shape, (&q, &k, &k, &y), to);
            [y, by.0, by.1, by.2].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(7));
}

fn any_shape() -> impl Strategy<Value = AttentionShape> {
    let sizes = (0..3usize, 1..150usize, 1..150usize);
    (sizes, 1..4usize, 1..4usize, 1..40usize, any::<bool>()).prop_map(
        |((batch, queries, more), kv_heads, group, size, causal)| {
            // Under a causal mask every query sees a key.
            let keys = if causal { queries + more % 20 } else { more };
            let scale = 1.0 / (size as f32).sqrt();
            let heads = kv_heads * group;
            AttentionShape { batch, queries, keys, heads, kv_heads, size, scale, causal }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_equals_the_plain_loop(
        shape in any_shape(), value in strange(), place: usize,
    ) {
        let mut q = numbers(1, shape.batch * shape.queries * shape.q_width());
        put(&mut q, place, value.map(|_| f32::NAN));
        let k = numbers(2, shape.batch * shape.keys * shape.kv_width());
        let v = numbers(3, k.len());
        let expected = plain(&shape, &wide(&q), &wide(&k), &wide(&v));
        same_for_all(2e-5, &expected, &format!("{shape:?}"), |engine| {
            let mut y = vec![0.0; q.len()];
            attention(engine, &shape, (&q, &k, &v), &mut y);
            y
        });
    }
}
