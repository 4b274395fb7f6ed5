//! `Ema`: the exponential moving average of the weights, with warm-up; what is used and shipped.

use any2pix_nn::Parameters;
use any2pix_nn::update::{self, with_slice, with_slice_mut};
use candle_core::{Device, Result, Tensor, Var};
use rayon::prelude::*;

struct Shadow {
    name: String,
    var: Var,
    values: Vec<f32>,
}

/// The averaged weights. The decay after `n` updates is `min(decay, (1 + n) / (10 + n))`, so that
/// the average follows quickly at first.
pub struct Ema {
    decay: f64,
    updates: u64,
    shadows: Vec<Shadow>,
}

impl Ema {
    /// Begins at the weights as they are.
    pub fn new(parameters: &Parameters, decay: f64) -> Result<Self> {
        let shadow = |(name, var): (String, Var)| {
            let values = with_slice(&var, <[f32]>::to_vec)?;
            Ok(Shadow { name, var, values })
        };
        let shadows = parameters.named().into_iter().map(shadow).collect::<Result<_>>()?;
        Ok(Self { decay, updates: 0, shadows })
    }

    /// Moves the average towards the weights.
    pub fn update(&mut self) -> Result<()> {
        let count = self.updates as f64;
        let decay = self.decay.min((1.0 + count) / (10.0 + count)) as f32;
        self.updates += 1;
        self.shadows.par_iter_mut().try_for_each(|shadow| {
            let Shadow { var, values, .. } = shadow;
            with_slice(var, |now| update::ema(decay, values, now))
        })
    }

    /// Exchanges the weights and their average; a second call puts both back.
    pub fn swap(&mut self) -> Result<()> {
        self.shadows.par_iter_mut().try_for_each(|shadow| {
            let Shadow { var, values, .. } = shadow;
            with_slice_mut(var, |now| now.swap_with_slice(values))
        })
    }

    /// The average as named tensors: `<prefix><name>`.
    pub fn state(&self, prefix: &str) -> Result<Vec<(String, Tensor)>> {
        let tensor = |shadow: &Shadow| {
            let values = Tensor::from_slice(&shadow.values, shadow.var.shape(), &Device::Cpu)?;
            Ok((format!("{prefix}{}", shadow.name), values))
        };
        self.shadows.iter().map(tensor).collect()
    }

    /// Puts back what [`Ema::state`] gave; `get` finds a tensor by its name.
    pub fn restore(
        &mut self,
        prefix: &str,
        updates: u64,
        get: impl Fn(&str) -> Result<Tensor>,
    ) -> Result<()> {
        for shadow in &mut self.shadows {
            let tensor = get(&format!("{prefix}{}", shadow.name))?;
            shadow.values = tensor.flatten_all()?.to_vec1()?;
        }
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::Init;

    #[test]
    fn follows_with_warm_up_and_swaps_both_ways() -> Result<()> {
        let parameters = Parameters::new(0);
        let weight =
            parameters.builder(&Device::Cpu).get_with_hints(2, "weight", Init::Const(0.0))?;
        let mut ema = Ema::new(&parameters, 0.5)?;
        with_slice_mut(&weight, |w| w.fill(1.0))?;
        ema.update()?; // decay 1/10
        ema.swap()?;
        assert!((weight.to_vec1::<f32>()?[0] - 0.9).abs() < 1e-6);
        ema.swap()?;
        assert_eq!(weight.to_vec1::<f32>()?, vec![1.0, 1.0]);
        for _ in 0..20 {
            ema.update()?; // decay is 0.5 in the end
        }
        ema.swap()?;
        assert!((weight.to_vec1::<f32>()?[0] - 1.0).abs() < 1e-5);
        Ok(())
    }
}
