//! Convolution against its definition, forward and backward, on every instruction set.

use super::*;
use crate::level::{Level, Precision};
use crate::testing::{assert_close, numbers, put, same_for_all, strange};
use proptest::prelude::*;

/// Calls `visit(index of y, index of x, index of weight)` for every product.
fn products(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let (oh, ow) = shape.output_size();
    let (kh, kw) = shape.kernel;
    let inside = |o: usize, k: usize, length: usize| {
        (o * shape.stride + k).checked_sub(shape.padding).filter(|i| *i < length)
    };
    for p in 0..shape.output_pixels() {
        let (b, oy, ox) = (p / (oh * ow), p / ow % oh, p % ow);
        for tap in 0..kh * kw {
            let Some(iy) = inside(oy, tap / kw, shape.height) else { continue };
            let Some(ix) = inside(ox, tap % kw, shape.width) else { continue };
            for o in 0..shape.outputs {
                for i in 0..shape.inputs {
                    let x = ((b * shape.height + iy) * shape.width + ix) * shape.inputs + i;
                    let w = (o * shape.inputs + i) * kh * kw + tap;
                    visit(p * shape.outputs + o, x, w);
                }
            }
        }
    }
}

fn check(engine: Engine, shape: &ConvShape) {
    let x = numbers(1, shape.batch * shape.height * shape.width * shape.inputs);
    let weight = numbers(2, shape.outputs * shape.inputs * shape.taps());
    let bias = numbers(3, shape.outputs);
    let outputs = shape.output_pixels() * shape.outputs;
    let gradient = numbers(4, outputs);
    let mut y: Vec<f64> = bias.iter().cycle().take(outputs).map(|b| f64::from(*b)).collect();
    let (mut dx, mut dw) = (vec![0f64; x.len()], vec![0f64; weight.len()]);
    products(shape, |o, i, w| {
        y[o] += f64::from(x[i]) * f64::from(weight[w]);
        dx[i] += f64::from(gradient[o]) * f64::from(weight[w]);
        dw[w] += f64::from(gradient[o]) * f64::from(x[i]);
    });
    let tolerance = match engine.precision() {
        // Sums of transformed numbers stray further than direct ones.
        Precision::F32 if shape.inputs.min(shape.outputs) >= 32 => 1e-4,
        Precision::F32 => 2e-5,
        Precision::Bf16 if shape.inputs.min(shape.outputs) >= 32 => 0.12,
        Precision::Bf16 => 0.06,
    };
    let mut actual = vec![0.0; outputs];
    conv2d(engine, shape, (&x, &weight, Some(&bias)), &mut actual);
    assert_close(&actual, &y, tolerance, &format!("{engine:?} {shape:?} forward"));
    let mut actual = vec![0.0; x.len()];
    conv2d_by_data(engine, shape, (&gradient, &weight), &mut actual);
    assert_close(&actual, &dx, tolerance, &format!("{engine:?} {shape:?} by data"));
    let mut actual = vec![0.0; weight.len()];
    conv2d_by_weight(engine, shape, (&gradient, &x), &mut actual);
    assert_close(&actual, &dw, tolerance, &format!("{engine:?} {shape:?} by weight"));
}

#[test]
fn equals_the_plain_loop() {
    let shape = |batch, height, width, inputs, outputs, kernel, stride, padding| ConvShape {
        batch,
        height,
        width,
        inputs,
        outputs,
        kernel,
        stride,
        padding,
    };
    let shapes = [
        shape(2, 7, 5, 3, 4, (3, 3), 1, 1),
        shape(1, 8, 8, 16, 33, (3, 3), 2, 1),
        shape(3, 4, 6, 5, 7, (1, 1), 1, 0),
        shape(2, 5, 5, 4, 2, (1, 1), 2, 0),
        shape(1, 9, 12, 3, 8, (4, 4), 4, 0),
        shape(2, 6, 9, 2, 3, (2, 3), 1, 2),
        shape(1, 3, 3, 40, 20, (3, 3), 1, 0),
        shape(1, 2, 2, 1, 1, (5, 5), 1, 0),
        shape(0, 4, 4, 2, 2, (3, 3), 1, 1),
        // What goes by tiles of 4×4 pixels: several pictures, edges, pieces of channels and tiles.
        shape(2, 9, 14, 48, 80, (3, 3), 1, 1),
        shape(1, 11, 12, 32, 33, (3, 3), 1, 0),
        shape(9, 3, 4, 144, 112, (3, 3), 1, 1),
        shape(1, 46, 40, 32, 32, (3, 3), 1, 2),
    ];
    for level in Level::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            for shape in &shapes {
                check(Engine::new(level, precision), shape);
            }
        }
    }
}

fn any_shape() -> impl Strategy<Value = ConvShape> {
    let sizes = (0..3usize, 1..10usize, 1..10usize);
    // Fewer channels than convolution by tiles takes, see the tests at the end.
    let layer = (1..32usize, 1..70usize, (1..5usize, 1..5usize), 1..4usize, 0..3usize);
    (sizes, layer).prop_map(|((batch, height, width), layer)| {
        let (inputs, outputs, kernel, stride, padding) = layer;
        ConvShape { batch, height, width, inputs, outputs, kernel, stride, padding }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_shape_equals_the_plain_loop(shape in any_shape()) {
        for level in Level::available() {
            check(Engine::new(level, Precision::F32), &shape);
        }
    }

    #[test]
    fn strange_pixels_reach_what_they_touch(
        shape in any_shape(), value in strange(), place: usize,
    ) {
        let mut x = numbers(1, shape.batch * shape.height * shape.width * shape.inputs);
        put(&mut x, place, value);
        let weight = numbers(2, shape.outputs * shape.inputs * shape.taps());
        let outputs = shape.output_pixels() * shape.outputs;
        let mut y = vec![0f64; outputs];
        products(&shape, |o, i, w| y[o] += f64::from(x[i]) * f64::from(weight[w]));
        same_for_all(2e-5, &y, &format!("{shape:?}"), |engine| {
            let mut y = vec![0.0; outputs];
            conv2d(engine, &shape, (&x, &weight, None), &mut y);
            y
        });
        let packed = |engine| {
            let mut y = vec![0.0; outputs];
            conv2d_packed(&shape, (&x, &pack_conv2d(engine, &shape, &weight), None), &mut y);
            y
        };
        same_for_all(2e-5, &y, &format!("{shape:?} packed"), packed);
    }
}

/// A shape that is computed by tiles.
const BY_TILES: ConvShape = ConvShape {
    batch: 2,
    height: 22,
    width: 27,
    inputs: 48,
    outputs: 80,
    kernel: (3, 3),
    stride: 1,
    padding: 1,
};

#[test]
fn tiles_give_the_same_bytes_on_any_number_of_threads() {
    let shape = &BY_TILES;
    let x = numbers(1, shape.batch * shape.height * shape.width * shape.inputs);
    let weight = numbers(2, shape.outputs * shape.inputs * shape.taps());
    let gradient = numbers(4, shape.output_pixels() * shape.outputs);
    let (mut y, mut dx) = (vec![0f64; gradient.len()], vec![0f64; x.len()]);
    let mut dw = vec![0f64; weight.len()];
    products(shape, |o, i, w| {
        y[o] += f64::from(x[i]) * f64::from(weight[w]);
        dx[i] += f64::from(gradient[o]) * f64::from(weight[w]);
        dw[w] += f64::from(gradient[o]) * f64::from(x[i]);
    });
    let of = |len: usize, work: &dyn Fn(&mut [f32])| {
        let mut to = vec![f32::NAN; len];
        work(&mut to);
        to
    };
    same_for_all(1e-4, &y, "forward", |engine| {
        of(y.len(), &|to| conv2d(engine, shape, (&x, &weight, None), to))
    });
    same_for_all(1e-4, &y, "packed", |engine| {
        let packed = pack_conv2d(engine, shape, &weight);
        of(y.len(), &|to| conv2d_packed(shape, (&x, &packed, None), to))
    });
    same_for_all(1e-4, &dx, "by data", |engine| {
        of(dx.len(), &|to| conv2d_by_data(engine, shape, (&gradient, &weight), to))
    });
    same_for_all(1e-4, &dx, "packed, by data", |engine| {
        let packed = pack_conv2d(engine, shape, &weight);
        of(dx.len(), &|to| conv2d_packed_by_data(engine, shape, (&gradient, &packed), to))
    });
    same_for_all(1e-4, &dw, "by weight", |engine| {
        of(dw.len(), &|to| conv2d_by_weight(engine, shape, (&gradient, &x), to))
    });
}

#[test]
fn what_is_no_number_reaches_all_it_touches_and_stays_in_its_tiles() {
    let shape = &BY_TILES;
    let mut x = numbers(1, shape.batch * shape.height * shape.width * shape.inputs);
    let weight = numbers(2, shape.outputs * shape.inputs * shape.taps());
    let (row, column) = (9, 14);
    x[(row * shape.width + column) * shape.inputs + 5] = f32::NAN;
    let mut y = vec![0.0; shape.output_pixels() * shape.outputs];
    for level in Level::available() {
        conv2d(Engine::new(level, Precision::F32), shape, (&x, &weight, None), &mut y);
        for (pixel, outputs) in y.chunks_exact(shape.outputs).enumerate() {
            let (line, x) = (pixel / shape.width, pixel % shape.width);
            let far = line.abs_diff(row).max(x.abs_diff(column));
            let strange = outputs.iter().filter(|value| value.is_nan()).count();
            assert!(far > 1 || strange == shape.outputs, "{level:?}: {line}, {x}");
            assert!(far <= 4 || strange == 0, "{level:?}: {line}, {x}");
        }
    }
}
