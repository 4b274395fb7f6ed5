//! `LlamaForCausalLM`: the decoder, with the states after the final norm beside the logits.

use any2pix_nn::ops::{self, Mask, Quantisation, Quantised};
use any2pix_nn::{Checkpoint, Embedding, Linear, RmsNorm};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use crate::config::LlamaConfig;

/// Keys and values of the tokens that were already read, layer by layer.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
}

impl KvCache {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends to layer `index` and returns all that it holds now.
    fn extend(&mut self, index: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        match self.layers.get_mut(index) {
            Some(layer) => {
                *layer = (Tensor::cat(&[&layer.0, &k], 1)?, Tensor::cat(&[&layer.1, &v], 1)?);
                Ok(layer.clone())
            }
            None => {
                self.layers.push((k.clone(), v.clone()));
                Ok((k, v))
            }
        }
    }
}

/// Rotary positions: cosines and sines for every place of the context.
#[derive(Clone, Debug)]
struct RotaryEmbedding {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryEmbedding {
    fn new(config: &LlamaConfig, device: &Device) -> Result<Self> {
        let half = config.head_dim() / 2;
        let positions = config.max_position_embeddings;
        let inv_freq: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / config.head_dim() as f32;
                1.0 / (config.rope_theta as f32).powf(exponent)
            })
            .collect();
        let angles: Vec<f32> =
            (0..positions).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f)).collect();
        let angles = Tensor::from_vec(angles, (positions, half), device)?;
        Ok(Self { cos: angles.cos()?, sin: angles.sin()? })
    }

    /// Turns each head's pairs `(i, i + d/2)` by the angle of its position.
    ///
    /// # Shapes
    /// `(b, n, heads·d)` → the same.
    fn apply(&self, x: &Tensor, offset: usize) -> Result<Tensor> {
        let n = x.dim(1)?;
        ops::rotary(x, &self.cos.narrow(0, offset, n)?, &self.sin.narrow(0, offset, n)?)
    }
}

/// How the linear layers come from their weights: `(weights, in_features, out_features)`.
pub type LoadLinear<'a> = &'a dyn Fn(VarBuilder, usize, usize) -> Result<Linear>;

/// Linear layers in the given format, or as the weights are.
pub fn linears(
    format: Option<Quantisation>,
) -> impl Fn(VarBuilder, usize, usize) -> Result<Linear> {
    move |vb, in_features, out_features| match format {
        None => Linear::load_no_bias(vb, in_features, out_features),
        Some(format) => {
            let weight = vb.get((out_features, in_features), "weight")?;
            Ok(Linear::from_quantised(Quantised::of(&weight, format)?))
        }
    }
}

/// Linear layers that keep the blocks which `weights` have for them; those that have none come
/// in the given format, or as the weights are.
pub fn linears_of(
    weights: &Checkpoint,
    format: Option<Quantisation>,
) -> impl Fn(VarBuilder, usize, usize) -> Result<Linear> {
    let others = linears(format);
    move |vb, in_features, out_features| {
        let name = format!("{}.weight", vb.prefix());
        let Some(blocks) = weights.quantised(&name)? else {
            return others(vb, in_features, out_features);
        };
        if blocks.shape().dims() != [out_features, in_features] {
            candle_core::bail!(
                "tensor `{name}` has shape {:?}, the config asks for {:?}",
                blocks.shape().dims(),
                [out_features, in_features]
            );
        }
        Ok(Linear::from_quantised(Quantised::new(blocks)?))
    }
}

#[derive(Clone, Debug)]
struct LlamaAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
    kv_heads: usize,
    scale: f64,
}

impl LlamaAttention {
    fn load(vb: VarBuilder, config: &LlamaConfig, linear: LoadLinear) -> Result<Self> {
        let (heads, kv_heads, d) =
            (config.num_attention_heads, config.kv_heads(), config.head_dim());
        let hidden = config.hidden_size;
        Ok(Self {
            q_proj: linear(vb.pp("q_proj"), hidden, heads * d)?,
            k_proj: linear(vb.pp("k_proj"), hidden, kv_heads * d)?,
            v_proj: linear(vb.pp("v_proj"), hidden, kv_heads * d)?,
            o_proj: linear(vb.pp("o_proj"), heads * d, hidden)?,
            heads,
            kv_heads,
            scale: 1.0 / (d as f64).sqrt(),
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &RotaryEmbedding,
        offset: usize,
        extend: impl FnOnce(Tensor, Tensor) -> Result<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let q = rotary.apply(&self.q_proj.forward(x)?, offset)?;
        let k = rotary.apply(&self.k_proj.forward(x)?, offset)?;
        let (k, v) = extend(k, self.v_proj.forward(x)?)?;
        let mixed =
            ops::attention(&q, &k, &v, self.heads, self.kv_heads, self.scale, Mask::Causal)?;
        self.o_proj.forward(&mixed)
    }
}

#[derive(Clone, Debug)]
struct LlamaMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl LlamaMlp {
    fn load(vb: VarBuilder, config: &LlamaConfig, linear: LoadLinear) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_proj: linear(vb.pp("gate_proj"), hidden, inner)?,
            up_proj: linear(vb.pp("up_proj"), hidden, inner)?,
            down_proj: linear(vb.pp("down_proj"), inner, hidden)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gated = ops::swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?;
        self.down_proj.forward(&gated)
    }
}

#[derive(Clone, Debug)]
struct LlamaDecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: LlamaAttention,
    post_attention_layernorm: RmsNorm,
    mlp: LlamaMlp,
}

impl LlamaDecoderLayer {
    fn load(vb: VarBuilder, config: &LlamaConfig, linear: LoadLinear) -> Result<Self> {
        let norm = |name| RmsNorm::load(vb.pp(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: LlamaAttention::load(vb.pp("self_attn"), config, linear)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: LlamaMlp::load(vb.pp("mlp"), config, linear)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &RotaryEmbedding,
        offset: usize,
        extend: impl FnOnce(Tensor, Tensor) -> Result<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let attended =
            self.self_attn.forward(&self.input_layernorm.forward(x)?, rotary, offset, extend)?;
        let x = ops::add(x, &attended)?;
        ops::add(&x, &self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?)
    }
}

/// Llama with a language-model head, under Hugging Face's tensor names.
#[derive(Clone, Debug)]
pub struct LlamaForCausalLM {
    embed_tokens: Embedding,
    layers: Vec<LlamaDecoderLayer>,
    norm: RmsNorm,
    lm_head: Linear,
    rotary: RotaryEmbedding,
}

impl LlamaForCausalLM {
    /// Reads `model.*` and `lm_head.*` below `vb`.
    pub fn load(vb: VarBuilder, config: &LlamaConfig) -> Result<Self> {
        Self::load_with(vb, config, &linears(None))
    }

    /// [`Self::load`] with linear layers of another kind: quantised ones, say.
    pub fn load_with(vb: VarBuilder, config: &LlamaConfig, linear: LoadLinear<'_>) -> Result<Self> {
        let model = vb.pp("model");
        let embed_tokens =
            Embedding::load(model.pp("embed_tokens"), config.vocab_size, config.hidden_size)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| LlamaDecoderLayer::load(model.pp("layers").pp(i), config, linear))
            .collect::<Result<_>>()?;
        let lm_head = if config.tie_word_embeddings {
            Linear::from_tensors(embed_tokens.weight().clone(), None)?
        } else {
            linear(vb.pp("lm_head"), config.hidden_size, config.vocab_size)?
        };
        Ok(Self {
            norm: RmsNorm::load(model.pp("norm"), config.hidden_size, config.rms_norm_eps)?,
            rotary: RotaryEmbedding::new(config, vb.device())?,
            embed_tokens,
            layers,
            lm_head,
        })
    }

    /// The table's rows for `ids`.
    ///
    /// # Shapes
    /// `(b, n)` → `(b, n, hidden)`.
    pub fn embed(&self, input_ids: &Tensor) -> Result<Tensor> {
        self.embed_tokens.forward(input_ids)
    }

    /// The states after the final norm, for a whole sequence at once.
    ///
    /// # Shapes
    /// `(b, n, hidden)` → `(b, n, hidden)`.
    pub fn hidden_states(&self, inputs_embeds: &Tensor) -> Result<Tensor> {
        self.run(inputs_embeds, None)
    }

    /// The states after the final norm of tokens that follow those in `cache`, which then holds
    /// them too.
    ///
    /// # Shapes
    /// `(b, n, hidden)` → `(b, n, hidden)`.
    pub fn hidden_states_cached(
        &self,
        inputs_embeds: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        self.run(inputs_embeds, Some(cache))
    }

    fn run(&self, inputs_embeds: &Tensor, mut cache: Option<&mut KvCache>) -> Result<Tensor> {
        let offset = cache.as_ref().map_or(0, |c| c.len());
        let mut x = inputs_embeds.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            x = match cache.as_deref_mut() {
                Some(cache) => {
                    layer.forward(&x, &self.rotary, offset, |k, v| cache.extend(index, k, v))?
                }
                None => layer.forward(&x, &self.rotary, offset, |k, v| Ok((k, v)))?,
            };
        }
        if let Some(cache) = cache {
            cache.len += inputs_embeds.dim(1)?;
        }
        self.norm.forward(&x)
    }

    /// The type that activations have.
    pub fn dtype(&self) -> DType {
        self.embed_tokens.weight().dtype()
    }

    /// Scores of the next token.
    ///
    /// # Shapes
    /// `(.., hidden)` → `(.., vocab)`.
    pub fn logits(&self, hidden_states: &Tensor) -> Result<Tensor> {
        self.lm_head.forward(hidden_states)
    }
}
