//! Losses that draw pairs together, and the figures of retrieval.

use candle_core::{D, Device, Tensor};

use crate::Result;

/// How often the right one of all `candidates` is the nearest to its query.
///
/// # Shapes
/// `queries` `(n, e)`, `candidates` `(c, e)`, both of length 1; `right` `n` rows of candidates.
pub fn top1(queries: &Tensor, candidates: &Tensor, right: &[u32]) -> Result<f64> {
    if right.is_empty() {
        return Ok(0.0);
    }
    let nearest = queries.matmul(&candidates.t()?)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let hits = nearest.iter().zip(right).filter(|(a, b)| a == b).count();
    Ok(hits as f64 / right.len() as f64)
}

/// Cross entropy of `queries` against all `candidates`.
///
/// # Shapes
/// `queries` `(n, e)`, `candidates` `(c, e)`, `scale` `()`, `right` `n` rows of candidates → `()`.
pub fn against(
    queries: &Tensor,
    candidates: &Tensor,
    scale: &Tensor,
    right: &[u32],
) -> Result<Tensor> {
    let logits = queries.matmul(&candidates.t()?)?.broadcast_mul(scale)?;
    let right = Tensor::new(right, &Device::Cpu)?;
    Ok(candle_nn::loss::cross_entropy(&logits, &right)?)
}

/// InfoNCE in both directions: row `i` of `a` belongs to row `i` of `b`.
///
/// # Shapes
/// `a`, `b` `(n, e)`, `scale` `()` → `()`.
pub fn info_nce(a: &Tensor, b: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let own: Vec<u32> = (0..a.dim(0)? as u32).collect();
    Ok(((against(a, b, scale, &own)? + against(b, a, scale, &own)?)? * 0.5)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_in_order_have_less_loss_than_pairs_out_of_order() {
        let eye = Tensor::eye(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        let other = eye.index_select(&Tensor::new(&[1u32, 0, 3, 2], &Device::Cpu).unwrap(), 0);
        let scale = Tensor::new(10f32, &Device::Cpu).unwrap();
        let loss = |b: &Tensor| info_nce(&eye, b, &scale).unwrap().to_scalar::<f32>().unwrap();
        assert!(loss(&eye) < 0.01 && loss(&other.unwrap()) > 5.0);
        assert_eq!(top1(&eye, &eye, &[0, 1, 3, 3]).unwrap(), 0.75);
    }
}
