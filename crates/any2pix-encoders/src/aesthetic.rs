//! The aesthetic predictor: a score of beauty from the embedding of CLIP ViT-L/14.

use any2pix_nn::Linear;
use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

/// `config.json` of the predictor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AestheticConfig {
    /// Width of the embedding.
    pub input_size: usize,
}

/// The layers of the published file: its names, and the widths after each. What stands between
/// them there are dropouts; there are no activations.
const LAYERS: [(&str, usize); 5] =
    [("layers.0", 1024), ("layers.2", 128), ("layers.4", 64), ("layers.6", 16), ("layers.7", 1)];

/// Embedding → score, mostly between 1 and 10.
#[derive(Clone, Debug)]
pub struct AestheticPredictor {
    layers: Vec<Linear>,
}

impl AestheticPredictor {
    /// Under the published names.
    pub fn load(vb: VarBuilder, config: &AestheticConfig) -> Result<Self> {
        let mut width = config.input_size;
        let layer = |(name, next): (&str, usize)| {
            Linear::load(vb.pp(name), std::mem::replace(&mut width, next), next)
        };
        Ok(Self { layers: LAYERS.into_iter().map(layer).collect::<Result<_>>()? })
    }

    /// # Shapes
    /// `embeddings` `(n, input_size)`, as [`normalised`] gives them → `(n, 1)`.
    pub fn forward(&self, embeddings: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(embeddings.clone(), |x, layer| layer.forward(&x))
    }
}

/// Embeddings of length 1; one without length stays as it is.
///
/// # Shapes
/// `(n, d)` → the same.
pub fn normalised(embeddings: &Tensor) -> Result<Tensor> {
    let norms = embeddings.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let safe = norms.eq(0.0)?.where_cond(&norms.ones_like()?, &norms)?;
    embeddings.broadcast_div(&safe)
}
