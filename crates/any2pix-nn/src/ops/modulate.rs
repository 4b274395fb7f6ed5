//! Feature-wise modulation (FiLM, adaptive norms).

use any2pix_kernels::Engine;
use any2pix_kernels::buffer::zeros;
use any2pix_kernels::modulate::{ModulateShape, modulate_backward};
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::{cpu, precision, silu};

/// `x · (1 + scale) + shift` with a scale and a shift for each channel of each picture; with
/// `with_silu`, SiLU follows.
///
/// # Shapes
/// `x` `(b, .., c)`, `vectors` `(b, 2c)`: scales, then shifts → the shape of `x`.
pub fn modulate(x: &Tensor, vectors: &Tensor, with_silu: bool) -> Result<Tensor> {
    let (b, c) = (x.dim(0)?, x.dim(D::Minus1)?);
    if vectors.dims() != [b, 2 * c] {
        candle_core::bail!("vectors {:?} to modulate {:?}", vectors.shape(), x.shape())
    }
    if cpu::takes(&[x, vectors]) {
        let positions = x.elem_count() / (b * c).max(1);
        let shape = ModulateShape { positions, channels: c, silu: with_silu };
        let op = ModulateOp { engine: precision::engine(), shape };
        return x.contiguous()?.apply_op2(&vectors.contiguous()?, op);
    }
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (b, c);
    let scale = (vectors.narrow(1, 0, c)?.contiguous()?.reshape(shape.clone())? + 1.0)?;
    let shift = vectors.narrow(1, c, c)?.contiguous()?.reshape(shape)?;
    let y = x.broadcast_mul(&scale)?.broadcast_add(&shift)?;
    if with_silu { silu(&y) } else { Ok(y) }
}

struct ModulateOp {
    engine: Engine,
    shape: ModulateShape,
}

impl CustomOp2 for ModulateOp {
    fn name(&self) -> &'static str {
        "modulate"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        vectors: &CpuStorage,
        vectors_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = (cpu::slice(x, x_layout)?, cpu::slice(vectors, vectors_layout)?);
        let mut y = zeros(inputs.0.len());
        any2pix_kernels::modulate::modulate(self.engine, &self.shape, inputs, &mut y);
        Ok(cpu::output(y, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        vectors: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut by_x = zeros(x.elem_count());
        let mut by_vectors = zeros(vectors.elem_count());
        cpu::with_slices3((x, vectors, gradient), |x, vectors, gradient| {
            let to = (&mut by_x[..], &mut by_vectors[..]);
            modulate_backward(self.engine, &self.shape, (x, vectors, gradient), to);
        })?;
        let wanted = |t: &Tensor, values: Vec<f32>| -> Result<Option<Tensor>> {
            t.track_op().then(|| Tensor::from_vec(values, t.shape(), t.device())).transpose()
        };
        Ok((wanted(x, by_x)?, wanted(vectors, by_vectors)?))
    }
}
