//! LPIPS: how differently AlexNet sees two pictures, place by place, as Zhang et al. weigh it
//! (`lpips` 0.1, `net="alex"`).

use candle_core::{D, Result, Tensor};
use candle_nn::init::ONE;
use candle_nn::{Conv2d, Conv2dConfig, Module, VarBuilder};
use serde::Deserialize;

/// Widths of the five layers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LpipsConfig {
    /// 64, 192, 384, 256, 256 as published.
    pub channels: [usize; 5],
}

impl Default for LpipsConfig {
    fn default() -> Self {
        Self { channels: [64, 192, 384, 256, 256] }
    }
}

/// torchvision's AlexNet up to its last convolution: index, kernel, stride, padding, and whether
/// a pool of three by two comes before.
const LAYERS: [(usize, usize, usize, usize, bool); 5] = [
    (0, 11, 4, 2, false),
    (3, 5, 1, 2, true),
    (6, 3, 1, 1, true),
    (8, 3, 1, 1, false),
    (10, 3, 1, 1, false),
];

/// Tensors of torchvision's file that are not read: the layers that name what is seen.
pub const IGNORED: &[&str] = &["classifier."];
/// The smallest side for which every layer has a pixel.
pub const LEAST_SIDE: usize = 31;
/// What the authors take from a picture of -1 to 1, and divide it by.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
const EPSILON: f64 = 1e-10;

/// The network and the weights of its layers' differences.
#[derive(Clone, Debug)]
pub struct Lpips {
    convolutions: Vec<Conv2d>,
    weights: Vec<Tensor>,
}

impl Lpips {
    /// `network` under torchvision's names (`features.0.weight`, …), `linear` under the authors'
    /// (`lin0.model.1.weight`, …).
    pub fn load(network: VarBuilder, linear: VarBuilder, config: &LpipsConfig) -> Result<Self> {
        let (mut convolutions, mut weights) = (Vec::new(), Vec::new());
        let mut width = 3;
        for (layer, (index, kernel, stride, padding, _)) in LAYERS.into_iter().enumerate() {
            let next = config.channels[layer];
            let shape = Conv2dConfig { stride, padding, ..Conv2dConfig::default() };
            let vb = network.pp(format!("features.{index}"));
            convolutions.push(candle_nn::conv2d(width, next, kernel, shape, vb)?);
            let name = format!("lin{layer}.model.1.weight");
            weights.push(linear.get_with_hints((1, next, 1, 1), &name, ONE)?);
            width = next;
        }
        Ok(Self { convolutions, weights })
    }

    /// Each layer's features, every place of length 1.
    fn features(&self, image: &Tensor) -> Result<Vec<Tensor>> {
        let channels =
            |values: [f32; 3]| Tensor::new(&values, image.device())?.reshape((1, 3, 1, 1));
        let mut x = image.broadcast_sub(&channels(SHIFT)?)?.broadcast_div(&channels(SCALE)?)?;
        let mut features = Vec::new();
        for (convolution, (.., is_pooled)) in self.convolutions.iter().zip(LAYERS) {
            if is_pooled {
                x = x.max_pool2d_with_stride(3, 2)?;
            }
            x = convolution.forward(&x)?.relu()?;
            let length = (x.sqr()?.sum_keepdim(1)?.sqrt()? + EPSILON)?;
            features.push(x.broadcast_div(&length)?);
        }
        Ok(features)
    }

    /// The difference at every place of each layer; LPIPS is the sum of their means.
    ///
    /// # Shapes
    /// `a`, `b` `(1, 3, h, w)`, -1 to 1, sides from [`LEAST_SIDE`] → five `(h', w')`.
    pub fn differences(&self, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
        let (a, b) = (self.features(a)?, self.features(b)?);
        let pairs = a.iter().zip(&b).zip(&self.weights);
        pairs
            .map(|((a, b), weight)| {
                let weighed = (a - b)?.sqr()?.broadcast_mul(weight)?;
                weighed.sum(1)?.squeeze(0)
            })
            .collect()
    }

    /// # Shapes
    /// As [`Self::differences`] takes them.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<f64> {
        let mut sum = 0.0;
        for layer in self.differences(a, b)? {
            sum += f64::from(layer.flatten_all()?.mean(D::Minus1)?.to_scalar::<f32>()?);
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    fn wave(shape: &[usize], step: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i % 9973) as f32 * step).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn model() -> Lpips {
        let config = LpipsConfig { channels: [4, 6, 8, 6, 5] };
        let mut tensors = HashMap::new();
        let mut width = 3;
        for (layer, (index, kernel, ..)) in LAYERS.into_iter().enumerate() {
            let next = config.channels[layer];
            let step = 0.7 + 0.1 * layer as f32;
            let shape = [next, width, kernel, kernel];
            tensors.insert(format!("features.{index}.weight"), (wave(&shape, step) * 0.2).unwrap());
            tensors.insert(format!("features.{index}.bias"), (wave(&[next], 1.3) * 0.1).unwrap());
            let linear = wave(&[1, next, 1, 1], 0.9).abs().unwrap();
            tensors.insert(format!("lin{layer}.model.1.weight"), linear);
            width = next;
        }
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Lpips::load(vb.clone(), vb, &config).unwrap()
    }

    /// The numbers are an independent implementation's: convolutions in NumPy, the same waves.
    #[test]
    fn agrees_with_another_implementation_and_is_nought_for_the_same_picture() {
        let model = model();
        let (a, b) = (wave(&[1, 3, 40, 52], 0.011), wave(&[1, 3, 40, 52], 0.013));
        assert_eq!(model.distance(&a, &a).unwrap(), 0.0);
        let found = model.distance(&a, &b).unwrap();
        assert!((found - 0.481_740_504).abs() < 1e-5, "{found}");
        let least = wave(&[1, 3, LEAST_SIDE, LEAST_SIDE], 0.2);
        assert_eq!(model.differences(&least, &least).unwrap()[4].dims(), [1, 1]);
    }
}
