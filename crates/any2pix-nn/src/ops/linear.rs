//! Linear layers.

use any2pix_kernels::buffer::zeros;
use any2pix_kernels::{Dense, Engine, Operand, Output, Size, gemm, sum_rows};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::gradients::deliver;
use super::{cpu, precision};

/// `x · weightᵀ + bias`.
///
/// # Shapes
/// `x` `(.., in)`, `weight` `(out, in)`, `bias` `(out)` → `(.., out)`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut().filter(|last| **last == in_features) else {
        candle_core::bail!("linear of {in_features} features on a tensor of shape {:?}", x.shape())
    };
    *last = out_features;
    if cpu::takes(&[x, weight]) && bias.is_none_or(|bias| cpu::takes(&[bias])) {
        let op = LinearOp { engine: precision::engine_between(in_features, out_features), shape };
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        return match bias {
            Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
            None => x.apply_op2(&weight, op),
        };
    }
    let rows = x.elem_count() / in_features.max(1);
    let y = x.reshape((rows, in_features))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    y.reshape(shape)
}

struct LinearOp {
    engine: Engine,
    /// Of the result.
    shape: Vec<usize>,
}

impl LinearOp {
    fn size(&self, weight: &Shape) -> Result<Size> {
        let (n, k) = weight.dims2()?;
        Ok(Size { m: self.shape.iter().rev().skip(1).product(), n, k })
    }

    fn forward(&self, x: &[f32], weight: &[f32], size: Size, bias: Option<&[f32]>) -> Vec<f32> {
        let mut y = zeros(size.m * size.n);
        let (x, weight) = (Dense::new(x, size.k), Dense::new(weight, size.k));
        let (x, weight) = (Operand::rows_along_k(&x), Operand::rows_along_k(&weight));
        let output = Output { data: &mut y, stride: size.n, bias, accumulate: false };
        gemm(self.engine, size, x, weight, output);
        y
    }

    fn by_x(&self, x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let size = self.size(weight.shape())?;
        cpu::with_slice(weight, |weight| by_x(self.engine, size, x, weight, gradient))?
    }

    fn by_weight(&self, x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if !weight.track_op() {
            return Ok(None);
        }
        let Size { m, n, k } = self.size(weight.shape())?;
        let by_weight = cpu::try_tensor(weight.shape(), |by_weight| {
            cpu::with_slices2((gradient, x), |gradient, x| {
                let (gradient, x) = (Dense::new(gradient, n), Dense::new(x, k));
                let gradient = Operand::rows_across_k(&gradient);
                let x = Operand::rows_across_k(&x);
                let output = Output { data: by_weight, stride: k, bias: None, accumulate: false };
                gemm(self.engine, Size { m: n, n: k, k: m }, gradient, x, output);
            })
        })?;
        deliver(weight, by_weight)
    }
}

/// The gradient of `x · weightᵀ`, of `size`, by `x`.
pub(super) fn by_x(
    engine: Engine,
    Size { m, n, k }: Size,
    x: &Tensor,
    weight: &[f32],
    gradient: &Tensor,
) -> Result<Option<Tensor>> {
    let by_x = cpu::try_tensor(x.shape(), |by_x| {
        cpu::with_slice(gradient, |gradient| {
            let (gradient, weight) = (Dense::new(gradient, n), Dense::new(weight, k));
            let gradient = Operand::rows_along_k(&gradient);
            let weight = Operand::rows_across_k(&weight);
            let output = Output { data: by_x, stride: k, bias: None, accumulate: false };
            gemm(engine, Size { m, n: k, k: n }, gradient, weight, output);
        })
    })?;
    deliver(x, by_x)
}

/// The gradient of a bias that was added to every row.
pub(super) fn by_bias(engine: Engine, bias: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
    if !bias.track_op() {
        return Ok(None);
    }
    let by_bias = cpu::try_tensor(bias.shape(), |by_bias| {
        cpu::with_slice(gradient, |gradient| sum_rows(engine, gradient, by_bias))
    })?;
    deliver(bias, by_bias)
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = self.size(weight_layout.shape())?;
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        Ok(cpu::output(self.forward(x, weight, size, None), self.shape.clone()))
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

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
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
        let size = self.size(weight_layout.shape())?;
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        let bias = cpu::slice(bias, bias_layout)?;
        Ok(cpu::output(self.forward(x, weight, size, Some(bias)), self.shape.clone()))
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
