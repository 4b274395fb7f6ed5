//! `PriorTransformer`: cleans the planner's image embedding (a GPT-2 that predicts the picture's
//! embedding from a corrupted one, its modality, a text and an aesthetic score).

use any2pix_nn::tap::tap;
use any2pix_nn::timesteps::sinusoid;
use any2pix_nn::{Embedding, Generator, Linear};
use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::DiffusionError;
use crate::gpt2::{Gpt2Config, Gpt2Model};
use crate::guidance::guide;
use crate::latents::with_norm;
use crate::schedulers::{DDPMScheduler, Scheduler, SchedulerConfig};

/// Width of the sinusoid that a score is given as.
const SCORE_WIDTH: usize = 512;
/// Rows of the tables of start and end tokens.
const SEQUENCE_TOKENS: usize = 32;
/// Rows of the table of modalities.
const MODALITIES: usize = 10;

/// What kind of media an embedding came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// A picture's own embedding.
    Image = 0,
    /// A sound's.
    Audio = 1,
    /// A text's.
    Text = 2,
    /// What the planner emits.
    Video = 3,
}

/// config.json of the prior, with upstream's keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PriorTransformerConfig {
    /// What the sequence is made of; keys that are not known stand for nothing, as upstream.
    pub sequence_input_key: Vec<String>,
    /// Width of each key's input; 0 when it is not projected.
    pub sequence_input_embed_dim: Vec<usize>,
    /// Width of the embeddings.
    pub embed_dim: usize,
    /// Width of the prediction.
    pub output_dim: usize,
    /// The backbone.
    pub gpt2_config: Gpt2Config,
    /// The noise schedule of the multi-step form.
    #[serde(default)]
    pub scheduler_config: SchedulerConfig,
}

/// What one prediction is made from.
pub struct PriorInputs<'a> {
    /// Where each embedding came from, b rows.
    pub src_type: &'a [SourceType],
    /// The corrupted embedding `(b, e)`.
    pub imagebind: &'a Tensor,
    /// Text tokens `(b, n, d)`; absent when the sequence has none.
    pub crossattn_clip: Option<&'a Tensor>,
    /// `(b, 512)`: see [`score_embedding`].
    pub score: &'a Tensor,
    /// The noisy prediction of the multi-step form `(b, e)`.
    pub noisy_inputs: Option<&'a Tensor>,
}

/// How the prior is asked.
#[derive(Clone, Copy, Debug)]
pub struct RefineConfig {
    /// Aesthetic score to aim for.
    pub score: f64,
    /// Score of the unconditional half; 512 times that number, not its sinusoid, as published.
    pub negative_score: f64,
    /// 1 is no guidance.
    pub guidance_scale: f64,
    /// Norm that the embedding is brought to first.
    pub input_norm: f64,
}

impl Default for RefineConfig {
    fn default() -> Self {
        Self { score: 6.5, negative_score: 2.0, guidance_scale: 10.0, input_norm: 100.0 }
    }
}

/// The sinusoid of each score.
///
/// # Shapes
/// n scores → `(n, 512)`.
pub fn score_embedding(scores: &[f64], device: &Device) -> Result<Tensor> {
    sinusoid(scores, SCORE_WIDTH, device)
}

/// The prior.
#[derive(Clone, Debug)]
pub struct PriorTransformer {
    start_of_sequence_tokens: Embedding,
    end_of_sequence_tokens: Embedding,
    modality_embedding: Embedding,
    input_sequence_embed_linear: Vec<Option<Linear>>,
    model: Gpt2Model,
    config: PriorTransformerConfig,
}

impl PriorTransformer {
    /// Builds the model from `vb`; `model.wte.` and `cond_stage_models.` are not read.
    pub fn load(
        vb: VarBuilder,
        config: &PriorTransformerConfig,
    ) -> std::result::Result<Self, DiffusionError> {
        let (width, keys) = (config.embed_dim, config.sequence_input_key.len());
        if width != config.gpt2_config.n_embd || config.output_dim != width {
            return Err(DiffusionError::Unsupported {
                component: "PriorTransformer",
                key: "embed_dim",
                value: format!("{width}, unlike the backbone's or the output's width"),
            });
        }
        if config.sequence_input_embed_dim.len() < keys || keys > SEQUENCE_TOKENS {
            return Err(DiffusionError::Unsupported {
                component: "PriorTransformer",
                key: "sequence_input_key",
                value: format!("{keys} keys"),
            });
        }
        let linears = vb.pp("input_sequence_embed_linear");
        let input_sequence_embed_linear = (0..keys)
            .map(|i| match config.sequence_input_embed_dim[i] {
                0 => Ok(None),
                from => Linear::load(linears.pp(i), from, width).map(Some),
            })
            .collect::<Result<_>>()?;
        let table = |name: &str, rows| Embedding::load(vb.pp(name), rows, width);
        Ok(Self {
            start_of_sequence_tokens: table("start_of_sequence_tokens", SEQUENCE_TOKENS)?,
            end_of_sequence_tokens: table("end_of_sequence_tokens", SEQUENCE_TOKENS)?,
            modality_embedding: table("modality_embedding", MODALITIES)?,
            input_sequence_embed_linear,
            model: Gpt2Model::load(vb.pp("model"), &config.gpt2_config)?,
            config: config.clone(),
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &PriorTransformerConfig {
        &self.config
    }

    /// The backbone's input: the modality, then each key's tokens between its own start and end.
    fn sequence(&self, inputs: &PriorInputs) -> Result<Tensor> {
        let (b, width) = inputs.imagebind.dims2()?;
        let device = inputs.imagebind.device();
        let mut parts = Vec::new();
        for (i, key) in self.config.sequence_input_key.iter().enumerate() {
            let tokens = match key.as_str() {
                "src_type" => {
                    let ids: Vec<u32> = inputs.src_type.iter().map(|s| *s as u32).collect();
                    let ids = Tensor::from_vec(ids, (b, 1), device)?;
                    parts.push(self.modality_embedding.forward(&ids)?);
                    continue;
                }
                "imagebind" => Some(inputs.imagebind.unsqueeze(1)?),
                "crossattn_clip" => inputs.crossattn_clip.cloned(),
                "score" => Some(inputs.score.unsqueeze(1)?),
                "noisy_inputs" => inputs.noisy_inputs.map(|n| n.unsqueeze(1)).transpose()?,
                _ => None,
            };
            let Some(tokens) = tokens else { continue };
            let tokens = match &self.input_sequence_embed_linear[i] {
                Some(linear) => linear.forward(&tokens)?,
                None => tokens,
            };
            let edge = |table: &Embedding| -> Result<Tensor> {
                table.weight().narrow(0, i, 1)?.unsqueeze(0)?.broadcast_as((b, 1, width))
            };
            parts.push(edge(&self.start_of_sequence_tokens)?);
            parts.push(tokens);
            parts.push(edge(&self.end_of_sequence_tokens)?);
        }
        Tensor::cat(&parts, 1)
    }

    /// One prediction of the picture's embedding.
    ///
    /// # Shapes
    /// b rows → `(b, e)`.
    pub fn forward(&self, inputs: &PriorInputs) -> Result<Tensor> {
        let sequence = self.sequence(inputs)?;
        tap("sequence", &sequence);
        let hidden = self.model.forward(&sequence)?;
        hidden.narrow(1, hidden.dim(1)? - 1, 1)?.squeeze(1)
    }

    /// `(conditional, unconditional)` in one batch.
    ///
    /// # Shapes
    /// `embedding` `(1, e)`, `text` `(2, n, d)`, conditional first → two of `(1, e)`.
    fn both(
        &self,
        embedding: &Tensor,
        text: Option<&Tensor>,
        noisy: Option<&Tensor>,
        config: &RefineConfig,
    ) -> Result<(Tensor, Tensor)> {
        let device = embedding.device();
        let positive = score_embedding(&[config.score], device)?;
        let negative = (positive.ones_like()? * config.negative_score)?;
        let score = Tensor::cat(&[&positive, &negative], 0)?.to_dtype(embedding.dtype())?;
        tap("score_embed", &score);
        let noisy = noisy.map(|n| Tensor::cat(&[n, n], 0)).transpose()?;
        let predicted = self.forward(&PriorInputs {
            src_type: &[SourceType::Video; 2],
            imagebind: &Tensor::cat(&[embedding, &embedding.zeros_like()?], 0)?,
            crossattn_clip: text,
            score: &score,
            noisy_inputs: noisy.as_ref(),
        })?;
        tap("gpt_out", &predicted);
        Ok((predicted.narrow(0, 0, 1)?, predicted.narrow(0, 1, 1)?))
    }

    /// The published use in closed form: one guided prediction. Only the direction of the result
    /// means anything.
    ///
    /// # Shapes
    /// `generated` `(1, e)` of any norm; `text` `(2, n, d)`, the tokens of the empty text twice,
    /// when the sequence has text → `(1, e)`.
    pub fn refine(
        &self,
        generated: &Tensor,
        text: Option<&Tensor>,
        config: &RefineConfig,
    ) -> Result<Tensor> {
        let embedding = with_norm(generated, config.input_norm)?;
        let (conditional, unconditional) = self.both(&embedding, text, None, config)?;
        guide(&unconditional, &conditional, config.guidance_scale)
    }

    /// The multi-step form: ancestral sampling from `noise`, where the noisy prediction stands in
    /// the sequence.
    ///
    /// # Shapes
    /// As [`Self::refine`]; `noise` `(1, e)`.
    pub fn refine_diffusion(
        &self,
        generated: &Tensor,
        text: Option<&Tensor>,
        config: &RefineConfig,
        noise: &Tensor,
        step_noise: StepNoise,
    ) -> std::result::Result<Tensor, DiffusionError> {
        let StepNoise { steps, mut draw } = step_noise;
        let scheduler = DDPMScheduler::new(&self.config.scheduler_config, steps)?;
        let embedding = with_norm(generated, config.input_norm)?;
        let mut sample = noise.clone();
        for index in 0..steps {
            let (conditional, unconditional) =
                self.both(&embedding, text, Some(&sample), config)?;
            let alpha_bar = scheduler.alpha_bar(index);
            let epsilon = |x0: &Tensor| epsilon_of(x0, &sample, alpha_bar);
            let (positive, negative) = (epsilon(&conditional)?, epsilon(&unconditional)?);
            tap("eps", &Tensor::cat(&[&positive, &negative], 0)?);
            let guided = guide(&negative, &positive, config.guidance_scale)?;
            let noise = draw(index, &sample)?;
            sample = scheduler.step(&guided, index, &sample, Some(&noise))?.prev_sample;
        }
        Ok(sample)
    }
}

/// Draws noise of the shape of a sample for the step of that index.
pub type Draw<'a> = Box<dyn FnMut(usize, &Tensor) -> Result<Tensor> + 'a>;

/// How many steps [`PriorTransformer::refine_diffusion`] takes, and where each step's noise
/// comes from.
pub struct StepNoise<'a> {
    /// Steps.
    pub steps: usize,
    /// Standard normal noise for step `index`, of the sample's shape.
    pub draw: Draw<'a>,
}

impl<'a> StepNoise<'a> {
    /// Drawn from `generator`.
    pub fn seeded(steps: usize, generator: &'a mut Generator) -> Self {
        Self { steps, draw: Box::new(move |_, sample| generator.randn_like(sample)) }
    }
}

/// The noise in `sample` if its original is `original`.
pub(crate) fn epsilon_of(original: &Tensor, sample: &Tensor, alpha_bar: f64) -> Result<Tensor> {
    let rest = (1.0 - alpha_bar).sqrt();
    (sample / rest)? - (original * (alpha_bar.sqrt() / rest))?
}
