//! `Parameters`: trainable tensors, initialised from the seed and their own names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::Generator;

type Vars = BTreeMap<String, Var>;

/// A set of trainable tensors that a model's `load` fills through [`Parameters::builder`].
///
/// Each tensor is drawn from a generator forked by the tensor's name, so that its first value
/// depends on the seed and the name alone, not on the order in which a model is built.
#[derive(Clone)]
pub struct Parameters {
    generator: Generator,
    vars: Arc<Mutex<Vars>>,
}

impl Parameters {
    /// An empty set; tensors appear as a model asks for them.
    pub fn new(seed: u64) -> Self {
        Self { generator: Generator::new(seed), vars: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vars> {
        // A poisoned map is still whole: every insertion is a single call.
        self.vars.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The builder that a model loads from; asking for a new name creates the tensor.
    pub fn builder(&self, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device.clone())
    }

    /// All tensors with their names, in the order of the names.
    pub fn named(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// How many numbers there are in all.
    pub fn count(&self) -> usize {
        self.lock().values().map(|var| var.elem_count()).sum()
    }

    /// Puts values into tensors that exist; names that do not exist are returned.
    pub fn assign(&self, tensors: &HashMap<String, Tensor>) -> Result<Vec<String>> {
        let vars = self.lock();
        let mut unknown = Vec::new();
        for (name, tensor) in tensors.iter().collect::<BTreeMap<_, _>>() {
            match vars.get(name) {
                Some(var) => var.set(&tensor.to_dtype(var.dtype())?.to_device(var.device())?)?,
                None => unknown.push(name.clone()),
            }
        }
        Ok(unknown)
    }

    /// The values as a map that `candle_core::safetensors::save` takes.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// Writes all values, in f32, to a safetensors file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        candle_core::safetensors::save(&self.tensors(), path)
    }

    fn draw(&self, shape: &Shape, name: &str, init: Init, device: &Device) -> Result<Tensor> {
        let mut generator = self.generator.fork(name);
        match init {
            Init::Const(value) => Tensor::full(value as f32, shape.clone(), device),
            Init::Randn { mean, stdev } => {
                generator.randn(shape.clone(), device)?.affine(stdev, mean)
            }
            Init::Uniform { lo, up } => generator.rand(lo as f32, up as f32, shape.clone(), device),
            Init::Kaiming { dist, fan, non_linearity } => {
                let fan = fan.for_shape(shape);
                let std = non_linearity.gain() / (fan as f64).sqrt();
                match dist {
                    candle_nn::init::NormalOrUniform::Uniform => {
                        let bound = (3f64.sqrt() * std) as f32;
                        generator.rand(-bound, bound, shape.clone(), device)
                    }
                    candle_nn::init::NormalOrUniform::Normal => {
                        generator.randn(shape.clone(), device)?.affine(std, 0.0)
                    }
                }
            }
        }
    }
}

impl SimpleBackend for Parameters {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        let mut vars = self.lock();
        if let Some(var) = vars.get(name) {
            if var.shape() != &s {
                candle_core::bail!("{name}: shape {:?} was asked for as {s:?}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        let var = Var::from_tensor(&self.draw(&s, name, h, dev)?.to_dtype(dtype)?)?;
        let tensor = var.as_tensor().clone();
        vars.insert(name.to_string(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _dtype: DType, _dev: &Device) -> Result<Tensor> {
        match self.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("{name}: not created yet, and no shape was given"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}
