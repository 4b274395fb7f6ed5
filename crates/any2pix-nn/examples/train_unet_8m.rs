//! Measures training steps of a UNet of eight million weights: forward, backward, AdamW, average.
//!
//! `cargo run --release -p any2pix-nn --example train_unet_8m -- [f32|bf16] [steps]`

#![allow(clippy::print_stdout)]

use std::time::Instant;

use any2pix_kernels::{AdamW, Engine, adamw_step, ema};
use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::ops::{self, Mask, Precision};
use any2pix_nn::{Conv2d, Generator, GroupNorm, LayerNorm, Linear, Parameters, timesteps};
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Storage, Tensor, Var};
use candle_nn::VarBuilder;

const WIDTHS: [usize; 3] = [64, 128, 256];
const TIME: usize = 256;
const CONTEXT: usize = 64;
const BATCH: usize = 16;

struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn load(vb: VarBuilder, from: usize, to: usize) -> Result<Self> {
        let shortcut = (from != to)
            .then(|| Conv2d::load(vb.pp("shortcut"), from, to, Conv2dConfig::K1))
            .transpose()?;
        Ok(Self {
            norm1: GroupNorm::load(vb.pp("norm1"), 32, from, 1e-5)?,
            conv1: Conv2d::load(vb.pp("conv1"), from, to, Conv2dConfig::K3)?,
            time: Linear::load(vb.pp("time"), TIME, to)?,
            norm2: GroupNorm::load(vb.pp("norm2"), 32, to, 1e-5)?,
            conv2: Conv2d::load(vb.pp("conv2"), to, to, Conv2dConfig::K3)?,
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor, time: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let h = ops::add_to_each_position(&h, &self.time.forward(time)?)?;
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        match &self.shortcut {
            Some(shortcut) => ops::add(&shortcut.forward(x)?, &h),
            None => ops::add(x, &h),
        }
    }
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    fn load(vb: VarBuilder, width: usize, context: usize) -> Result<Self> {
        Ok(Self {
            q: Linear::load_no_bias(vb.pp("q"), width, width)?,
            k: Linear::load_no_bias(vb.pp("k"), context, width)?,
            v: Linear::load_no_bias(vb.pp("v"), context, width)?,
            out: Linear::load(vb.pp("out"), width, width)?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.q.forward(x)?, self.k.forward(context)?, self.v.forward(context)?);
        let heads = q.dim(2)? / 32;
        let y = ops::attention(&q, &k, &v, heads, heads, 32f64.powf(-0.5), Mask::None)?;
        self.out.forward(&y)
    }
}

struct Transformer {
    norm1: LayerNorm,
    own: Attention,
    norm2: LayerNorm,
    cross: Attention,
}

impl Transformer {
    fn load(vb: VarBuilder, width: usize) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::load(vb.pp("norm1"), width, 1e-5)?,
            own: Attention::load(vb.pp("own"), width, width)?,
            norm2: LayerNorm::load(vb.pp("norm2"), width, 1e-5)?,
            cross: Attention::load(vb.pp("cross"), width, CONTEXT)?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let shape = x.dims().to_vec();
        let x = x.reshape((shape[0], shape[1] * shape[2], shape[3]))?;
        let h = self.norm1.forward(&x)?;
        let x = ops::add(&x, &self.own.forward(&h, &h)?)?;
        let x = ops::add(&x, &self.cross.forward(&self.norm2.forward(&x)?, context)?)?;
        x.reshape(shape)
    }
}

struct Level {
    blocks: Vec<(ResnetBlock, Option<Transformer>)>,
    resample: Option<Conv2d>,
}

impl Level {
    fn forward(&self, mut x: Tensor, time: &Tensor, context: &Tensor) -> Result<Tensor> {
        for (resnet, transformer) in &self.blocks {
            x = resnet.forward(&x, time)?;
            if let Some(transformer) = transformer {
                x = transformer.forward(&x, context)?;
            }
        }
        Ok(x)
    }
}

struct Unet {
    time: [Linear; 2],
    conv_in: Conv2d,
    down: Vec<Level>,
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    fn load(vb: VarBuilder) -> Result<Self> {
        let level = |vb: VarBuilder, from: usize, to: usize, attends: bool, stride: usize| {
            let blocks = (0..2)
                .map(|i| {
                    let from = if i == 0 { from } else { to };
                    let resnet = ResnetBlock::load(vb.pp(format!("resnet{i}")), from, to)?;
                    let transformer = attends
                        .then(|| Transformer::load(vb.pp(format!("transformer{i}")), to))
                        .transpose()?;
                    Ok((resnet, transformer))
                })
                .collect::<Result<Vec<_>>>()?;
            let config = Conv2dConfig { kernel: 3, stride, padding: 1 };
            let resample = (stride > 0)
                .then(|| Conv2d::load(vb.pp("resample"), to, to, config))
                .transpose()?;
            Ok::<_, candle_core::Error>(Level { blocks, resample })
        };
        let [a, b, c] = WIDTHS;
        Ok(Self {
            time: [
                Linear::load(vb.pp("time1"), a, TIME)?,
                Linear::load(vb.pp("time2"), TIME, TIME)?,
            ],
            conv_in: Conv2d::load(vb.pp("conv_in"), 4, a, Conv2dConfig::K3)?,
            down: vec![
                level(vb.pp("down0"), a, a, false, 2)?,
                level(vb.pp("down1"), a, b, true, 2)?,
                level(vb.pp("down2"), b, c, true, 0)?,
            ],
            up: vec![
                level(vb.pp("up2"), c + c, c, true, 1)?,
                level(vb.pp("up1"), c + b, b, true, 1)?,
                level(vb.pp("up0"), b + a, a, false, 0)?,
            ],
            norm_out: GroupNorm::load(vb.pp("norm_out"), 32, a, 1e-5)?,
            conv_out: Conv2d::load(vb.pp("conv_out"), a, 4, Conv2dConfig::K3)?,
        })
    }

    fn forward(&self, x: &Tensor, time: &[f64], context: &Tensor) -> Result<Tensor> {
        let time = timesteps::sinusoid(time, WIDTHS[0], x.device())?;
        let time = self.time[1].forward(&ops::silu(&self.time[0].forward(&time)?)?)?;
        let time = ops::silu(&time)?;
        let mut x = self.conv_in.forward(x)?;
        let mut skips = Vec::new();
        for level in &self.down {
            x = level.forward(x, &time, context)?;
            skips.push(x.clone());
            if let Some(resample) = &level.resample {
                x = resample.forward(&x)?;
            }
        }
        for level in &self.up {
            if let Some(skip) = skips.pop() {
                x = ops::concat_channels(&x, &skip)?;
            }
            x = level.forward(x, &time, context)?;
            if let Some(resample) = &level.resample {
                x = resample.forward(&ops::upsample_nearest2x(&x)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

/// Weights with what AdamW and the average keep of them.
struct State {
    var: Var,
    mean: Vec<f32>,
    square: Vec<f32>,
    average: Vec<f32>,
}

struct Update<'a> {
    options: AdamW,
    gradient: &'a [f32],
    state: std::cell::RefCell<(&'a mut [f32], &'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, weight: &mut CpuStorage, _: &Layout) -> Result<()> {
        let CpuStorage::F32(weight) = weight else { candle_core::bail!("weights must be f32") };
        let (mean, square, average) = &mut *self.state.borrow_mut();
        let engine = Engine::current(Precision::F32);
        adamw_step(engine, &self.options, weight, self.gradient, (mean, square));
        ema(engine, 0.999, average, weight);
        Ok(())
    }
}

impl State {
    fn update(&mut self, gradient: &Tensor, step: u32) -> Result<()> {
        let options = AdamW {
            rate: 2e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: 0.01,
            gradient_scale: 1.0,
            step,
        };
        let gradient = gradient.contiguous()?;
        let (storage, layout) = gradient.storage_and_layout();
        let Storage::Cpu(CpuStorage::F32(values)) = &*storage else {
            candle_core::bail!("gradients must be f32")
        };
        let gradient = &values[layout.start_offset()..];
        let state = (&mut self.mean[..], &mut self.square[..], &mut self.average[..]);
        self.var.inplace_op1(&Update { options, gradient, state: state.into() })
    }
}

/// Seconds of processor time that this process has used (Linux), all threads.
fn processor_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

fn main() -> Result<()> {
    any2pix_nn::prepare_process();
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("bf16") {
        ops::set_precision(Precision::Bf16);
    }
    let steps = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(12);
    let parameters = Parameters::new(1);
    let unet = Unet::load(parameters.builder(&Device::Cpu))?;
    println!("{} weights, {:?}, {:?}", parameters.count(), ops::precision(), ops::Level::current());
    let mut states: Vec<State> = parameters
        .named()
        .into_iter()
        .map(|(_, var)| {
            let zeros = || vec![0.0; var.elem_count()];
            let (mean, square, average) = (zeros(), zeros(), zeros());
            State { var, mean, square, average }
        })
        .collect();
    let mut generator = Generator::new(2);
    let clean = generator.randn((BATCH, 16, 16, 4), &Device::Cpu)?;
    let context = generator.randn((BATCH, 8, CONTEXT), &Device::Cpu)?;
    let mut walls = Vec::new();
    for step in 1..=steps {
        let times: Vec<f64> =
            (0..BATCH).map(|i| (i * 61 + step as usize * 17) as f64 % 1000.0).collect();
        let noise = generator.randn(clean.shape().clone(), &Device::Cpu)?;
        let (start, processor) = (Instant::now(), processor_seconds());
        let predicted = unet.forward(&((&clean * 0.7)? + (&noise * 0.7)?)?, &times, &context)?;
        let loss = (predicted - &noise)?.sqr()?.mean_all()?;
        let (forward, forward_processor) = (start.elapsed(), processor_seconds());
        let gradients = ops::backward(&loss)?;
        let (backward, backward_processor) = (start.elapsed(), processor_seconds());
        for state in &mut states {
            if let Some(gradient) = gradients.get(&state.var) {
                state.update(gradient, step)?;
            }
        }
        let (wall, end) = (start.elapsed(), processor_seconds());
        walls.push(wall);
        println!(
            "step {step}: loss {:.4}, {:.0} ms ({:.0} forward, {:.0} backward, {:.0} update); \
             cpu {:.0} ms ({:.0}, {:.0}, {:.0})",
            loss.to_scalar::<f32>()?,
            wall.as_secs_f64() * 1e3,
            forward.as_secs_f64() * 1e3,
            (backward - forward).as_secs_f64() * 1e3,
            (wall - backward).as_secs_f64() * 1e3,
            (end - processor) * 1e3,
            (forward_processor - processor) * 1e3,
            (backward_processor - forward_processor) * 1e3,
            (end - backward_processor) * 1e3,
        );
    }
    walls.sort();
    let median = walls[walls.len() / 2];
    println!("{:.1} samples/s", BATCH as f64 / median.as_secs_f64());
    Ok(())
}
