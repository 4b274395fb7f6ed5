//! Group, layer and root-mean-square normalisation.

use candle_core::{D, DType, Result, Tensor};

use super::silu;

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
