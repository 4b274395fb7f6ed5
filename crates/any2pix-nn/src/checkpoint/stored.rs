//! One tensor in the bytes of a file: where it lies, of which type, and how it is read.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};

use super::bytes::Bytes;
use super::error::{Fault, malformed};
use super::iq4;

/// How a file holds the numbers of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum StoredType {
    Bool,
    U8,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    F8E4M3,
    F16,
    BF16,
    F32,
    F64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::F8E4M3 => "F8_E4M3",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Bool => "BOOL",
            plain => return write!(f, "{plain:?}"),
        };
        f.write_str(name)
    }
}

impl StoredType {
    /// Numbers in a block, and bytes of a block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 => (1, 1),
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => (1, 2),
            Self::I32 | Self::U32 | Self::F32 => (1, 4),
            Self::I64 | Self::F64 => (1, 8),
            Self::Q4_0 | Self::Iq4Nl => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Iq4Xs => (256, 136),
        }
    }

    /// What candle calls it, if it is a format of blocks that candle multiplies with.
    fn blocks(self) -> Option<GgmlDType> {
        Some(match self {
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q2K => GgmlDType::Q2K,
            Self::Q3K => GgmlDType::Q3K,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
            _ => return None,
        })
    }

    /// Where a block has its scales, which are of half precision.
    fn scales(self) -> &'static [usize] {
        match self {
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q2K => &[80, 82],
            Self::Q3K => &[108],
            Self::Q6K => &[208],
            _ => &[0],
        }
    }

    /// The type that candle computes with; the narrow integers that it lacks are widened.
    fn plain(self) -> Option<DType> {
        Some(match self {
            Self::Bool | Self::U8 => DType::U8,
            Self::I8 | Self::I16 => DType::I16,
            Self::I32 => DType::I32,
            Self::U16 | Self::U32 => DType::U32,
            Self::I64 => DType::I64,
            Self::F8E4M3 => DType::F8E4M3,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
            _ => return None,
        })
    }

    /// It stands for real numbers.
    pub fn is_float(self) -> bool {
        self.plain().is_none_or(|dtype| dtype.is_float())
    }
}

/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

/// Most numbers of a tensor, whatever its file has of them.
const MAX_NUMBERS: usize = 1 << 40;

/// Most numbers of a tensor that repeats what it has stored.
const MAX_REPEATED: usize = 1 << 24;

/// How many numbers a tensor of that shape has.
fn elements(shape: &[usize]) -> std::result::Result<usize, Fault> {
    if shape.len() > MAX_RANK {
        return malformed(format!("{} dimensions, {MAX_RANK} are the most", shape.len()));
    }
    // Zeros last: a product that is too large is none even when it is multiplied by zero.
    let nonzero = shape.iter().filter(|n| **n > 0);
    match nonzero.copied().try_fold(1_usize, usize::checked_mul).filter(|n| *n <= MAX_NUMBERS) {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(count) => Ok(count),
        None => malformed(format!("a shape of {shape:?}")),
    }
}

/// A tensor that lies in the bytes of a file.
#[derive(Clone)]
pub(super) struct Stored {
    bytes: Bytes,
    start: usize,
    kind: StoredType,
    shape: Vec<usize>,
    /// In numbers; `None` when one row follows the other.
    strides: Option<Vec<usize>>,
    /// Which of the file's rows is row i, when they are in another order.
    rows: Option<Arc<[u32]>>,
}

/// Bytes of a contiguous tensor.
pub(super) fn byte_count(kind: StoredType, shape: &[usize]) -> std::result::Result<usize, Fault> {
    let (block, width) = kind.block();
    let count = elements(shape)?;
    if block > 1 && !shape.last().is_some_and(|k| k.is_multiple_of(block)) {
        return malformed(format!("rows of shape {shape:?} in blocks of {block}"));
    }
    match (count / block).checked_mul(width) {
        Some(bytes) => Ok(bytes),
        None => malformed(format!("a shape of {shape:?}")),
    }
}

impl Stored {
    /// A tensor whose rows follow each other from `start` on.
    pub(super) fn contiguous(
        bytes: &Bytes,
        start: usize,
        kind: StoredType,
        shape: Vec<usize>,
    ) -> std::result::Result<Self, Fault> {
        let length = byte_count(kind, &shape)?;
        if start.checked_add(length).is_none_or(|end| end > bytes.len()) {
            let size = bytes.len();
            return malformed(format!("{length} bytes at {start} in a file of {size} bytes"));
        }
        Ok(Self { bytes: bytes.clone(), start, kind, shape, strides: None, rows: None })
    }

    /// A view with `strides` into `count` numbers from `start` on, beginning with number `offset`.
    pub(super) fn strided(
        (bytes, start, count): (&Bytes, usize, usize),
        kind: StoredType,
        (offset, shape, strides): (usize, Vec<usize>, Vec<usize>),
    ) -> std::result::Result<Self, Fault> {
        let all = Self::contiguous(bytes, start, kind, vec![count])?;
        let wanted = elements(&shape)?;
        if strides.len() != shape.len() {
            return malformed(format!("strides {strides:?} for a shape of {shape:?}"));
        }
        let last = shape.iter().zip(&strides).try_fold(offset, |last, (n, stride)| {
            n.saturating_sub(1).checked_mul(*stride).and_then(|way| way.checked_add(last))
        });
        let inside = match last {
            Some(last) => wanted == 0 && offset <= count || last < count,
            None => false,
        };
        if !inside {
            let reason = format!("shape {shape:?} with strides {strides:?} from {offset} on");
            return malformed(format!("{reason} leaves a storage of {count} numbers"));
        }
        if wanted > count && wanted > MAX_REPEATED {
            return malformed(format!("shape {shape:?} of a storage of {count} numbers"));
        }
        let width = kind.block().1;
        let plain = wanted == 0 || is_contiguous(&shape, &strides);
        let strides = if plain { None } else { Some(strides) };
        Ok(Self { start: start + offset * width, shape, strides, ..all })
    }

    pub(super) fn kind(&self) -> StoredType {
        self.kind
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes of its numbers; a view into a larger storage counts only its own.
    pub(super) fn len(&self) -> usize {
        let (block, width) = self.kind.block();
        self.shape.iter().product::<usize>() / block * width
    }

    /// The same tensor with `order[i]` of its rows as row i.
    pub(super) fn reordered(&self, order: Arc<[u32]>) -> Self {
        let rows = match &self.rows {
            Some(rows) => order.iter().map(|i| rows[*i as usize]).collect(),
            None => order,
        };
        Self { rows: Some(rows), ..self.clone() }
    }

    /// The same tensor without its last axes, which are 1 long.
    pub(super) fn without_last_axes(&self, count: usize) -> Self {
        let left = self.shape.len().saturating_sub(count);
        let mut view = self.clone();
        view.shape.truncate(left);
        if let Some(strides) = &mut view.strides {
            strides.truncate(left);
        }
        view
    }

    /// Its numbers as the file has them, one row after the other.
    fn data(&self) -> Cow<'_, [u8]> {
        let width = self.kind.block().1;
        let data: Cow<'_, [u8]> = match &self.strides {
            None => Cow::Borrowed(&self.bytes[self.start..self.start + self.len()]),
            Some(strides) => {
                let mut gathered = Vec::with_capacity(self.len());
                let from = &self.bytes[self.start..];
                gather(from, width, (&self.shape, strides), 0, &mut gathered);
                Cow::Owned(gathered)
            }
        };
        let Some(rows) = self.rows.as_ref().filter(|rows| !rows.is_empty()) else { return data };
        let row = data.len() / rows.len();
        let mut ordered = Vec::with_capacity(data.len());
        for from in rows.iter().map(|from| *from as usize * row) {
            ordered.extend_from_slice(&data[from..from + row]);
        }
        Cow::Owned(ordered)
    }

    /// The tensor, in f32 if it is quantised; its part of the file is then forgotten.
    pub(super) fn read(&self) -> Result<Tensor> {
        let tensor = self.numbers();
        self.bytes.forget(self.start..self.start + self.len());
        tensor
    }

    fn numbers(&self) -> Result<Tensor> {
        if let Some(quantised) = self.quantised()? {
            return quantised.dequantize(&Device::Cpu);
        }
        let data = self.data();
        match self.kind {
            StoredType::I8 => {
                let wide: Vec<i16> = data.iter().map(|b| i16::from(b.cast_signed())).collect();
                Tensor::from_vec(wide, self.shape.as_slice(), &Device::Cpu)
            }
            StoredType::U16 => {
                let wide =
                    data.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])));
                Tensor::from_vec(wide.collect::<Vec<_>>(), self.shape.as_slice(), &Device::Cpu)
            }
            StoredType::Iq4Nl => {
                Tensor::from_vec(iq4::nl(&data), self.shape.as_slice(), &Device::Cpu)
            }
            StoredType::Iq4Xs => {
                Tensor::from_vec(iq4::xs(&data), self.shape.as_slice(), &Device::Cpu)
            }
            kind => match kind.plain() {
                Some(dtype) => Tensor::from_raw_buffer(&data, dtype, &self.shape, &Device::Cpu),
                None => candle_core::bail!("tensors of type {kind} cannot be read"),
            },
        }
    }

    /// The blocks as they are, if it is of a format that products are computed with.
    pub(super) fn quantised(&self) -> Result<Option<QTensor>> {
        let Some(dtype) = self.kind.blocks() else { return Ok(None) };
        let mut data = self.data();
        let mut shift = 0;
        // candle insists on blocks at even addresses; a file's need not be there.
        if !(data.as_ptr() as usize).is_multiple_of(BLOCK_ALIGNMENT) {
            let mut moved = vec![0; data.len() + BLOCK_ALIGNMENT];
            shift = moved.as_ptr().align_offset(BLOCK_ALIGNMENT).min(BLOCK_ALIGNMENT);
            moved[shift..shift + data.len()].copy_from_slice(&data);
            data = Cow::Owned(moved);
        }
        let blocks = &data[shift..shift + self.len()];
        let storage = QStorage::from_data(Cow::Borrowed(blocks), &Device::Cpu, dtype)?;
        self.bytes.forget(self.start..self.start + self.len());
        QTensor::new(storage, self.shape.as_slice()).map(Some)
    }

    /// The scales of its blocks are all finite; `true` for tensors without blocks.
    pub(super) fn has_finite_scales(&self) -> bool {
        let (block, width) = self.kind.block();
        let finite = |block: &[u8], at: usize| {
            half::f16::from_le_bytes([block[at], block[at + 1]]).is_finite()
        };
        let scales = self.kind.scales();
        block == 1
            || self.data().chunks_exact(width).all(|b| scales.iter().all(|at| finite(b, *at)))
    }
}

/// What the largest field of any block asks of its address.
const BLOCK_ALIGNMENT: usize = 4;

/// A row follows the other; dimensions of one may have any stride.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(n, stride)| {
        let fits = *n == 1 || *stride == expected;
        expected *= n;
        fits
    })
}

/// Appends what a view with strides shows, from number `at` on. Bounds were checked before.
fn gather(
    from: &[u8],
    width: usize,
    (shape, strides): (&[usize], &[usize]),
    at: usize,
    into: &mut Vec<u8>,
) {
    match (shape.split_first(), strides.split_first()) {
        (Some((n, shape)), Some((stride, strides))) => {
            for i in 0..*n {
                gather(from, width, (shape, strides), at + i * stride, into);
            }
        }
        _ => into.extend_from_slice(&from[at * width..(at + 1) * width]),
    }
}
