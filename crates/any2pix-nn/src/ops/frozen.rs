//! Weights that are not trained: packed once for the kernels, used many times.

use std::sync::Arc;

use any2pix_kernels::buffer::zeros;
use any2pix_kernels::{
    ConvShape, Dense, Engine, Operand, Output, Packed, Size, conv2d_packed, conv2d_packed_by_data,
    gemm_packed, pack_conv2d,
};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::conv::conv_shape;
use super::gradients::deliver;
use super::linear::by_x;
use super::{cpu, precision};

/// The weights of a layer, packed for the precision in which they were loaded. Nothing else is
/// kept of them, so that a model takes the memory of its weights once.
#[derive(Clone, Debug)]
pub struct Frozen {
    packed: Arc<Packed>,
    bias: Option<Arc<Vec<f32>>>,
    /// Of the weights as they were.
    shape: Shape,
}

/// Whether the kernels can take a weight that no gradient will be asked of.
fn can_freeze(weight: &Tensor, bias: Option<&Tensor>) -> bool {
    let given = [Some(weight), bias];
    given.iter().flatten().all(|t| cpu::takes(&[t]) && !t.is_variable() && !t.track_op())
}

impl Frozen {
    /// Packs `weight` `(out, in)` or `(out, in, kh, kw)`; `None` if it is trained, or lies where
    /// the kernels do not compute.
    pub fn of(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        if !can_freeze(weight, bias) {
            return Ok(None);
        }
        let packed = cpu::with_slice(weight, |values| match *weight.dims() {
            [n, k] => {
                let engine = precision::engine_between(k, n);
                let rows = Dense::new(values, k);
                Ok(Packed::new(engine, n, k, Operand::rows_along_k(&rows)))
            }
            [outputs, inputs, height, width] => {
                let (kernel, engine) =
                    ((height, width), precision::engine_between(inputs, outputs));
                let shape = ConvShape { inputs, outputs, kernel, ..ConvShape::default() };
                Ok(pack_conv2d(engine, &shape, values))
            }
            _ => candle_core::bail!("weights of shape {:?} cannot be packed", weight.shape()),
        })??;
        let bias = bias.map(|bias| cpu::with_slice(bias, <[f32]>::to_vec)).transpose()?;
        let shape = weight.shape().clone();
        Ok(Some(Self { packed: Arc::new(packed), bias: bias.map(Arc::new), shape }))
    }

    /// `x · weightᵀ + bias`.
    ///
    /// # Shapes
    /// `x` `(.., in)` → `(.., out)`.
    pub fn linear(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let Some(last) = shape.last_mut().filter(|last| **last == self.packed.depth()) else {
            candle_core::bail!("weights {:?} meet a tensor of shape {:?}", self.shape, x.shape())
        };
        *last = self.packed.columns();
        let op = FrozenLinear { engine: precision::engine(), weights: self.clone(), shape };
        x.contiguous()?.apply_op1(op)
    }

    /// 2-D convolution on channels-last activations, see [`super::conv2d`].
    ///
    /// # Shapes
    /// `x` `(b, h, w, in)` → `(b, h', w', out)`.
    pub fn conv2d(&self, x: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
        let shape = conv_shape(x, &self.shape, stride, padding)?;
        let op = FrozenConv { engine: precision::engine(), weights: self.clone(), shape };
        x.contiguous()?.apply_op1(op)
    }

    fn bias(&self) -> Option<&[f32]> {
        self.bias.as_ref().map(|bias| bias.as_slice())
    }
}

struct FrozenLinear {
    engine: Engine,
    weights: Frozen,
    /// Of the result.
    shape: Vec<usize>,
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let packed = &self.weights.packed;
        let (k, n) = (packed.depth(), packed.columns());
        let m: usize = self.shape.iter().rev().skip(1).product();
        let mut y = zeros(m * n);
        let output =
            Output { data: &mut y, stride: n, bias: self.weights.bias(), accumulate: false };
        gemm_packed(m, Operand::rows_along_k(&Dense::new(x, k)), packed, output);
        Ok(cpu::output(y, self.shape.clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let packed = &self.weights.packed;
        let (k, n) = (packed.depth(), packed.columns());
        let size = Size { m: x.elem_count() / k.max(1), n, k };
        by_x(self.engine, size, x, &packed.unpack(), gradient)
    }
}

struct FrozenConv {
    engine: Engine,
    weights: Frozen,
    shape: ConvShape,
}

impl CustomOp1 for FrozenConv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let (batch, outputs) = (self.shape.batch, self.shape.outputs);
        let (height, width) = self.shape.output_size();
        let mut y = zeros(batch * height * width * outputs);
        let weights = (x, &*self.weights.packed, self.weights.bias());
        conv2d_packed(&self.shape, weights, &mut y);
        Ok(cpu::output(y, (batch, height, width, outputs)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let by_x = cpu::try_tensor(x.shape(), |by_x| {
            cpu::with_slice(gradient, |gradient| {
                let inputs = (gradient, &*self.weights.packed);
                conv2d_packed_by_data(self.engine, &self.shape, inputs, by_x);
            })
        })?;
        deliver(x, by_x)
    }
}
