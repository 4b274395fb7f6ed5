//! `InstructAny2PixForCausalLM`: Llama with embeddings of media put in and read out.

use any2pix_nn::{Linear, ops};
use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use crate::config::LlamaConfig;
use crate::llama::{LlamaForCausalLM, LoadLinear, linears};

/// `mlp2x_gelu`: Linear, GELU (erf), Linear, named `0` and `2`.
#[derive(Clone, Debug)]
struct Mlp2xGelu {
    first: Linear,
    second: Linear,
}

impl Mlp2xGelu {
    fn load(vb: VarBuilder, input: usize, inner: usize, output: usize) -> Result<Self> {
        Ok(Self {
            first: Linear::load(vb.pp("0"), input, inner)?,
            second: Linear::load(vb.pp("2"), inner, output)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&ops::gelu(&self.first.forward(x)?)?)
    }
}

/// The planner's network: a Llama, a projector of ImageBind embeddings into its input, and a
/// predictor of such embeddings from its states.
#[derive(Clone, Debug)]
pub struct InstructAny2PixForCausalLM {
    /// The language model.
    pub llama: LlamaForCausalLM,
    vae_projector_image: Mlp2xGelu,
    vae_predictor_image: Mlp2xGelu,
    embedding_norm: f64,
}

impl InstructAny2PixForCausalLM {
    /// Reads the Llama and `model.vae_{projector,predictor}_image` below `vb`.
    pub fn load(vb: VarBuilder, config: &LlamaConfig) -> Result<Self> {
        Self::load_with(vb, config, &linears(None))
    }

    /// [`Self::load`] with linear layers of the Llama of another kind: quantised ones, say.
    pub fn load_with(vb: VarBuilder, config: &LlamaConfig, linear: LoadLinear<'_>) -> Result<Self> {
        let (hidden, embedding) = (config.hidden_size, config.mm_hidden_size);
        let model = vb.pp("model");
        let projector = model.pp("vae_projector_image");
        let predictor = model.pp("vae_predictor_image");
        Ok(Self {
            vae_projector_image: Mlp2xGelu::load(projector, embedding, hidden, hidden)?,
            vae_predictor_image: Mlp2xGelu::load(predictor, hidden, hidden, embedding)?,
            llama: LlamaForCausalLM::load_with(vb, config, linear)?,
            embedding_norm: config.embedding_norm,
        })
    }

    /// Prefixes of tensors that published files hold and the method never reads.
    pub fn ignored_prefixes(config: &LlamaConfig) -> Vec<String> {
        let unread = [
            "model.mm_projector.",
            "model.vae_projector_audio.",
            "model.vae_predictor_audio.",
            "model.vision_tower.",
        ];
        let buffers = (0..config.num_hidden_layers)
            .map(|i| format!("model.layers.{i}.self_attn.rotary_emb.inv_freq"));
        unread.into_iter().map(String::from).chain(buffers).collect()
    }

    /// Scales embeddings to the norm that the model was trained with.
    ///
    /// # Shapes
    /// `(.., e)` → `(.., e)`.
    pub fn normalise(&self, embeddings: &Tensor) -> Result<Tensor> {
        let norm = (embeddings.sqr()?.sum_keepdim(D::Minus1)?.sqrt()? + 1e-9)?;
        embeddings.broadcast_div(&norm)? * self.embedding_norm
    }

    /// Media embeddings as the language model takes them.
    ///
    /// # Shapes
    /// `(m, e)` → `(m, hidden)`.
    pub fn project(&self, embeddings: &Tensor) -> Result<Tensor> {
        self.vae_projector_image.forward(embeddings)
    }

    /// The embeddings that states stand for.
    ///
    /// # Shapes
    /// `(.., hidden)` → `(.., e)`.
    pub fn predict(&self, hidden_states: &Tensor) -> Result<Tensor> {
        self.vae_predictor_image.forward(hidden_states)
    }

    /// Rows of the embedding table, with the projected `embeddings` **added** at `positions`
    /// (indices into the flattened batch), as the published weights were trained.
    ///
    /// # Shapes
    /// `input_ids` `(b, n)`, `positions` m values below `b·n`, `embeddings` `(m, e)` →
    /// `(b, n, hidden)`.
    pub fn inputs_embeds(
        &self,
        input_ids: &Tensor,
        positions: &[u32],
        embeddings: Option<&Tensor>,
    ) -> Result<Tensor> {
        let embeds = self.llama.embed(input_ids)?;
        let Some(embeddings) = embeddings.filter(|_| !positions.is_empty()) else {
            return Ok(embeds);
        };
        let (b, n, hidden) = embeds.dims3()?;
        let positions = Tensor::new(positions, embeds.device())?;
        let projected = self.project(embeddings)?.contiguous()?;
        embeds
            .reshape((b * n, hidden))?
            .index_add(&positions, &projected, 0)?
            .reshape((b, n, hidden))
    }
}
