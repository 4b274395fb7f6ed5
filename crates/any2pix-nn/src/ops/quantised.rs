//! Linear layers whose weights have four to eight bits, in the formats of GGUF.

use std::borrow::Cow;
use std::sync::Arc;

use any2pix_kernels::quantised::{Q4_0, Q4K, gemv_q4_0, gemv_q4_k, grouped};
use any2pix_kernels::{Dense, Level, Matrix, Operand, Output, Size, gemm};
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};
use rayon::prelude::*;

use super::{cpu, precision};

/// A format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantisation {
    /// Four bits, a scale for 32 weights.
    Q4_0,
    /// Eight bits, a scale for 32 weights.
    Q8_0,
    /// Four bits, scales and minima of six bits in blocks of 256.
    Q4K,
    /// Six bits, scales of eight bits in blocks of 256.
    Q6K,
}

impl Quantisation {
    /// What candle calls it.
    pub fn dtype(self) -> GgmlDType {
        match self {
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }

    /// Bytes of so many weights, a multiple of a block.
    pub fn bytes(self, weights: usize) -> usize {
        let dtype = self.dtype();
        weights / dtype.block_size() * dtype.type_size()
    }

    /// Weights of a row come in multiples of this.
    pub fn block(self) -> usize {
        self.dtype().block_size()
    }
}

/// Weights of one linear layer.
#[derive(Clone, Debug)]
pub struct Quantised {
    kind: Kind,
    out_features: usize,
    in_features: usize,
}

/// Four bits are ours; candle multiplies the other formats on the thread that asks: the rows of
/// the weights are cut into parts, so that all threads ask.
#[derive(Clone, Debug)]
enum Kind {
    /// As [`grouped`] has them.
    Q4_0(Arc<Vec<u8>>),
    Q4K(Arc<Vec<u8>>),
    Candle(Vec<QMatMul>),
}

/// Parts of a layer's weights.
const PARTS: usize = 8;

/// Cuts rows of weights into parts, the same for any number of threads.
fn parts(weight: &QTensor) -> Result<Vec<QMatMul>> {
    let (rows, k) = weight.shape().dims2()?;
    let (dtype, data) = (weight.dtype(), weight.data()?);
    let row_bytes = k / dtype.block_size() * dtype.type_size();
    let part = rows.div_ceil(PARTS).max(1);
    let cut = |bytes: &[u8]| {
        let storage = QStorage::from_data(Cow::Owned(bytes.to_vec()), &Device::Cpu, dtype)?;
        QMatMul::from_arc(Arc::new(QTensor::new(storage, (bytes.len() / row_bytes, k))?))
    };
    data.chunks(part * row_bytes).map(cut).collect()
}

impl Quantised {
    /// Quantises `weight` `(out, in)`; an error if `in` is no multiple of the format's block.
    pub fn of(weight: &Tensor, format: Quantisation) -> Result<Self> {
        let (_, k) = weight.dims2()?;
        if !k.is_multiple_of(format.block()) {
            candle_core::bail!(
                "rows of {k} weights do not fit blocks of {} ({format:?}); q8_0 and q4_0 have 32",
                format.block()
            )
        }
        let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        Self::new(QTensor::quantize(&weight, format.dtype())?)
    }

    /// Weights that are quantised already, `(out, in)`, as a GGUF file has them.
    pub fn new(weight: QTensor) -> Result<Self> {
        let (out_features, in_features) = weight.shape().dims2()?;
        let kind = match weight.dtype() {
            GgmlDType::Q4_0 => Kind::Q4_0(Arc::new(grouped(&weight.data()?, in_features))),
            // Other processors have kernels of candle's, and none of ours.
            GgmlDType::Q4K if Level::detected() >= Level::Avx2 => {
                Kind::Q4K(Arc::new(weight.data()?.into_owned()))
            }
            _ => Kind::Candle(parts(&weight)?),
        };
        Ok(Self { kind, out_features, in_features })
    }

    /// `x · weightᵀ`.
    ///
    /// # Shapes
    /// `x` `(.., in)` → `(.., out)`.
    pub fn linear(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let engine = precision::engine();
        match &self.kind {
            Kind::Q4_0(data) => {
                let weight = Q4_0::new(data, self.in_features);
                self.product(&x, &weight, |x, y| gemv_q4_0(engine, &weight, x, y))
            }
            Kind::Q4K(data) => {
                let weight = Q4K::new(data, self.in_features);
                self.product(&x, &weight, |x, y| gemv_q4_k(engine, &weight, x, y))
            }
            Kind::Candle(parts) => {
                let part = |part: &QMatMul| part.forward(&x);
                let products = parts.par_iter().map(part).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&products, D::Minus1)
            }
        }
    }

    /// One row by `gemv`, many as a product of matrices.
    fn product(
        &self,
        x: &Tensor,
        weight: &impl Matrix,
        gemv: impl Fn(&[f32], &mut [f32]),
    ) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let (n, k) = (self.out_features, self.in_features);
        let Some(last) = shape.last_mut().filter(|last| **last == k) else {
            candle_core::bail!("weights ({n}, {k}) meet a tensor of shape {:?}", x.shape())
        };
        *last = n;
        let engine = precision::engine();
        cpu::try_tensor(shape, |y| {
            cpu::with_slice(x, |x| match x.len() / k.max(1) {
                1 => gemv(x, y),
                m => {
                    let output = Output { data: y, stride: n, bias: None, accumulate: false };
                    let x = Dense::new(x, k);
                    let (x, weight) = (Operand::rows_along_k(&x), Operand::rows_along_k(weight));
                    gemm(engine, Size { m, n, k }, x, weight, output);
                }
            })
        })
    }
}
