//! `AdamW` over named parameters: one pass a tensor, clipping by the global norm, savable state.

use any2pix_nn::Parameters;
use any2pix_nn::update::{AdamWStep, adamw_step, sum_of_squares, with_slice, with_slice_mut};
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use rayon::prelude::*;

/// The optimiser's numbers.
#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings {
    /// Decay of the two moments.
    pub betas: (f64, f64),
    /// Keeps the quotient finite.
    pub epsilon: f64,
    /// Decoupled weight decay; tensors of one dimension are spared.
    pub weight_decay: f64,
    /// The highest global gradient norm; 0 turns clipping off.
    pub clip_norm: f64,
}

struct Slot {
    name: String,
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// Adam with decoupled weight decay; what it did to a tensor depends on no thread count.
pub struct AdamW {
    settings: AdamWSettings,
    slots: Vec<Slot>,
    steps: u64,
}

impl AdamW {
    /// Moments at zero for every tensor there is.
    pub fn new(parameters: &Parameters, settings: AdamWSettings) -> Self {
        let slots = parameters.named().into_iter().map(|(name, var)| {
            let zeros = vec![0f32; var.elem_count()];
            Slot { name, var, first: zeros.clone(), second: zeros }
        });
        Self { settings, slots: slots.collect(), steps: 0 }
    }

    /// One step; returns the global gradient norm before clipping.
    ///
    /// A norm that is not finite changes nothing; the caller decides what then. Tensors without
    /// a gradient stay.
    pub fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<f64> {
        let squares: Vec<f64> = self
            .slots
            .par_iter()
            .map(|slot| match gradients.get(slot.var.as_tensor()) {
                Some(gradient) => with_slice(gradient, sum_of_squares),
                None => Ok(0.0),
            })
            .collect::<Result<_>>()?;
        let norm = squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let AdamWSettings { betas: (beta1, beta2), epsilon, weight_decay, clip_norm } =
            self.settings;
        let clip = if clip_norm > 0.0 && norm > clip_norm { clip_norm / norm } else { 1.0 };
        let options = AdamWStep {
            rate: learning_rate as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: epsilon as f32,
            decay: weight_decay as f32,
            gradient_scale: clip as f32,
            step: u32::try_from(self.steps).unwrap_or(u32::MAX),
        };
        self.slots.par_iter_mut().try_for_each(|slot| {
            let Slot { var, first, second, .. } = slot;
            let Some(gradient) = gradients.get(var.as_tensor()) else { return Ok(()) };
            let decay = if var.rank() <= 1 { 0.0 } else { options.decay };
            let options = AdamWStep { decay, ..options };
            with_slice(gradient, |gradient| {
                with_slice_mut(var, |weight| {
                    adamw_step(&options, weight, gradient, (&mut first[..], &mut second[..]));
                })
            })?
        })?;
        Ok(norm)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments as named tensors: `<prefix>first.<name>` and `<prefix>second.<name>`.
    pub fn state(&self, prefix: &str) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::with_capacity(2 * self.slots.len());
        for slot in &self.slots {
            for (kind, values) in [("first", &slot.first), ("second", &slot.second)] {
                let tensor = Tensor::from_slice(values, slot.var.shape(), &Device::Cpu)?;
                state.push((format!("{prefix}{kind}.{}", slot.name), tensor));
            }
        }
        Ok(state)
    }

    /// Puts back what [`AdamW::state`] gave; `get` finds a tensor by its name.
    pub fn restore(
        &mut self,
        prefix: &str,
        steps: u64,
        get: impl Fn(&str) -> Result<Tensor>,
    ) -> Result<()> {
        for slot in &mut self.slots {
            for (kind, values) in [("first", &mut slot.first), ("second", &mut slot.second)] {
                let tensor = get(&format!("{prefix}{kind}.{}", slot.name))?;
                *values = tensor.flatten_all()?.to_vec1()?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::Init;

    /// torch 2 `AdamW(lr=0.1, betas=(0.9, 0.99), weight_decay=0.1)` by hand, in f64.
    fn reference(mut p: f64, gradient: impl Fn(f64) -> f64, steps: i32, decay: f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for t in 1..=steps {
            let g = gradient(p);
            p *= 1.0 - 0.1 * decay;
            m = 0.9 * m + 0.1 * g;
            v = 0.99 * v + 0.01 * g * g;
            let (mh, vh): (f64, f64) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.99f64.powi(t)));
            p -= 0.1 * mh / (vh.sqrt() + 1e-8);
        }
        p
    }

    fn settings(clip_norm: f64) -> AdamWSettings {
        AdamWSettings { betas: (0.9, 0.99), epsilon: 1e-8, weight_decay: 0.1, clip_norm }
    }

    #[test]
    fn follows_the_formula_and_spares_vectors_from_decay() -> Result<()> {
        let parameters = Parameters::new(0);
        let vb = parameters.builder(&Device::Cpu);
        let matrix = vb.get_with_hints((1, 2), "matrix", Init::Const(3.0))?;
        let vector = vb.get_with_hints(2, "vector", Init::Const(3.0))?;
        let mut adam = AdamW::new(&parameters, settings(0.0));
        for _ in 0..20 {
            let loss = (matrix.sqr()?.sum_all()? + vector.sqr()?.sum_all()?)?;
            adam.step(&loss.backward()?, 0.1)?;
        }
        let (matrix, vector) = (matrix.flatten_all()?.to_vec1::<f32>()?, vector.to_vec1::<f32>()?);
        let expected = (reference(3.0, |p| 2.0 * p, 20, 0.1), reference(3.0, |p| 2.0 * p, 20, 0.0));
        assert!((f64::from(matrix[1]) - expected.0).abs() < 1e-4, "{matrix:?} {expected:?}");
        assert!((f64::from(vector[1]) - expected.1).abs() < 1e-4, "{vector:?} {expected:?}");
        Ok(())
    }

    #[test]
    fn reports_the_norm_and_clips_to_it() -> Result<()> {
        let parameters = Parameters::new(0);
        let vb = parameters.builder(&Device::Cpu);
        let p = vb.get_with_hints(2, "p", Init::Const(0.0))?;
        let mut adam = AdamW::new(&parameters, settings(1.0));
        let pull = Tensor::new(&[3f32, 4.0], &Device::Cpu)?;
        let norm = adam.step(&(&p * &pull)?.sum_all()?.backward()?, 0.1)?;
        assert!((norm - 5.0).abs() < 1e-6);
        let state = adam.state("")?;
        let first = state[0].1.to_vec1::<f32>()?;
        assert!((first[0] - 0.1 * 0.6).abs() < 1e-6 && (first[1] - 0.1 * 0.8).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() -> Result<()> {
        let parameters = Parameters::new(0);
        let vb = parameters.builder(&Device::Cpu);
        let p = vb.get_with_hints(2, "p", Init::Const(1.0))?;
        let mut adam = AdamW::new(&parameters, settings(1.0));
        let loss = (&p * f64::INFINITY)?.sum_all()?;
        assert!(!adam.step(&loss.backward()?, 0.1)?.is_finite());
        assert_eq!((p.to_vec1::<f32>()?, adam.steps()), (vec![1.0, 1.0], 0));
        Ok(())
    }
}
