//! Files of weights written tensor by tensor: nothing is held but what is being written.

pub(crate) mod pickle;
pub(crate) mod safetensors;
pub(crate) mod torch;

use std::io::Write;

use candle_core::DType;

use crate::error::Result;
use crate::table::elements;

/// A tensor that is going to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Type of its numbers.
    pub dtype: DType,
}

impl Header {
    /// How many bytes it takes.
    pub fn bytes(&self) -> u64 {
        elements(&self.shape) * self.dtype.size_in_bytes() as u64
    }
}

/// Writes the bytes of a tensor, little-endian and in row-major order.
pub(crate) type Fill<'a> = &'a mut dyn FnMut(&Header, &mut dyn Write) -> Result<()>;

/// Passes bytes on and counts them.
pub(crate) struct Counting<'a> {
    pub(crate) inner: &'a mut dyn Write,
    pub(crate) written: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
