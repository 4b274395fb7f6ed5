//! Arithmetic on whole latents and embeddings: the polar mix, the condition's mix.

use candle_core::{Result, Tensor};

/// Euclidean norm over all numbers of a tensor, in f64.
pub fn norm(tensor: &Tensor) -> Result<f64> {
    let values = tensor.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    Ok(values.iter().map(|v| v * v).sum::<f64>().sqrt())
}

/// Mixes inverted latents with noise: the direction is `alpha·inverted + (1-alpha)·noise`, the
/// norm is mixed by itself, so that the result is as loud as latents are.
///
/// `alpha` = 1 is reconstruction, smaller values give the instruction more room.
///
/// # Shapes
/// Both of one shape, which the result has; each item of the batch is mixed by itself.
pub fn polar_interpolate(inverted: &Tensor, noise: &Tensor, alpha: f64) -> Result<Tensor> {
    let items = inverted.dim(0)?;
    let mixed: Vec<Tensor> = (0..items)
        .map(|item| {
            let (a, b) = (inverted.narrow(0, item, 1)?, noise.narrow(0, item, 1)?);
            let mixed = ((&a * alpha)? + (&b * (1.0 - alpha))?)?;
            let target = alpha * norm(&a)? + (1.0 - alpha) * norm(&b)?;
            &mixed * (target / norm(&mixed)?.max(f64::MIN_POSITIVE))
        })
        .collect::<Result<_>>()?;
    Tensor::cat(&mixed, 0)
}

/// `tensor` scaled so that each vector of its last dimension has the norm `norm`.
///
/// # Shapes
/// `(.., e)` → the same.
pub fn with_norm(tensor: &Tensor, norm: f64) -> Result<Tensor> {
    let length = tensor.sqr()?.sum_keepdim(candle_core::D::Minus1)?.sqrt()?;
    tensor.broadcast_div(&(length + 1e-12)?)? * norm
}

/// `weights[0]·base + weights[1]·generated + weights[2]·refined`, at the norm `norm`; `refined`
/// is first brought to the norm 20 that embeddings have, since only its direction means anything.
///
/// # Shapes
/// All `(.., e)`, which the result is.
pub fn mix_embeddings(
    base: &Tensor,
    generated: &Tensor,
    refined: &Tensor,
    weights: [f64; 3],
    norm: f64,
) -> Result<Tensor> {
    let [h0, h1, h2] = weights;
    let mixed = ((base * h0)?.broadcast_add(&(generated * h1)?)?)
        .broadcast_add(&(with_norm(refined, 20.0)? * h2)?)?;
    with_norm(&mixed, norm)
}

#[cfg(test)]
mod tests {
    use any2pix_nn::Generator;
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_polar_mix_keeps_its_ends_and_its_norm() {
        let mut generator = Generator::new(5);
        let a = (generator.randn((1, 4, 6, 5), &Device::Cpu).unwrap() * 1.5).unwrap();
        let b = generator.randn((1, 4, 6, 5), &Device::Cpu).unwrap();
        let distance = |x: &Tensor, y: &Tensor| norm(&(x - y).unwrap()).unwrap();
        assert!(distance(&polar_interpolate(&a, &b, 1.0).unwrap(), &a) < 1e-4);
        assert!(distance(&polar_interpolate(&a, &b, 0.0).unwrap(), &b) < 1e-4);
        let mixed = polar_interpolate(&a, &b, 0.3).unwrap();
        let expected = 0.3 * norm(&a).unwrap() + 0.7 * norm(&b).unwrap();
        assert!((norm(&mixed).unwrap() - expected).abs() < 1e-3);
    }
}
