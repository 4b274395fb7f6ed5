//! From candle's tensors to plain slices and back.

use any2pix_kernels::buffer::zeros;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor};

/// Whether all tensors are f32 on the CPU, so that the kernels can take them.
pub(super) fn takes(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu))
}

/// The elements of a contiguous tensor.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a kernel was given a tensor that is not contiguous: {layout:?}")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Runs `work` on the elements of a tensor, copied first if they are not contiguous.
pub(crate) fn with_slice<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(work(slice(storage, layout)?)),
        _ => candle_core::bail!("a CPU kernel was given a tensor of another device"),
    }
}

/// [`with_slice`] on two tensors.
pub(super) fn with_slices2<R>(
    (a, b): (&Tensor, &Tensor),
    work: impl FnOnce(&[f32], &[f32]) -> R,
) -> Result<R> {
    with_slice(a, |a| with_slice(b, |b| work(a, b)))?
}

/// [`with_slice`] on three tensors.
pub(super) fn with_slices3<R>(
    (a, b, c): (&Tensor, &Tensor, &Tensor),
    work: impl FnOnce(&[f32], &[f32], &[f32]) -> R,
) -> Result<R> {
    with_slices2((a, b), |a, b| with_slice(c, |c| work(a, b, c)))?
}

/// A CPU tensor of `shape` that `fill` writes.
pub(super) fn try_tensor(
    shape: impl Into<Shape>,
    fill: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<Tensor> {
    let shape = shape.into();
    let mut values = zeros(shape.elem_count());
    fill(&mut values)?;
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The result of a forward pass, for candle.
pub(super) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}
