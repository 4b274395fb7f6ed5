//! Attention, heads side by side.

use candle_core::{Result, Tensor};

use super::softmax;

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
    let (b, n, width) = q.dims3()?;
    let m = k.dim(1)?;
    let d = width / heads;
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
    let mut scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?;
    if mask == Mask::Causal && n > 1 {
        let values: Vec<f32> = (0..n)
            .flat_map(|i| (0..m).map(move |j| if j + n > i + m { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        let mask = Tensor::from_vec(values, (1, 1, n, m), q.device())?;
        scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
    }
    let probabilities = softmax(&scores)?;
    probabilities.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((b, n, width))
}
