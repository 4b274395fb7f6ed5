//! Tensors as plain slices, for passes that write in place.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

/// Calls `f` with the values of a contiguous f32 tensor on the CPU.
pub(crate) fn with_slice<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            let start = layout.start_offset();
            Ok(f(&values[start..start + tensor.elem_count()]))
        }
        _ => bail!("training state must be f32 on the CPU"),
    }
}

/// Calls `f` with the values of a contiguous f32 tensor on the CPU, to change them.
pub(crate) fn with_slice_mut(tensor: &Tensor, f: impl FnOnce(&mut [f32])) -> Result<()> {
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
