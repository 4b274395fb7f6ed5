//! Group, layer and root-mean-square normalisation.

use std::sync::OnceLock;

use any2pix_kernels::Engine;
use any2pix_kernels::buffer::zeros;
use any2pix_kernels::norm::{
    GroupShape, GroupStatistics, RowNorm, group_norm_backward, row_norm, row_norm_backward,
};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor};

use super::gradients::deliver;
use super::{cpu, precision, silu};

/// Normalises each of `groups` groups of channels over all positions, then scales and shifts
/// each channel; with `silu`, SiLU follows.
///
/// # Shapes
/// `x` `(b, .., c)`, `weight` and `bias` `(c)` → the shape of `x`.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    with_silu: bool,
) -> Result<Tensor> {
    let shape = x.shape().clone();
    let (b, c) = (x.dim(0)?, x.dim(D::Minus1)?);
    if groups == 0 || !c.is_multiple_of(groups) || weight.dims() != [c] || bias.dims() != [c] {
        candle_core::bail!("{groups} groups of {c} channels, weight {:?}", weight.shape())
    }
    let positions = x.elem_count() / (b * c).max(1);
    if cpu::takes(&[x, weight, bias]) {
        let shape = GroupShape { batch: b, positions, channels: c, groups, silu: with_silu };
        let statistics = OnceLock::new();
        let op = GroupNormOp { engine: precision::engine(), shape, eps, statistics };
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    let grouped = x.reshape((b, positions, groups, c / groups))?;
    let mean = grouped.mean_keepdim((1, 3))?;
    let centred = grouped.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((1, 3))?;
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, positions, c))?;
    let y = normal.broadcast_mul(weight)?.broadcast_add(bias)?.reshape(shape)?;
    if with_silu { silu(&y) } else { Ok(y) }
}

struct GroupNormOp {
    engine: Engine,
    shape: GroupShape,
    eps: f64,
    statistics: OnceLock<GroupStatistics>,
}

/// A gradient, if the tensor wants one.
fn wanted(tensor: &Tensor, values: Vec<f32>) -> Result<Option<Tensor>> {
    if !tensor.track_op() {
        return Ok(None);
    }
    deliver(tensor, Tensor::from_vec(values, tensor.shape(), tensor.device())?)
}

impl CustomOp3 for GroupNormOp {
    fn name(&self) -> &'static str {
        "group_norm"
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
        let inputs = (
            cpu::slice(x, x_layout)?,
            cpu::slice(weight, weight_layout)?,
            cpu::slice(bias, bias_layout)?,
        );
        let (engine, shape, eps) = (self.engine, &self.shape, self.eps);
        let (y, statistics) = any2pix_kernels::norm::group_norm(engine, shape, eps, inputs);
        // An op runs forward once; a second run would compute the same.
        self.statistics.get_or_init(|| statistics);
        Ok(cpu::output(y, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(statistics) = self.statistics.get() else {
            candle_core::bail!("the backward pass of group_norm before its forward pass")
        };
        let mut by_x = zeros(x.elem_count());
        let (by_weight, by_bias) = cpu::with_slices3((x, weight, bias), |x, weight, bias| {
            cpu::with_slice(gradient, |gradient| {
                let inputs = (x, weight, bias, gradient);
                group_norm_backward(self.engine, &self.shape, statistics, inputs, &mut by_x)
            })
        })??;
        Ok((wanted(x, by_x)?, wanted(weight, by_weight)?, wanted(bias, by_bias)?))
    }
}

/// Normalises the last dimension to mean 0 and variance 1, then scales and shifts.
///
/// # Shapes
/// `x` `(.., c)`, `weight` and `bias` `(c)` → the shape of `x`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if cpu::takes(&[x, weight, bias]) && weight.dims() == [width] && bias.dims() == [width] {
        let norm = RowNorm { width, centred: true, eps: eps as f32 };
        let op = RowNormOp { engine: precision::engine(), norm };
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    let mean = x.mean_keepdim(D::Minus1)?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normal.broadcast_mul(weight)?.broadcast_add(bias)
}

/// Divides by the root mean square of the last dimension, then scales (Llama's norm).
///
/// # Shapes
/// `x` `(.., c)`, `weight` `(c)` → the shape of `x`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if cpu::takes(&[x, weight]) && weight.dims() == [width] {
        let norm = RowNorm { width, centred: false, eps: eps as f32 };
        let op = RowNormOp { engine: precision::engine(), norm };
        return x.contiguous()?.apply_op2(&weight.contiguous()?, op);
    }
    let variance = x.to_dtype(DType::F32)?.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = x.broadcast_div(&(variance + eps)?.sqrt()?.to_dtype(x.dtype())?)?;
    normal.broadcast_mul(weight)
}

struct RowNormOp {
    engine: Engine,
    norm: RowNorm,
}

impl RowNormOp {
    fn forward(&self, (x, weight, bias): (&[f32], &[f32], Option<&[f32]>)) -> Vec<f32> {
        row_norm(self.engine, self.norm, (x, weight, bias))
    }

    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Vec<f32>)> {
        let mut by_x = zeros(x.elem_count());
        let inputs = (x, weight, gradient);
        let (by_weight, by_bias) = cpu::with_slices3(inputs, |x, weight, gradient| {
            row_norm_backward(self.engine, self.norm, (x, weight, gradient), &mut by_x)
        })?;
        Ok((wanted(x, by_x)?, wanted(weight, by_weight)?, by_bias))
    }
}

impl CustomOp2 for RowNormOp {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        Ok(cpu::output(self.forward((x, weight, None)), x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (by_x, by_weight, _) = self.backward(x, weight, gradient)?;
        Ok((by_x, by_weight))
    }
}

impl CustomOp3 for RowNormOp {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        let bias = Some(cpu::slice(bias, bias_layout)?);
        Ok(cpu::output(self.forward((x, weight, bias)), x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (by_x, by_weight, by_bias) = self.backward(x, weight, gradient)?;
        Ok((by_x, by_weight, wanted(bias, by_bias)?))
    }
}
