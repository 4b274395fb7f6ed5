//! Rotary position embedding.

use any2pix_kernels::Engine;
use any2pix_kernels::buffer::zeros;
use any2pix_kernels::rotary::RotaryShape;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::{cpu, precision};

/// Turns the pairs `(i, i + d/2)` of each head by the angles of their position. The angles get
/// no gradient.
///
/// # Shapes
/// `x` `(b, n, heads·d)`, `cos` and `sin` `(n, d/2)` → the shape of `x`.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (b, n, width) = x.dims3()?;
    let (positions, half) = cos.dims2()?;
    if cos.dims() != sin.dims() || positions != n || half == 0 || !width.is_multiple_of(2 * half) {
        candle_core::bail!("angles {:?} for positions of {:?}", cos.shape(), x.shape())
    }
    if cpu::takes(&[x, cos, sin]) {
        let shape = RotaryShape { width, half, positions, backwards: false };
        let op = RotaryOp { engine: precision::engine(), shape };
        return x.contiguous()?.apply_op3(&cos.contiguous()?, &sin.contiguous()?, op);
    }
    let heads = x.reshape((b, n, width / (2 * half), 2 * half))?;
    let (first, second) = (heads.narrow(3, 0, half)?, heads.narrow(3, half, half)?);
    let cos = cos.unsqueeze(1)?.to_dtype(x.dtype())?;
    let sin = sin.unsqueeze(1)?.to_dtype(x.dtype())?;
    let turned = Tensor::cat(
        &[
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ],
        D::Minus1,
    )?;
    turned.reshape((b, n, width))
}

struct RotaryOp {
    engine: Engine,
    shape: RotaryShape,
}

impl CustomOp3 for RotaryOp {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs =
            (cpu::slice(x, x_layout)?, cpu::slice(cos, cos_layout)?, cpu::slice(sin, sin_layout)?);
        let mut y = zeros(inputs.0.len());
        any2pix_kernels::rotary::rotary(self.engine, &self.shape, inputs, &mut y);
        Ok(cpu::output(y, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let shape = RotaryShape { backwards: true, ..self.shape };
        let by_x = cpu::try_tensor(x.shape(), |by_x| {
            cpu::with_slices3((gradient, cos, sin), |gradient, cos, sin| {
                any2pix_kernels::rotary::rotary(self.engine, &shape, (gradient, cos, sin), by_x);
            })
        })?;
        Ok((Some(by_x), None, None))
    }
}
