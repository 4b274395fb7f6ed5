//! `Transformer2DModel`: attention over the positions of a feature map, with a decoupled branch
//! for image-prompt tokens (IP-Adapter).

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm, LayerNorm, Linear, ops};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::attention_control::{AttentionControl, CrossAttention, Maps};

/// What cross-attention looks at.
#[derive(Clone, Debug)]
pub struct Context {
    /// Text tokens `(b, n, d)`.
    pub encoder_hidden_states: Tensor,
    /// Tokens of the image prompt, which the adapter's own keys and values are made of.
    pub image_prompt: Option<ImagePrompt>,
    /// Items that attend as others do, if some shall.
    pub control: Option<AttentionControl>,
}

/// Image-prompt tokens and how loud they are.
#[derive(Clone, Debug)]
pub struct ImagePrompt {
    /// `(b, m, d)`; any number of tokens.
    pub tokens: Tensor,
    /// Weight of the image branch; 0 switches it off.
    pub scale: f64,
}

/// Projections for the image-prompt tokens.
#[derive(Clone, Debug)]
struct ImageProjections {
    to_k_ip: Linear,
    to_v_ip: Linear,
}

/// Multi-head attention; self-attention when no context is given.
#[derive(Clone, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    image: Option<ImageProjections>,
    heads: usize,
    width: usize,
    context_width: usize,
}

impl Attention {
    fn load(vb: VarBuilder, width: usize, context_width: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load_no_bias(vb.pp("to_q"), width, width)?,
            to_k: Linear::load_no_bias(vb.pp("to_k"), context_width, width)?,
            to_v: Linear::load_no_bias(vb.pp("to_v"), context_width, width)?,
            to_out: Linear::load(vb.pp("to_out.0"), width, width)?,
            image: None,
            heads,
            width,
            context_width,
        })
    }

    /// Adds the adapter's projections: `to_k_ip`, `to_v_ip`.
    pub fn load_ip_adapter(&mut self, vb: VarBuilder) -> Result<()> {
        let (from, to) = (self.context_width, self.width);
        self.image = Some(ImageProjections {
            to_k_ip: Linear::load_no_bias(vb.pp("to_k_ip"), from, to)?,
            to_v_ip: Linear::load_no_bias(vb.pp("to_v_ip"), from, to)?,
        });
        Ok(())
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let scale = 1.0 / ((self.width / self.heads) as f64).sqrt();
        ops::attention(q, k, v, self.heads, self.heads, scale, ops::Mask::None)
    }

    /// # Shapes
    /// `hidden_states` `(b, n, c)` → the same.
    fn forward(
        &self,
        hidden_states: &Tensor,
        context: Option<&Context>,
        maps: Option<&Maps>,
    ) -> Result<Tensor> {
        let source = context.map_or(hidden_states, |c| &c.encoder_hidden_states);
        let (mut q, v) = (self.to_q.forward(hidden_states)?, self.to_v.forward(source)?);
        let mut k = self.to_k.forward(source)?;
        if let Some(maps) = maps {
            (q, k) = (maps.of(&q)?, maps.of(&k)?);
        }
        if let Some(store) = context.and_then(|c| c.control.as_ref()?.store()) {
            let (queries, keys) = (q.clone(), k.clone());
            store.keep(CrossAttention { queries, keys, heads: self.heads });
        }
        let mut attended = self.attend(&q, &k, &v)?;
        if let (Some(image), Some(prompt)) =
            (&self.image, context.and_then(|c| c.image_prompt.as_ref()))
        {
            let k = image.to_k_ip.forward(&prompt.tokens)?;
            let v = image.to_v_ip.forward(&prompt.tokens)?;
            attended = (attended + (self.attend(&q, &k, &v)? * prompt.scale)?)?;
        }
        self.to_out.forward(&attended)
    }
}

/// `net.0.proj`, GEGLU, `net.2`.
#[derive(Clone, Debug)]
struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    fn load(vb: VarBuilder, width: usize) -> Result<Self> {
        let inner = 4 * width;
        Ok(Self {
            proj: Linear::load(vb.pp("net.0.proj"), width, 2 * inner)?,
            out: Linear::load(vb.pp("net.2"), inner, width)?,
        })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        self.out.forward(&ops::geglu(&self.proj.forward(hidden_states)?)?)
    }
}

/// Self-attention, cross-attention, feed-forward, each behind a norm and a residual.
#[derive(Clone, Debug)]
pub struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    /// Cross-attention, which the adapter extends.
    pub attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn load(vb: VarBuilder, width: usize, context_width: usize, heads: usize) -> Result<Self> {
        const EPS: f64 = 1e-5;
        Ok(Self {
            norm1: LayerNorm::load(vb.pp("norm1"), width, EPS)?,
            attn1: Attention::load(vb.pp("attn1"), width, width, heads)?,
            norm2: LayerNorm::load(vb.pp("norm2"), width, EPS)?,
            attn2: Attention::load(vb.pp("attn2"), width, context_width, heads)?,
            norm3: LayerNorm::load(vb.pp("norm3"), width, EPS)?,
            ff: FeedForward::load(vb.pp("ff"), width)?,
        })
    }

    fn forward(&self, hidden_states: &Tensor, context: &Context) -> Result<Tensor> {
        let control = context.control.as_ref();
        let to_self = control.and_then(AttentionControl::self_attention);
        let across = control.and_then(AttentionControl::cross_attention);
        let normed = self.norm1.forward(hidden_states)?;
        let hidden_states = ops::add(hidden_states, &self.attn1.forward(&normed, None, to_self)?)?;
        let normed = self.norm2.forward(&hidden_states)?;
        let attended = self.attn2.forward(&normed, Some(context), across)?;
        let hidden_states = ops::add(&hidden_states, &attended)?;
        let fed = self.ff.forward(&self.norm3.forward(&hidden_states)?)?;
        ops::add(&hidden_states, &fed)
    }
}

/// A projection of channels that older checkpoints store as a 1×1 convolution.
#[derive(Clone, Debug)]
enum Projection {
    Linear(Linear),
    Conv(Conv2d),
}

impl Projection {
    fn load(vb: VarBuilder, width: usize, linear: bool) -> Result<Self> {
        Ok(match linear {
            true => Self::Linear(Linear::load(vb, width, width)?),
            false => Self::Conv(Conv2d::load(vb, width, width, Conv2dConfig::K1)?),
        })
    }

    /// A fresh one adds nothing to the residual until it is trained.
    fn load_zero(vb: VarBuilder, width: usize, linear: bool) -> Result<Self> {
        Ok(match linear {
            true => Self::Linear(Linear::load_zero(vb, width, width)?),
            false => Self::Conv(Conv2d::load_zero(vb, width, width, Conv2dConfig::K1)?),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Conv(conv) => conv.forward(x),
        }
    }
}

/// The numbers of a [`Transformer2DModel`].
#[derive(Clone, Copy, Debug)]
pub struct TransformerConfig {
    /// Channels.
    pub width: usize,
    /// Width of the context tokens.
    pub cross_attention_dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Groups of the norm.
    pub groups: usize,
    /// Whether `proj_in` and `proj_out` are linear layers, not 1×1 convolutions.
    pub use_linear_projection: bool,
}

/// Norm, projection, transformer blocks, projection, residual.
#[derive(Clone, Debug)]
pub struct Transformer2DModel {
    norm: GroupNorm,
    proj_in: Projection,
    /// One block per layer.
    pub transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
    recompute: bool,
}

impl Transformer2DModel {
    /// Builds the layers from `vb`.
    pub fn load(vb: VarBuilder, config: &TransformerConfig) -> Result<Self> {
        let TransformerConfig { width, cross_attention_dim, heads, .. } = *config;
        let blocks = vb.pp("transformer_blocks");
        let transformer_blocks = (0..config.layers)
            .map(|i| BasicTransformerBlock::load(blocks.pp(i), width, cross_attention_dim, heads))
            .collect::<Result<_>>()?;
        let linear = config.use_linear_projection;
        Ok(Self {
            norm: GroupNorm::load(vb.pp("norm"), config.groups, width, 1e-6)?,
            proj_in: Projection::load(vb.pp("proj_in"), width, linear)?,
            transformer_blocks,
            proj_out: Projection::load_zero(vb.pp("proj_out"), width, linear)?,
            recompute: false,
        })
    }

    /// Lets the backward pass compute the layers again instead of keeping what is in them.
    pub fn enable_gradient_checkpointing(&mut self) {
        self.recompute = true;
    }

    /// # Shapes
    /// `hidden_states` `(b, h, w, c)` → the same.
    pub fn forward(&self, hidden_states: &Tensor, context: &Context) -> Result<Tensor> {
        if !self.recompute {
            return self.run(hidden_states, context);
        }
        let (model, scale) = (self.clone(), context.image_prompt.as_ref().map(|i| i.scale));
        let control = context.control.clone();
        let mut inputs = vec![hidden_states, &context.encoder_hidden_states];
        inputs.extend(context.image_prompt.as_ref().map(|image| &image.tokens));
        ops::recomputed(&inputs, move |t| {
            let image_prompt =
                scale.and_then(|scale| t.get(2).map(|t| ImagePrompt { tokens: t.clone(), scale }));
            let encoder_hidden_states = t[1].clone();
            let context = Context { encoder_hidden_states, image_prompt, control: control.clone() };
            model.run(&t[0], &context)
        })
    }

    fn run(&self, hidden_states: &Tensor, context: &Context) -> Result<Tensor> {
        let (b, h, w, c) = hidden_states.dims4()?;
        let projected = self.proj_in.forward(&self.norm.forward(hidden_states)?)?;
        let mut hidden = projected.reshape((b, h * w, c))?;
        for block in &self.transformer_blocks {
            hidden = block.forward(&hidden, context)?;
        }
        ops::add(&self.proj_out.forward(&hidden.reshape((b, h, w, c))?)?, hidden_states)
    }
}

#[cfg(test)]
mod tests {
    use any2pix_nn::{Generator, Parameters};
    use candle_core::{D, Device};

    use super::super::attention_control::AttentionStore;
    use super::*;

    const WIDTH: usize = 8;
    const HEADS: usize = 2;

    /// Attention as it is written down: similarity, softmax, values; the probabilities of item
    /// `rows[i]` for item `i`.
    fn naive(attention: &Attention, x: &Tensor, source: &Tensor, rows: &[usize]) -> Tensor {
        let split = |t: Tensor| {
            let (b, n, c) = t.dims3().unwrap();
            t.reshape((b, n, HEADS, c / HEADS)).unwrap().transpose(1, 2).unwrap().contiguous()
        };
        let q = split(attention.to_q.forward(x).unwrap()).unwrap();
        let k = split(attention.to_k.forward(source).unwrap()).unwrap();
        let v = split(attention.to_v.forward(source).unwrap()).unwrap();
        let similarity = q.matmul(&k.transpose(2, 3).unwrap().contiguous().unwrap()).unwrap();
        let similarity = (similarity / ((WIDTH / HEADS) as f64).sqrt()).unwrap();
        let chunks: Vec<Tensor> =
            rows.iter().map(|row| similarity.narrow(0, *row, 1).unwrap()).collect();
        let similarity = Tensor::cat(&chunks, 0).unwrap();
        let probabilities = candle_nn::ops::softmax(&similarity, D::Minus1).unwrap();
        let mixed = probabilities.matmul(&v).unwrap().transpose(1, 2).unwrap().contiguous();
        attention.to_out.forward(&mixed.unwrap().reshape(x.shape()).unwrap()).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn replaced_maps_are_those_of_similarities_that_are_replaced() {
        let mut generator = Generator::new(3);
        let mut random = |n: usize, c: usize| generator.randn((4, n, c), &Device::Cpu).unwrap();
        let (x, tokens) = (random(6, WIDTH), random(5, 4));
        for context_width in [WIDTH, 4] {
            let vb = Parameters::new(1).builder(&Device::Cpu);
            let attention = Attention::load(vb, WIDTH, context_width, HEADS).unwrap();
            let context = (context_width == 4).then(|| Context {
                encoder_hidden_states: tokens.clone(),
                image_prompt: None,
                control: None,
            });
            let source = if context.is_some() { &tokens } else { &x };
            let control = AttentionControl::new(&[0, 0, 2, 2], true).unwrap();
            let run = |maps| values(&attention.forward(&x, context.as_ref(), maps).unwrap());
            let replaced = run(control.cross_attention());
            assert_eq!(replaced, run(control.self_attention()));
            let plain = run(None);
            let own = AttentionControl::new(&[0, 1, 2, 3], true).unwrap();
            assert_eq!(run(own.cross_attention()), plain, "one's own map is no change");
            for (ours, rows) in [(&replaced, [0, 0, 2, 2]), (&plain, [0, 1, 2, 3])] {
                let naive = values(&naive(&attention, &x, source, &rows));
                let far = ours.iter().zip(&naive).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-5, "{far}");
            }
            // The first of each two is itself; the second is not.
            let item = 6 * WIDTH;
            assert_eq!(replaced[..item], plain[..item]);
            assert_ne!(replaced[item..2 * item], plain[item..2 * item]);
        }
        let control = AttentionControl::new(&[0, 0, 2, 2], false).unwrap();
        assert!(control.cross_attention().is_none());
    }

    #[test]
    fn a_watched_map_is_the_one_that_mixes_the_values() {
        let mut generator = Generator::new(4);
        let x = generator.randn((4, 6, WIDTH), &Device::Cpu).unwrap();
        let tokens = generator.randn((4, 5, 4), &Device::Cpu).unwrap();
        let vb = Parameters::new(1).builder(&Device::Cpu);
        let attention = Attention::load(vb, WIDTH, 4, HEADS).unwrap();
        let store = AttentionStore::default();
        let control = Some(AttentionControl::watched_by(store.clone()));
        let context =
            Context { encoder_hidden_states: tokens.clone(), image_prompt: None, control };
        let output = values(&attention.forward(&x, Some(&context), None).unwrap());
        let [watched] = <[_; 1]>::try_from(store.take()).unwrap();
        assert!(store.take().is_empty());
        assert_eq!(watched.positions().unwrap(), 6);
        let map = watched.log_probabilities().unwrap().exp().unwrap();
        let v = attention.to_v.forward(&tokens).unwrap();
        let v = v.reshape((4, 5, HEADS, WIDTH / HEADS)).unwrap().transpose(1, 2).unwrap();
        let mixed = map.matmul(&v.contiguous().unwrap()).unwrap().transpose(1, 2).unwrap();
        let mixed = mixed.contiguous().unwrap().reshape(x.shape()).unwrap();
        let expected = values(&attention.to_out.forward(&mixed).unwrap());
        let far = output.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "{far}");
    }
}
