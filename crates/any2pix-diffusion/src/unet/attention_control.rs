//! `AttentionControl`: items of a batch that attend as other items do; and what was attended to.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Result, Tensor};

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

/// Queries and keys of a cross-attention to text.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    /// `(b, n, c)`, positions of the feature map.
    pub(super) queries: Tensor,
    /// `(b, m, c)`, tokens.
    pub(super) keys: Tensor,
    pub(super) heads: usize,
}

impl CrossAttention {
    /// How many positions attend.
    pub fn positions(&self) -> Result<usize> {
        self.queries.dim(1)
    }

    /// The map's logarithm, with a graph to queries and keys.
    ///
    /// # Shapes
    /// → `(b, heads, n, m)`.
    pub fn log_probabilities(&self) -> Result<Tensor> {
        let split = |t: &Tensor| {
            let (b, n, c) = t.dims3()?;
            t.reshape((b, n, self.heads, c / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let (queries, keys) = (split(&self.queries)?, split(&self.keys)?);
        let scale = 1.0 / (queries.dim(D::Minus1)? as f64).sqrt();
        let logits = (queries.matmul(&keys.transpose(2, 3)?.contiguous()?)? * scale)?;
        candle_nn::ops::log_softmax(&logits, D::Minus1)
    }
}

/// Keeps every cross-attention to text of a forward pass, in order.
#[derive(Clone, Debug, Default)]
pub struct AttentionStore(Arc<Mutex<Vec<CrossAttention>>>);

impl AttentionStore {
    pub(super) fn keep(&self, attention: CrossAttention) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(attention);
    }

    /// What was kept; the store is empty then.
    pub fn take(&self) -> Vec<CrossAttention> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Replaces attention maps: an item looks where another one looks, and sees its own values there.
/// Or watches them.
///
/// The map of an item follows from its queries and keys alone, so these are what is replaced;
/// nothing is computed that would not be computed without.
#[derive(Clone, Debug, Default)]
pub struct AttentionControl {
    maps: Option<Maps>,
    cross_attention: bool,
    store: Option<AttentionStore>,
}

impl AttentionControl {
    /// Item `i` attends as item `rows[i]` does, in every self-attention of a UNet, and in every
    /// cross-attention to text if that is asked for, too.
    pub fn new(rows: &[u32], cross_attention: bool) -> Result<Self> {
        let maps = Maps(Tensor::new(rows, &candle_core::Device::Cpu)?);
        Ok(Self { maps: Some(maps), cross_attention, store: None })
    }

    /// Changes nothing, and keeps what is attended to.
    pub fn watched_by(store: AttentionStore) -> Self {
        Self { store: Some(store), ..Self::default() }
    }

    pub(super) fn self_attention(&self) -> Option<&Maps> {
        self.maps.as_ref()
    }

    pub(super) fn cross_attention(&self) -> Option<&Maps> {
        self.maps.as_ref().filter(|_| self.cross_attention)
    }

    pub(super) fn store(&self) -> Option<&AttentionStore> {
        self.store.as_ref()
    }
}
