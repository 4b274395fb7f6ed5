//! Random weights made in memory, in the sizes of the published models.

use any2pix_nn::Generator;
use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

/// Numbers that are drawn; larger tensors repeat them.
const DRAWN: usize = 1 << 20;

/// Gives every tensor that a model asks for, scaled so that activations keep their size.
struct RandomWeights(Vec<f32>);

/// The builder of a model of random weights.
pub(crate) fn random() -> VarBuilder<'static> {
    let mut drawn = vec![0.0; DRAWN];
    let mut generator = Generator::new(1).fork("weights");
    drawn.iter_mut().for_each(|value| *value = generator.uniform_in(-1.0, 1.0));
    VarBuilder::from_backend(Box::new(RandomWeights(drawn)), DType::F32, Device::Cpu)
}

impl SimpleBackend for RandomWeights {
    fn get(&self, s: Shape, _: &str, init: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        if let (Init::Const(value), 1) = (init, s.rank()) {
            return Tensor::full(value as f32, s, dev)?.to_dtype(dtype);
        }
        let fan_in: usize = s.dims().iter().skip(1).product();
        let bound = (3.0 / fan_in.max(1) as f32).sqrt();
        let values = self.0.iter().cycle().take(s.elem_count()).map(|value| value * bound);
        Tensor::from_vec(values.collect(), s, dev)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
