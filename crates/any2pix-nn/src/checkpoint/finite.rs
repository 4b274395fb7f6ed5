//! Whether all numbers of a tensor are finite.

use candle_core::{CpuStorage, Device, Result, Storage, Tensor};

/// Some number has all bits of the exponent set, which infinities and NaN have and no other.
/// Without a branch for each number, the scan is as fast as memory.
fn any_special<T: Copy>(values: &[T], special: impl Fn(T) -> bool) -> bool {
    values.chunks(4096).any(|chunk| chunk.iter().fold(false, |any, v| any | special(*v)))
}

/// No number of a tensor is infinite or NaN; whole numbers never are.
///
/// # Shapes
/// Any.
pub(super) fn is_finite(tensor: &Tensor) -> Result<bool> {
    if !tensor.dtype().is_float() {
        return Ok(true);
    }
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        return Ok(true);
    };
    let half = |bits: u16| bits & 0x7c00 == 0x7c00;
    let brain = |bits: u16| bits & 0x7f80 == 0x7f80;
    Ok(!match storage {
        CpuStorage::F16(v) => any_special(&v[start..end], |v| half(v.to_bits())),
        CpuStorage::BF16(v) => any_special(&v[start..end], |v| brain(v.to_bits())),
        CpuStorage::F32(v) => {
            any_special(&v[start..end], |v| v.to_bits() & 0x7f80_0000 == 0x7f80_0000)
        }
        CpuStorage::F64(v) => any_special(&v[start..end], |v| !v.is_finite()),
        CpuStorage::F8E4M3(v) => any_special(&v[start..end], |v| v.is_nan()),
        _ => false,
    })
}
