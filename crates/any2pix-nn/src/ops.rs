//! Tensor operations that models are made of, with gradients; channels-last throughout.

use candle_core::{D, DType, Result, Tensor};

/// `x · weightᵀ + bias`.
///
/// # Shapes
/// `x` `(.., in)`, `weight` `(out, in)`, `bias` `(out)` → `(.., out)`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let rows = x.elem_count() / in_features.max(1);
    let y = x.reshape((rows, in_features))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    if let Some(last) = shape.last_mut() {
        *last = out_features;
    }
    y.reshape(shape)
}

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
    let y = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(weight, padding, stride, 1, 1)?;
    let y = y.permute((0, 2, 3, 1))?.contiguous()?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

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

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let max = x.max_keepdim(D::Minus1)?.detach();
    let exp = x.broadcast_sub(&max)?.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    exp.broadcast_div(&sum)
}

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
    let positions = x.elem_count() / (b * c).max(1);
    let grouped = x.reshape((b, positions, groups, c / groups))?;
    let mean = grouped.mean_keepdim((1, 3))?;
    let centred = grouped.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((1, 3))?;
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, positions, c))?;
    let y = normal.broadcast_mul(weight)?.broadcast_add(bias)?.reshape(shape)?;
    if with_silu { silu(&y) } else { Ok(y) }
}

/// Normalises the last dimension to mean 0 and variance 1, then scales and shifts.
///
/// # Shapes
/// `x` `(.., c)`, `weight` and `bias` `(c)` → the shape of `x`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
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
    let variance = x.to_dtype(DType::F32)?.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = x.broadcast_div(&(variance + eps)?.sqrt()?.to_dtype(x.dtype())?)?;
    normal.broadcast_mul(weight)
}

/// `x · sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// `x · Φ(x)`, exact (erf).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// The tanh approximation of GELU (`gelu_new`).
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}

/// `x · sigmoid(1.702·x)` (OpenAI CLIP).
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * candle_nn::ops::sigmoid(&(x * 1.702)?)?
}

/// Splits the last dimension in halves `a`, `g` and returns `a · gelu(g)` (exact GELU).
///
/// # Shapes
/// `(.., 2c)` → `(.., c)`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * gelu(&halves[1])?
}

/// `silu(gate) · up` (Llama's MLP).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    silu(gate)? * up
}

/// Doubles height and width by repeating each position.
///
/// # Shapes
/// `(b, h, w, c)` → `(b, 2h, 2w, c)`.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?.contiguous()?.reshape((
        b,
        2 * h,
        2 * w,
        c,
    ))
}
