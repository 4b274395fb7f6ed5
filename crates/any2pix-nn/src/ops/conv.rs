//! 2-D convolution.

use any2pix_kernels::buffer::zeros;
use any2pix_kernels::{ConvShape, Engine, conv2d_by_data, conv2d_by_weight};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::gradients::deliver;
use super::linear::by_bias;
use super::{cpu, precision};

/// 2-D convolution on channels-last activations.
///
/// # Shapes
/// `x` `(b, h, w, in)`, `weight` `(out, in, kh, kw)`, `bias` `(out)` → `(b, h', w', out)` with
/// `h' = (h + 2·padding - kh) / stride + 1`.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    if cpu::takes(&[x, weight]) && bias.is_none_or(|bias| cpu::takes(&[bias])) {
        let shape = conv_shape(x, weight.shape(), stride, padding)?;
        let op = ConvOp { engine: precision::engine_between(shape.inputs, shape.outputs), shape };
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        return match bias {
            Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
            None => x.apply_op2(&weight, op),
        };
    }
    let y = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(weight, padding, stride, 1, 1)?;
    let y = y.permute((0, 2, 3, 1))?.contiguous()?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

pub(super) fn conv_shape(
    x: &Tensor,
    weight: &Shape,
    stride: usize,
    padding: usize,
) -> Result<ConvShape> {
    let (batch, height, width, inputs) = x.dims4()?;
    let (outputs, expected, kernel_height, kernel_width) = weight.dims4()?;
    let kernel = (kernel_height, kernel_width);
    let fits = height + 2 * padding >= kernel.0 && width + 2 * padding >= kernel.1;
    if inputs != expected || stride == 0 || !fits {
        candle_core::bail!(
            "convolution of {:?} (b, h, w, c) by {:?} (out, in, kh, kw), stride {stride}, padding {padding}",
            x.shape(),
            weight
        )
    }
    Ok(ConvShape { batch, height, width, inputs, outputs, kernel, stride, padding })
}

struct ConvOp {
    engine: Engine,
    shape: ConvShape,
}

impl ConvOp {
    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let (batch, outputs) = (self.shape.batch, self.shape.outputs);
        let (height, width) = self.shape.output_size();
        let mut y = zeros(batch * height * width * outputs);
        any2pix_kernels::conv2d(self.engine, &self.shape, (x, weight, bias), &mut y);
        cpu::output(y, (batch, height, width, outputs))
    }

    fn by_x(&self, x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let by_x = cpu::try_tensor(x.shape(), |by_x| {
            cpu::with_slices2((gradient, weight), |gradient, weight| {
                conv2d_by_data(self.engine, &self.shape, (gradient, weight), by_x);
            })
        })?;
        deliver(x, by_x)
    }

    fn by_weight(&self, x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if !weight.track_op() {
            return Ok(None);
        }
        let by_weight = cpu::try_tensor(weight.shape(), |by_weight| {
            cpu::with_slices2((gradient, x), |gradient, x| {
                conv2d_by_weight(self.engine, &self.shape, (gradient, x), by_weight);
            })
        })?;
        deliver(weight, by_weight)
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?, None))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.by_x(x, weight, gradient)?, self.by_weight(x, weight, gradient)?))
    }
}

impl CustomOp3 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = Some(cpu::slice(bias, bias_layout)?);
        Ok(self.forward(cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?, bias))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((
            self.by_x(x, weight, gradient)?,
            self.by_weight(x, weight, gradient)?,
            by_bias(self.engine, bias, gradient)?,
        ))
    }
}
