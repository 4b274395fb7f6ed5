//! Attention, heads side by side.

use any2pix_kernels::Engine;
use any2pix_kernels::attention::{AttentionShape, attention_backward};
use any2pix_kernels::buffer::zeros;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{cpu, precision, softmax};

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at or before the query's own position; with more keys than queries, the queries
    /// are the last ones (KV cache).
    Causal,
}

/// `softmax(q·kᵀ·scale)·v`, head by head; heads lie side by side in the last dimension.
///
/// # Shapes
/// `q` `(b, n, heads·d)`, `k` and `v` `(b, m, kv_heads·d)` → `(b, n, heads·d)`; `heads` is a
/// multiple of `kv_heads` (grouped-query attention).
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    kv_heads: usize,
    scale: f64,
    mask: Mask,
) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let (k_batch, keys, kv_width) = k.dims3()?;
    let size = width / heads.max(1);
    let heads_fit = size * heads == width && kv_heads > 0 && heads.is_multiple_of(kv_heads);
    if !heads_fit || k.dims() != v.dims() || k_batch != batch || kv_width != kv_heads * size {
        candle_core::bail!(
            "attention of {heads} heads over {kv_heads}: q {:?}, k {:?}, v {:?}",
            q.shape(),
            k.shape(),
            v.shape()
        )
    }
    let causal = mask == Mask::Causal && queries > 1;
    let scale = scale as f32;
    let shape = AttentionShape { batch, queries, keys, heads, kv_heads, size, scale, causal };
    if cpu::takes(&[q, k, v]) {
        let op = AttentionOp { engine: precision::engine(), shape };
        return q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op);
    }
    composed(q, k, v, &shape)
}

/// Attention out of candle's operations.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let AttentionShape { batch: b, queries: n, keys: m, heads, kv_heads, size: d, .. } = *shape;
    let split = |t: &Tensor, len: usize, h: usize| -> Result<Tensor> {
        let t = t.reshape((b, len, h, d))?.transpose(1, 2)?;
        let groups = heads / h;
        if groups == 1 {
            return t.contiguous();
        }
        t.unsqueeze(2)?
            .broadcast_as((b, h, groups, len, d))?
            .contiguous()?
            .reshape((b, heads, len, d))
    };
    let (q, k, v) = (split(q, n, heads)?, split(k, m, kv_heads)?, split(v, m, kv_heads)?);
    let scores = q.matmul(&k.transpose(2, 3)?.contiguous()?)?;
    let mut scores = (scores * f64::from(shape.scale))?;
    if shape.causal {
        let values: Vec<f32> = (0..n)
            .flat_map(|i| (0..m).map(move |j| if j + n > i + m { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        let mask = Tensor::from_vec(values, (1, 1, n, m), q.device())?;
        scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
    }
    let probabilities = softmax(&scores)?;
    probabilities.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((b, n, heads * d))
}

struct AttentionOp {
    engine: Engine,
    shape: AttentionShape,
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = (cpu::slice(q, q_layout)?, cpu::slice(k, k_layout)?, cpu::slice(v, v_layout)?);
        let mut y = zeros(q_layout.shape().elem_count());
        any2pix_kernels::attention::attention(self.engine, &self.shape, inputs, &mut y);
        Ok(cpu::output(y, q_layout.shape()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let like = |t: &Tensor| zeros(t.elem_count());
        let (mut by_q, mut by_k, mut by_v) = (like(q), like(k), like(v));
        cpu::with_slices3((q, k, v), |q, k, v| {
            cpu::with_slice(gradient, |gradient| {
                let inputs = (q, k, v, gradient);
                let to = (&mut by_q[..], &mut by_k[..], &mut by_v[..]);
                attention_backward(self.engine, &self.shape, inputs, to);
            })
        })??;
        let wanted = |t: &Tensor, values: Vec<f32>| -> Result<Option<Tensor>> {
            t.track_op().then(|| Tensor::from_vec(values, t.shape(), t.device())).transpose()
        };
        Ok((wanted(q, by_q)?, wanted(k, by_k)?, wanted(v, by_v)?))
    }
}
