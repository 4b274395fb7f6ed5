//! Activations, gated units, softmax.

use any2pix_kernels::Engine;
use any2pix_kernels::activation::{
    Activation, Gate, activate, activate_backward, gated, gated_backward, gated_halves,
    gated_halves_backward, softmax_backward,
};
use any2pix_kernels::buffer::zeros;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::{cpu, precision};

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(&[x]) {
        let op = SoftmaxOp { engine: precision::engine(), width: x.dim(D::Minus1)? };
        return x.contiguous()?.apply_op1(op);
    }
    let max = x.max_keepdim(D::Minus1)?.detach();
    let exp = x.broadcast_sub(&max)?.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    exp.broadcast_div(&sum)
}

/// `x · sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    elementwise(x, Activation::Silu, Tensor::silu)
}

/// `x · Φ(x)`, exact (erf).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    elementwise(x, Activation::Gelu, Tensor::gelu_erf)
}

/// The tanh approximation of GELU (`gelu_new`).
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    elementwise(x, Activation::GeluTanh, Tensor::gelu)
}

/// `x · sigmoid(1.702·x)` (OpenAI CLIP).
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    elementwise(x, Activation::QuickGelu, |x| x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)
}

/// `ln(1 + eˣ)` without overflow: what a yes costs where no is right.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

fn elementwise(
    x: &Tensor,
    activation: Activation,
    composed: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if cpu::takes(&[x]) {
        return x.contiguous()?.apply_op1(ActivationOp { engine: precision::engine(), activation });
    }
    composed(x)
}

/// Splits the last dimension in halves `a`, `g` and returns `a · gelu(g)` (exact GELU).
///
/// # Shapes
/// `(.., 2c)` → `(.., c)`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let twice = x.dim(D::Minus1)?;
    if cpu::takes(&[x]) && twice.is_multiple_of(2) {
        return x
            .contiguous()?
            .apply_op1(GegluOp { engine: precision::engine(), width: twice / 2 });
    }
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * gelu(&halves[1])?
}

/// `silu(gate) · up` (Llama's MLP).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if cpu::takes(&[gate, up]) && gate.dims() == up.dims() {
        let op = SwigluOp { engine: precision::engine() };
        return gate.contiguous()?.apply_op2(&up.contiguous()?, op);
    }
    silu(gate)? * up
}

struct SoftmaxOp {
    engine: Engine,
    width: usize,
}

impl CustomOp1 for SoftmaxOp {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let y = any2pix_kernels::activation::softmax(self.engine, self.width, x);
        Ok(cpu::output(y, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let by_x = cpu::try_tensor(x.shape(), |by_x| {
            cpu::with_slices2((y, gradient), |y, gradient| {
                softmax_backward(self.engine, self.width, (y, gradient), by_x);
            })
        })?;
        Ok(Some(by_x))
    }
}

struct ActivationOp {
    engine: Engine,
    activation: Activation,
}

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = activate(self.engine, self.activation, cpu::slice(x, layout)?);
        Ok(cpu::output(y, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let by_x = cpu::try_tensor(x.shape(), |by_x| {
            cpu::with_slices2((x, gradient), |x, gradient| {
                activate_backward(self.engine, self.activation, (x, gradient), by_x);
            })
        })?;
        Ok(Some(by_x))
    }
}

struct GegluOp {
    engine: Engine,
    /// Of the result's rows.
    width: usize,
}

impl CustomOp1 for GegluOp {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let mut shape = layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.width;
        }
        let y = gated_halves(self.engine, Gate::Gelu, self.width, x);
        Ok(cpu::output(y, shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let by_x = cpu::try_tensor(x.shape(), |by_x| {
            cpu::with_slices2((x, gradient), |x, gradient| {
                gated_halves_backward(self.engine, Gate::Gelu, self.width, (x, gradient), by_x);
            })
        })?;
        Ok(Some(by_x))
    }
}

struct SwigluOp {
    engine: Engine,
}

impl CustomOp2 for SwigluOp {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (cpu::slice(gate, gate_layout)?, cpu::slice(up, up_layout)?);
        let y = gated(self.engine, Gate::Silu, (up, gate));
        Ok(cpu::output(y, gate_layout.shape()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut by_gate = zeros(gate.elem_count());
        let mut by_up = zeros(up.elem_count());
        cpu::with_slices3((gate, up, gradient), |gate, up, gradient| {
            let inputs = (up, gate, gradient);
            gated_backward(self.engine, Gate::Silu, inputs, (&mut by_up, &mut by_gate));
        })?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((Some(tensor(by_gate, gate)?), Some(tensor(by_up, up)?)))
    }
}
