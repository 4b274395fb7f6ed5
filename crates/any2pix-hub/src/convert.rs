//! `convert`: files of weights of any format as safetensors, tensor by tensor.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use any2pix_nn::Checkpoint;
use any2pix_nn::checkpoint::Entry;
use candle_core::{CpuStorage, DType, Storage, Tensor};

use crate::error::{HubError, Result};
use crate::inspect::{converted_name, weight_files};
use crate::storage::{Pending, Progress, require_room};
use crate::write::{Header, safetensors};

/// Small files beside weights that are taken along.
const BESIDE: [&str; 5] = ["json", "txt", "model", "toml", "md"];
/// A larger one is no config.
const LARGEST_BESIDE: u64 = 64 << 20;

/// Writes `from`, a file of weights or an index, to the safetensors file `to`; or every such file
/// below the folder `from` to the folder `to`, with the configs beside them. Floating-point
/// numbers become `dtype`, if it is given; quantised ones f32.
pub fn convert(
    from: &Path,
    to: &Path,
    dtype: Option<DType>,
    progress: &mut dyn Progress,
) -> Result<Vec<PathBuf>> {
    if !from.is_dir() {
        convert_file(from, to, dtype, progress)?;
        return Ok(vec![to.to_path_buf()]);
    }
    let mut written = Vec::new();
    let files = weight_files(from);
    if files.is_empty() {
        return Err(HubError::malformed(from.display(), "there are no weights in it"));
    }
    for file in &files {
        let shown = file.strip_prefix(from).unwrap_or(file).to_string_lossy().replace('\\', "/");
        let target = to.join(converted_name(&shown));
        convert_file(file, &target, dtype, progress)?;
        copy_beside(file, &target)?;
        written.push(target);
    }
    Ok(written)
}

fn convert_file(
    from: &Path,
    to: &Path,
    dtype: Option<DType>,
    progress: &mut dyn Progress,
) -> Result<()> {
    if to.exists() {
        return Err(HubError::Exists { path: to.to_path_buf() });
    }
    let checkpoint = Checkpoint::open(from)?;
    let headers: Vec<Header> =
        checkpoint.entries().into_iter().map(|entry| header(entry, dtype)).collect();
    let total = headers.iter().map(Header::bytes).sum();
    require_room(to, total)?;
    progress.file(&from.display().to_string(), 0, total);
    let pending = Pending::create(to)?;
    let mut out = BufWriter::with_capacity(1 << 20, pending.file()?);
    let mut fill = |header: &Header, out: &mut dyn Write| {
        if progress.is_cancelled() {
            return Err(HubError::Stopped);
        }
        let unreadable = |reason: String| {
            HubError::malformed(from.display(), format!("`{}`: {reason}", header.name))
        };
        let tensor = checkpoint
            .tensor(&header.name)
            .ok_or_else(|| unreadable("its numbers cannot be read".into()))?;
        let tensor = tensor.to_dtype(header.dtype).map_err(|e| unreadable(e.to_string()))?;
        let bytes = little_endian(&tensor).map_err(|e| unreadable(e.to_string()))?;
        out.write_all(&bytes).map_err(HubError::io(to))?;
        progress.advance(header.bytes());
        Ok(())
    };
    safetensors::write(&to.display().to_string(), &mut out, &headers, &mut fill)?;
    out.into_inner().map_err(|e| HubError::io(to)(e.into_error()))?;
    pending.finish()
}

/// How a stored tensor is written: types that safetensors or candle lack are widened.
fn header(entry: Entry, dtype: Option<DType>) -> Header {
    let own = match entry.dtype.as_str() {
        "BOOL" | "U8" => DType::U8,
        "I8" | "I16" => DType::I16,
        "I32" => DType::I32,
        "U16" | "U32" => DType::U32,
        "I64" => DType::I64,
        "F8_E4M3" => DType::F8E4M3,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F64" => DType::F64,
        _ => DType::F32,
    };
    let dtype = dtype.filter(|_| own.is_float()).unwrap_or(own);
    Header { name: entry.name, shape: entry.shape, dtype }
}

/// A tensor's numbers as bytes, row by row.
fn little_endian(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        candle_core::bail!("is not in memory as one piece")
    };
    macro_rules! bytes {
        ($values:expr) => {
            $values[start..end].iter().flat_map(|value| value.to_le_bytes()).collect()
        };
    }
    Ok(match storage {
        CpuStorage::U8(values) => values[start..end].to_vec(),
        CpuStorage::U32(values) => bytes!(values),
        CpuStorage::I16(values) => bytes!(values),
        CpuStorage::I32(values) => bytes!(values),
        CpuStorage::I64(values) => bytes!(values),
        CpuStorage::BF16(values) => bytes!(values),
        CpuStorage::F16(values) => bytes!(values),
        CpuStorage::F32(values) => bytes!(values),
        CpuStorage::F64(values) => bytes!(values),
        CpuStorage::F8E4M3(values) => values[start..end].iter().map(|v| v.to_bits()).collect(),
        _ => candle_core::bail!("is of a type that safetensors has no place for"),
    })
}

/// Copies the configs and tokenizers beside a converted file, where there are none yet.
fn copy_beside(from: &Path, to: &Path) -> Result<()> {
    let (Some(from), Some(to)) = (from.parent(), to.parent()) else { return Ok(()) };
    for entry in std::fs::read_dir(from).map_err(HubError::io(from))?.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let index = path.to_string_lossy().ends_with(".index.json");
        let known = path.extension().is_some_and(|e| BESIDE.iter().any(|known| e == *known));
        let small = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() < LARGEST_BESIDE);
        if known && small && !index && !target.exists() {
            std::fs::copy(&path, &target).map_err(HubError::io(&target))?;
        }
    }
    Ok(())
}
