//! The cases by name, and those of single operations.

use std::ops::ControlFlow;

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::ops::{self, Mask, Precision, PrecisionScope};
use any2pix_nn::{Conv2d, Generator, GroupNorm, Linear};
use candle_core::{Device, Result, Tensor};

use crate::timing::{Bench, Outcome, Report, Work};
use crate::{llama, models, training, weights};

/// A benchmark that can be asked for by name.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    pub(crate) run: fn(&Bench<'_>, Report<'_>) -> Outcome,
}

/// All of them, small ones first.
pub const CASES: &[Case] = &[
    Case { name: "linear", about: "linear layers of UNets", run: linear },
    Case { name: "conv3x3", about: "3×3 convolutions of UNets and of the VAE", run: conv3x3 },
    Case { name: "conv1x1", about: "1×1 convolutions", run: conv1x1 },
    Case { name: "attention", about: "self- and cross-attention", run: attention },
    Case { name: "group_norm", about: "group norm, with and without SiLU", run: group_norm },
    Case { name: "elementwise", about: "SiLU, GEGLU, softmax, residual sums", run: elementwise },
    Case { name: "unet-sd15", about: "one forward pass, 64×64 latents", run: models::unet_sd15 },
    Case { name: "unet-sdxl", about: "one forward pass, 64×64 latents", run: models::unet_sdxl },
    Case {
        name: "vae-decode", about: "latents to 512×512, to 1024×1024", run: models::vae_decode
    },
    Case { name: "llama-decode", about: "one token of a 7 B, quantised", run: llama::decode },
    Case { name: "llama-prefill", about: "256 tokens of a 7 B, quantised", run: llama::prefill },
    Case { name: "imagebind-image", about: "one picture, full size", run: models::imagebind_image },
    Case { name: "imagebind-audio", about: "one sound, full size", run: models::imagebind_audio },
    Case { name: "train-unet-8m", about: "a training step, batch 16", run: training::unet_8m },
    Case { name: "edit-playroom", about: "one edit by the embedded model", run: models::edit },
];

/// One run of an operation.
type Run<'a> = &'a dyn Fn() -> Result<Tensor>;

/// A tensor of numbers around zero.
pub(crate) fn numbers(shape: &[usize]) -> Result<Tensor> {
    Generator::new(7).fork("inputs").randn(shape, &Device::Cpu)
}

/// Reports a row of an operation on tensors, with stock candle beside it if that is wanted.
fn operation(
    bench: &Bench<'_>,
    report: &mut Report<'_>,
    shape: &str,
    work: Work,
    (run, peer): (Run<'_>, Option<Run<'_>>),
) -> Outcome {
    let products = matches!(work, Work::Operations(_));
    for &precision in bench.precisions() {
        if precision == Precision::Bf16 && !products {
            continue; // sums and tensors are f32
        }
        let _scope = PrecisionScope::new(precision);
        let seconds = bench.median(|| run().map(drop))?;
        let mut row = bench.row(shape.to_string(), precision, seconds, work);
        if let Some(peer) = peer.filter(|_| bench.peer()) {
            row.peer_s = Some(bench.median(|| peer().map(drop))?);
        }
        if report(&row).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Reports the rows of several shapes.
fn each<T>(shapes: &[T], mut row: impl FnMut(&T) -> Outcome) -> Outcome {
    for shape in shapes {
        if row(shape)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn linear(bench: &Bench<'_>, mut report: Report<'_>) -> Outcome {
    let shapes = [(4096, 1280, 5120), (4096, 320, 320), (1024, 1024, 1024), (256, 1280, 1280)];
    each(&shapes, |&(rows, from, to)| {
        let x = numbers(&[rows, from])?;
        let stock = weights::random().get((to, from), "weight")?;
        let work = Work::Operations(2.0 * (rows * from * to) as f64);
        let shape = format!("{rows}x{from}->{to}");
        let layers = packed(bench, || Linear::load(weights::random(), from, to))?;
        let run = || layer(&layers).forward(&x);
        let peer = || x.matmul(&stock.t()?);
        operation(bench, &mut report, &shape, work, (&run, Some(&peer)))
    })
}

/// One layer for each precision: weights are packed for the precision in which they are loaded.
fn packed<L>(bench: &Bench<'_>, load: impl Fn() -> Result<L>) -> Result<Vec<(Precision, L)>> {
    let one = |&precision: &Precision| {
        let _scope = PrecisionScope::new(precision);
        Ok((precision, load()?))
    };
    bench.precisions().iter().map(one).collect()
}

/// The layer of the precision in use.
fn layer<L>(layers: &[(Precision, L)]) -> &L {
    let of = |(precision, _): &&(Precision, L)| *precision == ops::precision();
    &layers.iter().find(of).unwrap_or(&layers[0]).1
}

/// Convolutions of `(batch, side, inputs, outputs)` that keep the size.
fn convolutions(
    bench: &Bench<'_>,
    mut report: Report<'_>,
    config: Conv2dConfig,
    shapes: &[(usize, usize, usize, usize)],
) -> Outcome {
    let Conv2dConfig { kernel, padding, .. } = config;
    each(shapes, |&(batch, side, inputs, outputs)| {
        let x = numbers(&[batch, side, side, inputs])?;
        let across = x.permute((0, 3, 1, 2))?.contiguous()?;
        let stock = weights::random().get((outputs, inputs, kernel, kernel), "weight")?;
        let taps = kernel * kernel * batch * side * side;
        let work = Work::Operations(2.0 * (taps * inputs * outputs) as f64);
        let shape = format!("{batch}x{side}x{side}x{inputs}->{outputs}");
        let layers = packed(bench, || Conv2d::load(weights::random(), inputs, outputs, config))?;
        let run = || layer(&layers).forward(&x);
        let peer = || across.conv2d(&stock, padding, 1, 1, 1);
        operation(bench, &mut report, &shape, work, (&run, Some(&peer)))
    })
}

fn conv3x3(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    let shapes = [
        (1, 64, 320, 320),
        (1, 32, 640, 640),
        (1, 16, 1280, 1280),
        (2, 64, 320, 320),
        (1, 256, 128, 128),
        (16, 16, 64, 64),
    ];
    convolutions(bench, report, Conv2dConfig::K3, &shapes)
}

fn conv1x1(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    let shapes = [(1, 64, 320, 320), (1, 32, 640, 640), (1, 16, 1280, 1280)];
    convolutions(bench, report, Conv2dConfig::K1, &shapes)
}

fn attention(bench: &Bench<'_>, mut report: Report<'_>) -> Outcome {
    let shapes =
        [(10, 64, 4096, 4096), (10, 64, 1024, 1024), (8, 40, 4096, 4096), (10, 64, 4096, 77)];
    each(&shapes, |&(heads, size, queries, keys)| {
        let (q, k) = (numbers(&[1, queries, heads * size])?, numbers(&[1, keys, heads * size])?);
        let scale = 1.0 / (size as f64).sqrt();
        let work = Work::Operations(4.0 * (heads * size * queries * keys) as f64);
        let run = || ops::attention(&q, &k, &k, heads, heads, scale, Mask::None);
        let split = |x: &Tensor| -> Result<Tensor> {
            x.reshape((1, (), heads, size))?.transpose(1, 2)?.contiguous()
        };
        let (head_q, head_k) = (split(&q)?, split(&k)?);
        let peer = || {
            let scores = (head_q.matmul(&head_k.t()?)? * scale)?;
            candle_nn::ops::softmax_last_dim(&scores)?.matmul(&head_k)
        };
        let shape = format!("{heads}x{size}, {queries}x{keys}");
        operation(bench, &mut report, &shape, work, (&run, Some(&peer)))
    })
}

fn group_norm(bench: &Bench<'_>, mut report: Report<'_>) -> Outcome {
    let shapes = [(64, 320, false), (64, 320, true), (256, 128, true)];
    each(&shapes, |&(side, channels, silu)| {
        let x = numbers(&[1, side, side, channels])?;
        let norm = GroupNorm::load(weights::random(), 32, channels, 1e-5)?;
        let run = || if silu { norm.forward_silu(&x) } else { norm.forward(&x) };
        let shape = format!("{side}x{side}x{channels}{}", if silu { ", silu" } else { "" });
        let work = Work::Pass { inputs: 1, elements: x.elem_count() };
        operation(bench, &mut report, &shape, work, (&run, None))
    })
}

fn elementwise(bench: &Bench<'_>, mut report: Report<'_>) -> Outcome {
    let x = numbers(&[4096, 1280])?;
    let scores = numbers(&[4096, 1024])?;
    let pass = |inputs: usize, y: &Tensor| Work::Pass { inputs, elements: y.elem_count() };
    let silu: (&str, Work, Run<'_>, Run<'_>) =
        ("silu 4096x1280", pass(1, &x), &|| ops::silu(&x), &|| x.silu());
    let rows = [
        silu,
        ("gelu 4096x1280", pass(1, &x), &|| ops::gelu(&x), &|| x.gelu_erf()),
        ("softmax 4096x1024", pass(1, &scores), &|| ops::softmax(&scores), &|| {
            candle_nn::ops::softmax_last_dim(&scores)
        }),
        ("add 4096x1280", pass(2, &x), &|| ops::add(&x, &x), &|| &x + &x),
    ];
    each(&rows, |(shape, work, run, peer)| {
        operation(bench, &mut report, shape, *work, (*run, Some(*peer)))
    })
}
