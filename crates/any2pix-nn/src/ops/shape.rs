//! Sums and changes of shape of channels-last activations.

use any2pix_kernels::Engine;
use any2pix_kernels::buffer::zeros;
use any2pix_kernels::elementwise::{
    add_to_positions, columns, concat_rows, sum_positions, upsample2x, upsample2x_backward,
};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::{cpu, precision};

/// Doubles height and width by repeating each position.
///
/// # Shapes
/// `(b, h, w, c)` → `(b, 2h, 2w, c)`.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if cpu::takes(&[x]) {
        return x.contiguous()?.apply_op1(UpsampleOp { engine: precision::engine() });
    }
    let repeated = x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
    repeated.contiguous()?.reshape((b, 2 * h, 2 * w, c))
}

/// `a + b`, faster than candle's and with a cheaper gradient.
///
/// # Shapes
/// Two equal shapes → the same.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if cpu::takes(&[a, b]) && a.dims() == b.dims() {
        return a.contiguous()?.apply_op2(&b.contiguous()?, AddOp { engine: precision::engine() });
    }
    a + b
}

/// Adds one vector for each picture to all of its positions (time embeddings).
///
/// # Shapes
/// `x` `(b, .., c)`, `vectors` `(b, c)` → the shape of `x`.
pub fn add_to_each_position(x: &Tensor, vectors: &Tensor) -> Result<Tensor> {
    let (b, c) = (x.dim(0)?, x.dim(D::Minus1)?);
    if vectors.dims() != [b, c] {
        candle_core::bail!("vectors {:?} for positions of {:?}", vectors.shape(), x.shape())
    }
    if cpu::takes(&[x, vectors]) {
        let op = AddVectorsOp { engine: precision::engine(), width: c };
        return x.contiguous()?.apply_op2(&vectors.contiguous()?, op);
    }
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (b, c);
    x.broadcast_add(&vectors.reshape(shape)?)
}

/// Channels of `a`, then channels of `b` (skip connections).
///
/// # Shapes
/// `a` `(.., c)`, `b` `(.., d)` → `(.., c + d)`.
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let rank = a.rank();
    let same_rows = rank > 0 && rank == b.rank() && a.dims()[..rank - 1] == b.dims()[..rank - 1];
    if cpu::takes(&[a, b]) && same_rows {
        let widths = (a.dim(D::Minus1)?, b.dim(D::Minus1)?);
        return a.contiguous()?.apply_op2(&b.contiguous()?, ConcatOp { widths });
    }
    Tensor::cat(&[a, b], D::Minus1)
}

struct UpsampleOp {
    engine: Engine,
}

impl CustomOp1 for UpsampleOp {
    fn name(&self) -> &'static str {
        "upsample_nearest2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, h, w, c) = layout.shape().dims4()?;
        let mut y = zeros(4 * b * h * w * c);
        upsample2x(cpu::slice(x, layout)?, w, c, &mut y);
        Ok(cpu::output(y, (b, 2 * h, 2 * w, c)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, w, c) = x.dims4()?;
        let by_x = cpu::try_tensor(x.shape(), |by_x| {
            cpu::with_slice(gradient, |gradient| {
                upsample2x_backward(self.engine, gradient, (w, c), by_x);
            })
        })?;
        Ok(Some(by_x))
    }
}

/// The gradient, if the argument wants one.
fn passed(argument: &Tensor, gradient: &Tensor) -> Option<Tensor> {
    argument.track_op().then(|| gradient.clone())
}

struct AddOp {
    engine: Engine,
}

impl CustomOp2 for AddOp {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (cpu::slice(a, a_layout)?, cpu::slice(b, b_layout)?);
        let y = any2pix_kernels::elementwise::add(self.engine, (a, b));
        Ok(cpu::output(y, a_layout.shape()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((passed(a, gradient), passed(b, gradient)))
    }
}

struct AddVectorsOp {
    engine: Engine,
    width: usize,
}

impl CustomOp2 for AddVectorsOp {
    fn name(&self) -> &'static str {
        "add_to_each_position"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        vectors: &CpuStorage,
        vectors_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, vectors) = (cpu::slice(x, x_layout)?, cpu::slice(vectors, vectors_layout)?);
        let y = add_to_positions(self.engine, self.width, (x, vectors));
        Ok(cpu::output(y, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        vectors: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let by_vectors = cpu::try_tensor(vectors.shape(), |by_vectors| {
            cpu::with_slice(gradient, |gradient| {
                sum_positions(self.engine, self.width, gradient, by_vectors);
            })
        })?;
        Ok((passed(x, gradient), vectors.track_op().then_some(by_vectors)))
    }
}

struct ConcatOp {
    widths: (usize, usize),
}

impl CustomOp2 for ConcatOp {
    fn name(&self) -> &'static str {
        "concat_channels"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (cpu::slice(a, a_layout)?, cpu::slice(b, b_layout)?);
        let mut shape = a_layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.widths.0 + self.widths.1;
        }
        let mut y = zeros(a.len() + b.len());
        concat_rows((a, b), self.widths, &mut y);
        Ok(cpu::output(y, shape))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = self.widths.0 + self.widths.1;
        let cut = |tensor: &Tensor, start: usize, part: usize| -> Result<Option<Tensor>> {
            if !tensor.track_op() {
                return Ok(None);
            }
            let to = cpu::try_tensor(tensor.shape(), |to| {
                cpu::with_slice(gradient, |from| columns(from, width, (start, part), to))
            })?;
            Ok(Some(to))
        };
        Ok((cut(a, 0, self.widths.0)?, cut(b, self.widths.0, self.widths.1)?))
    }
}
