//! `AttentionControl`: items of a batch that attend as other items do.

use candle_core::{Result, Tensor};

/// Whose attention maps each item of a batch has.
#[derive(Clone, Debug)]
pub(super) struct Maps(Tensor);

impl Maps {
    /// Queries or keys such that each item's map becomes that of another.
    ///
    /// # Shapes
    /// `(b, n, c)` → the same.
    pub(super) fn of(&self, queries_or_keys: &Tensor) -> Result<Tensor> {
        queries_or_keys.contiguous()?.index_select(&self.0, 0)
    }
}

/// Replaces attention maps: an item looks where another one looks, and sees its own values there.
///
/// The map of an item follows from its queries and keys alone, so these are what is replaced;
/// nothing is computed that would not be computed without.
#[derive(Clone, Debug)]
pub struct AttentionControl {
    maps: Maps,
    cross_attention: bool,
}

impl AttentionControl {
    /// Item `i` attends as item `rows[i]` does, in every self-attention of a UNet, and in every
    /// cross-attention to text if that is asked for, too.
    pub fn new(rows: &[u32], cross_attention: bool) -> Result<Self> {
        let maps = Maps(Tensor::new(rows, &candle_core::Device::Cpu)?);
        Ok(Self { maps, cross_attention })
    }

    pub(super) fn self_attention(&self) -> &Maps {
        &self.maps
    }

    pub(super) fn cross_attention(&self) -> Option<&Maps> {
        self.cross_attention.then_some(&self.maps)
    }
}
