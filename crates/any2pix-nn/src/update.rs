//! Passes over weights in training: the step of AdamW, moving averages, norms; and tensors as
//! plain slices for them.

use std::cell::RefCell;

use any2pix_kernels::{Engine, Precision};
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};

pub use any2pix_kernels::AdamW as AdamWStep;

/// Calls `work` with the values of an f32 tensor on the CPU.
pub fn with_slice<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
    crate::ops::with_slice(tensor, work)
}

fn engine() -> Engine {
    Engine::current(Precision::F32)
}

/// One step of AdamW on `weight` and the running means of gradients and of their squares.
pub fn adamw_step(
    options: &AdamWStep,
    weight: &mut [f32],
    gradient: &[f32],
    means: (&mut [f32], &mut [f32]),
) {
    any2pix_kernels::adamw_step(engine(), options, weight, gradient, means);
}

/// `average = decay · average + (1 - decay) · value`.
pub fn ema(decay: f32, average: &mut [f32], value: &[f32]) {
    any2pix_kernels::ema(engine(), decay, average, value);
}

/// `Σ x²`, the same on any number of threads.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    any2pix_kernels::sum_of_squares(engine(), x)
}

/// Calls `f` with the values of a contiguous f32 tensor on the CPU, to change them.
pub fn with_slice_mut(tensor: &Tensor, f: impl FnOnce(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&WithSlice(RefCell::new(Some(f))))
}

struct WithSlice<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for WithSlice<F> {
    fn name(&self) -> &'static str {
        "with_slice_mut"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some((start, end)), CpuStorage::F32(values)) = (layout.contiguous_offsets(), storage)
        else {
            bail!("training state must be contiguous f32 on the CPU")
        };
        if let Some(f) = self.0.borrow_mut().take() {
            f(&mut values[start..end]);
        }
        Ok(())
    }
}
