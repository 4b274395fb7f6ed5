//! The operations against their definitions, and their gradients against differences.

#![allow(clippy::unwrap_used)]

use candle_core::{Device, Result, Tensor, Var};

use super::*;
use crate::Generator;

/// Compares the gradient of a fixed random projection of `op` with central differences, for
/// every variable.
fn check_gradient(shapes: &[&[usize]], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let mut generator = Generator::new(7);
    let device = Device::Cpu;
    let vars: Vec<Var> = shapes
        .iter()
        .map(|shape| Var::from_tensor(&generator.randn(*shape, &device).unwrap()).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let weight = generator.randn(op(&tensors).unwrap().shape().clone(), &device).unwrap();
    let loss = |tensors: &[Tensor]| (op(tensors).unwrap() * &weight).unwrap().sum_all().unwrap();
    let grads = backward(&loss(&tensors)).unwrap();
    let plain = loss(&tensors).backward().unwrap();
    for var in &vars {
        let difference = (grads.get(var).unwrap() - plain.get(var).unwrap()).unwrap();
        let worst = difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-6, "with and without the store: {worst}");
    }
    for (i, var) in vars.iter().enumerate() {
        let grad = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let at = |index: usize, delta: f32| {
            let mut values = values.clone();
            values[index] += delta;
            let mut moved = tensors.clone();
            moved[i] = Tensor::from_vec(values, var.shape(), &device).unwrap();
            f64::from(loss(&moved).to_scalar::<f32>().unwrap())
        };
        let step = (grad.len() / 12).max(1);
        for index in (0..grad.len()).step_by(step) {
            let numeric = (at(index, 1e-2) - at(index, -1e-2)) / 2e-2;
            let error = (f64::from(grad[index]) - numeric).abs() / numeric.abs().max(1.0);
            assert!(error < 2e-2, "input {i}, element {index}: {} is {numeric}", grad[index]);
        }
    }
}

#[test]
fn linear_has_its_gradient() {
    check_gradient(&[&[3, 5, 7], &[4, 7], &[4]], |t| linear(&t[0], &t[1], Some(&t[2])));
    check_gradient(&[&[6, 7], &[4, 7]], |t| linear(&t[0], &t[1], None));
}

#[test]
fn conv2d_has_its_gradient() {
    for (stride, padding) in [(1, 1), (2, 1), (1, 0)] {
        let shapes: [&[usize]; 3] = [&[2, 5, 6, 3], &[4, 3, 3, 3], &[4]];
        check_gradient(&shapes, |t| conv2d(&t[0], &t[1], Some(&t[2]), stride, padding));
    }
    check_gradient(&[&[2, 4, 4, 3], &[4, 3, 1, 1]], |t| conv2d(&t[0], &t[1], None, 1, 0));
}

#[test]
fn what_is_recomputed_has_the_same_gradients() {
    let part = |t: &[Tensor]| linear(&silu(&linear(&t[0], &t[1], None)?)?, &t[2], None);
    let shapes: [&[usize]; 3] = [&[3, 5], &[4, 5], &[2, 4]];
    check_gradient(&shapes, |t| recomputed(&[&t[0], &t[1], &t[2]], part));
    check_gradient(&[&[3, 5], &[4, 5]], |t| {
        recomputed(&[&t[0], &t[1]], |t| linear(&t[0], &t[1], None))
    });

    // Weights that are no arguments, and met twice.
    let mut generator = Generator::new(3);
    let variable =
        |generator: &mut Generator| Var::from_tensor(&generator.randn((5, 5), &Device::Cpu)?);
    let (x, weight) = (variable(&mut generator).unwrap(), variable(&mut generator).unwrap());
    let inside = weight.as_tensor().clone();
    let part = move |t: &[Tensor]| silu(&linear(&t[0], &inside, None)?);
    let again = part.clone();
    let twice = recomputed(&[&recomputed(&[x.as_tensor()], part.clone()).unwrap()], part).unwrap();
    let plain = again(&[again(&[x.as_tensor().clone()]).unwrap()]).unwrap();
    let gradients = backward(&twice.sqr().unwrap().sum_all().unwrap()).unwrap();
    let expected = backward(&plain.sqr().unwrap().sum_all().unwrap()).unwrap();
    for variable in [&x, &weight] {
        let values = |store: &candle_core::backprop::GradStore| {
            store.get(variable).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(values(&gradients), values(&expected));
    }
    assert!(twice.sum_all().unwrap().backward().is_err(), "a plain pass would lose the weight");
}

#[test]
fn frozen_weights_cost_no_gradient() {
    let mut generator = Generator::new(1);
    let device = Device::Cpu;
    let x = Var::from_tensor(&generator.randn((2, 3), &device).unwrap()).unwrap();
    let weight = generator.randn((4, 3), &device).unwrap();
    let y = linear(&x, &weight, None).unwrap().sum_all().unwrap();
    let grads = y.backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get(&weight).is_none());
}

#[test]
fn norms_have_their_gradients() {
    for with_silu in [false, true] {
        let shapes: [&[usize]; 3] = [&[2, 3, 4, 6], &[6], &[6]];
        check_gradient(&shapes, |t| group_norm(&t[0], &t[1], &t[2], 3, 1e-5, with_silu));
    }
    check_gradient(&[&[2, 5, 9], &[9], &[9]], |t| layer_norm(&t[0], &t[1], &t[2], 1e-5));
    check_gradient(&[&[2, 5, 9], &[9]], |t| rms_norm(&t[0], &t[1], 1e-6));
}

#[test]
fn activations_have_their_gradients() {
    for op in [silu, gelu, gelu_tanh, quick_gelu, softmax, softplus] {
        check_gradient(&[&[3, 10]], |t| op(&t[0]));
    }
    check_gradient(&[&[3, 10]], |t| geglu(&t[0]));
    check_gradient(&[&[3, 10], &[3, 10]], |t| swiglu(&t[0], &t[1]));
}

#[test]
fn attention_has_its_gradient() {
    for mask in [Mask::None, Mask::Causal] {
        let shapes: [&[usize]; 3] = [&[2, 5, 8], &[2, 6, 4], &[2, 6, 4]];
        check_gradient(&shapes, |t| attention(&t[0], &t[1], &t[2], 4, 2, 0.7, mask));
    }
}

#[test]
fn rotary_has_its_gradient() {
    let angles = Generator::new(5).randn((5, 2), &Device::Cpu).unwrap();
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    check_gradient(&[&[2, 5, 12]], |t| rotary(&t[0], &cos, &sin));
}

#[test]
fn changes_of_shape_have_their_gradients() {
    check_gradient(&[&[2, 3, 2, 5]], |t| upsample_nearest2x(&t[0]));
    check_gradient(&[&[2, 3, 5], &[2, 3, 5]], |t| add(&t[0], &t[1]));
    check_gradient(&[&[2, 3, 4, 5], &[2, 5]], |t| add_to_each_position(&t[0], &t[1]));
    check_gradient(&[&[2, 3, 5], &[2, 3, 2]], |t| concat_channels(&t[0], &t[1]));
    check_gradient(&[&[2, 3, 4, 5], &[2, 10]], |t| modulate(&t[0], &t[1], true));
}

/// f64 tensors take candle's path: the two paths must agree.
#[test]
fn kernels_agree_with_candle() {
    let mut generator = Generator::new(3);
    let device = Device::Cpu;
    let mut tensor = |shape: &[usize]| generator.randn(shape, &device).unwrap();
    let agree = |inputs: &[Tensor], op: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let wide: Vec<Tensor> =
            inputs.iter().map(|t| t.to_dtype(candle_core::DType::F64).unwrap()).collect();
        let ours = op(inputs).unwrap().to_dtype(candle_core::DType::F64).unwrap();
        let theirs = op(&wide).unwrap();
        assert_eq!(ours.dims(), theirs.dims());
        let worst = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap();
        let worst = worst.to_scalar::<f64>().unwrap();
        assert!(worst < 2e-5, "{worst}");
    };
    let x = tensor(&[2, 6, 5, 12]);
    let vector = tensor(&[12]);
    agree(&[x.clone(), tensor(&[7, 12, 3, 3]), tensor(&[7])], &|t| {
        conv2d(&t[0], &t[1], Some(&t[2]), 2, 1)
    });
    agree(&[x.clone(), tensor(&[7, 12]), tensor(&[7])], &|t| linear(&t[0], &t[1], Some(&t[2])));
    agree(&[x.clone(), vector.clone(), tensor(&[12])], &|t| {
        group_norm(&t[0], &t[1], &t[2], 4, 1e-5, true)
    });
    agree(&[x.clone(), tensor(&[2, 24])], &|t| modulate(&t[0], &t[1], true));
    agree(&[x.clone(), vector.clone(), tensor(&[12])], &|t| layer_norm(&t[0], &t[1], &t[2], 1e-5));
    agree(&[tensor(&[2, 7, 12]), tensor(&[2, 9, 6]), tensor(&[2, 9, 6])], &|t| {
        attention(&t[0], &t[1], &t[2], 4, 2, 0.5, Mask::Causal)
    });
    agree(&[tensor(&[2, 7, 12]), tensor(&[7, 3]), tensor(&[7, 3])], &|t| {
        rotary(&t[0], &t[1], &t[2])
    });
    for op in [silu, gelu, gelu_tanh, softmax, geglu, upsample_nearest2x] {
        agree(std::slice::from_ref(&x), &|t| op(&t[0]));
    }
}

#[test]
fn a_weight_that_is_used_twice_gets_both_gradients() {
    check_gradient(&[&[2, 4, 4], &[4, 4], &[4]], |t| {
        let y = linear(&t[0], &t[1], Some(&t[2]))?;
        // The second use also goes through an operation of candle's.
        linear(&y, &t[1], Some(&t[2]))?.broadcast_mul(&t[2])
    });
}

#[test]
fn packed_weights_say_what_tensors_say() {
    let mut generator = Generator::new(5);
    let mut random = |shape: &[usize]| generator.randn(shape, &Device::Cpu).unwrap();
    for (rows, inputs, outputs) in [(1, 7, 5), (3, 64, 130), (40, 33, 64), (200, 20, 3)] {
        let (x, weight, bias) =
            (random(&[2, rows, inputs]), random(&[outputs, inputs]), random(&[outputs]));
        let frozen = Frozen::of(&weight, Some(&bias)).unwrap().unwrap();
        assert_close(&frozen.linear(&x).unwrap(), &linear(&x, &weight, Some(&bias)).unwrap(), 1e-4);
    }
    for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (5, 2, 2)] {
        let (x, weight) = (random(&[2, 9, 8, 6]), random(&[70, 6, kernel, kernel]));
        let frozen = Frozen::of(&weight, None).unwrap().unwrap();
        let plain = conv2d(&x, &weight, None, stride, padding).unwrap();
        assert_close(&frozen.conv2d(&x, stride, padding).unwrap(), &plain, 1e-4);
    }
}

#[test]
fn gradients_pass_packed_weights() {
    let mut generator = Generator::new(6);
    let weight = generator.randn((5, 7), &Device::Cpu).unwrap();
    let frozen = Frozen::of(&weight, None).unwrap().unwrap();
    check_gradient(&[&[3, 7]], |t| frozen.linear(&t[0]));
    for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0)] {
        let weight = generator.randn((4, 3, kernel, kernel), &Device::Cpu).unwrap();
        let frozen = Frozen::of(&weight, None).unwrap().unwrap();
        check_gradient(&[&[2, 5, 6, 3]], |t| frozen.conv2d(&t[0], stride, padding));
    }
}

#[test]
fn trained_weights_are_not_packed() {
    let weight = Var::zeros((4, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(Frozen::of(&weight, None).unwrap().is_none());
}

#[test]
fn quantised_weights_are_close_for_one_row_and_for_many() {
    let mut generator = Generator::new(8);
    let weight = generator.randn((48, 256), &Device::Cpu).unwrap();
    for (format, tolerance) in [
        (Quantisation::Q4_0, 0.12),
        (Quantisation::Q4K, 0.12),
        (Quantisation::Q6K, 0.03),
        (Quantisation::Q8_0, 0.02),
    ] {
        let quantised = Quantised::of(&weight, format).unwrap();
        for rows in [1, 20] {
            let x = generator.randn((rows, 256), &Device::Cpu).unwrap();
            let exact = linear(&x, &weight, None).unwrap();
            let close = quantised.linear(&x).unwrap();
            let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let error = (norm(&(&close - &exact).unwrap()) / norm(&exact)).sqrt();
            assert!(error < tolerance, "{format:?}, {rows} rows: {error}");
        }
    }
}

fn assert_close(actual: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(actual.dims(), expected.dims());
    let difference = (actual - expected).unwrap().abs().unwrap();
    let worst = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst < tolerance, "{worst}");
}
