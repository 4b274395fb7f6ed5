//! SDXL's wiring: prompt embeddings, time ids and image-prompt tokens become conditions.

use candle_core::{Device, Result, Tensor};

use crate::ip_adapter::{ImageProjModel, TokenMode};
use crate::unet::{AddedConditions, Context, ImagePrompt, UNetConditions};

/// What SDXL's two text encoders say of one prompt.
#[derive(Clone, Debug)]
pub struct PromptEmbeds {
    /// Both encoders' penultimate states side by side `(1, n, d)`.
    pub hidden_states: Tensor,
    /// The second encoder's projected state `(1, p)`.
    pub pooled: Tensor,
}

/// Original size, crop, target size: SDXL's micro-conditioning.
#[derive(Clone, Copy, Debug)]
pub struct TimeIds {
    /// Height and width in pixels.
    pub size: (usize, usize),
    /// The refiner's aesthetic score, which takes the place of the target size.
    pub aesthetic_score: Option<f64>,
}

impl TimeIds {
    /// # Shapes
    /// `(1, 6)`, or `(1, 5)` with an aesthetic score.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        let (height, width) = (self.size.0 as f32, self.size.1 as f32);
        match self.aesthetic_score {
            None => Tensor::new(&[[height, width, 0.0, 0.0, height, width]], device),
            Some(score) => Tensor::new(&[[height, width, 0.0, 0.0, score as f32]], device),
        }
    }
}

/// Conditions of one prompt without guidance, for inversion.
///
/// `last_tokens_as_image` reproduces the published pipeline, whose inversion runs with the
/// adapter installed and so takes the last 4 text tokens for image tokens, at the scale given.
pub fn inversion_conditions(
    prompt: &PromptEmbeds,
    ids: TimeIds,
    last_tokens_as_image: Option<(usize, f64)>,
) -> Result<UNetConditions> {
    let hidden = &prompt.hidden_states;
    let context = match last_tokens_as_image {
        None => {
            Context { encoder_hidden_states: hidden.clone(), image_prompt: None, control: None }
        }
        Some((tokens, scale)) => {
            let text = hidden.dim(1)?.saturating_sub(tokens);
            Context {
                encoder_hidden_states: hidden.narrow(1, 0, text)?,
                image_prompt: Some(ImagePrompt { tokens: hidden.narrow(1, text, tokens)?, scale }),
                control: None,
            }
        }
    };
    let time_ids = ids.tensor(hidden.device())?;
    let added = AddedConditions { text_embeds: prompt.pooled.clone(), time_ids };
    Ok(UNetConditions { context, added: Some(added) })
}

/// The picture's embedding and how it is turned into tokens.
pub struct ImageCondition<'a> {
    /// The adapter's projection.
    pub projection: &'a ImageProjModel,
    /// The picture's embedding `(1, e)`.
    pub global: &'a Tensor,
    /// The subject's embedding `(1, e)`.
    pub local: &'a Tensor,
    /// Which of the two become tokens.
    pub mode: TokenMode,
    /// From the picture's tokens (0) to the subject's own (1).
    pub local_scale: f64,
    /// Weight of the image branch.
    pub scale: f64,
}

impl ImageCondition<'_> {
    /// Tokens of the condition.
    fn conditional(&self) -> Result<Tensor> {
        self.projection.forward(self.global, self.local, self.mode, self.local_scale)
    }

    /// Tokens of no picture at all.
    fn unconditional(&self) -> Result<Tensor> {
        self.projection.unconditional(self.global, self.mode)
    }
}

/// Conditions of one prompt without guidance, for models that were distilled to need none.
pub fn plain_conditions(
    prompt: &PromptEmbeds,
    ids: TimeIds,
    image: Option<&ImageCondition>,
) -> Result<UNetConditions> {
    let mut conditions = inversion_conditions(prompt, ids, None)?;
    if let Some(image) = image {
        let tokens = image.conditional()?;
        conditions.context.image_prompt = Some(ImagePrompt { tokens, scale: image.scale });
    }
    Ok(conditions)
}

/// The refiner's conditions `[unconditional, conditional]`: a high aesthetic score is asked for,
/// and the negative prompt goes with a low one, as published.
pub fn refiner_conditions(
    negative: &PromptEmbeds,
    prompt: &PromptEmbeds,
    size: (usize, usize),
) -> Result<UNetConditions> {
    let ids = |score| TimeIds { size, aesthetic_score: Some(score) };
    guided_conditions(negative, prompt, [ids(2.5), ids(6.0)], None)
}

/// Conditions `[unconditional, conditional]` for classifier-free guidance.
///
/// `ids` are of the negative prompt, then of the prompt.
pub fn guided_conditions(
    negative: &PromptEmbeds,
    prompt: &PromptEmbeds,
    ids: [TimeIds; 2],
    image: Option<&ImageCondition>,
) -> Result<UNetConditions> {
    let both = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 0);
    let image_prompt = image
        .map(|image| -> Result<ImagePrompt> {
            let tokens = both(&image.unconditional()?, &image.conditional()?)?;
            Ok(ImagePrompt { tokens, scale: image.scale })
        })
        .transpose()?;
    let device = prompt.pooled.device();
    let added = AddedConditions {
        text_embeds: both(&negative.pooled, &prompt.pooled)?,
        time_ids: both(&ids[0].tensor(device)?, &ids[1].tensor(device)?)?,
    };
    let encoder_hidden_states = both(&negative.hidden_states, &prompt.hidden_states)?;
    let context = Context { encoder_hidden_states, image_prompt, control: None };
    Ok(UNetConditions { context, added: Some(added) })
}
