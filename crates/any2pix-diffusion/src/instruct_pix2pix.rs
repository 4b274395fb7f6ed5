//! InstructPix2Pix' wiring (Brooks et al. 2023): the picture that is edited stands in extra
//! channels of the UNet, and guidance goes by picture and by text.

use candle_core::{Result, Tensor};

use crate::autoencoder::Autoencoder;
use crate::denoise::NoisePredictor;
use crate::guidance::PictureTextGuidance;
use crate::schedulers::{PredictionType, SchedulerConfig, SigmaInterpolation};
use crate::unet::{Context, UNetConditions};

/// The latents of the picture that is edited: the codec's mean, **not** multiplied with its
/// scaling factor, as the model was trained.
///
/// # Shapes
/// `image` `(1, 3, h, w)` in `[-1, 1]` → `(1, c, h/f, w/f)`.
pub fn source_latents(codec: &(impl Autoencoder + ?Sized), image: &Tensor) -> Result<Tensor> {
    Ok(codec.encode(image)?.mean)
}

/// What the UNet reads in the batch `[picture and text, picture, nothing]`.
///
/// # Shapes
/// `prompt`, `negative` `(b, n, d)` → tokens `(3b, n, d)`.
pub fn conditions(prompt: &Tensor, negative: &Tensor) -> Result<UNetConditions> {
    let encoder_hidden_states = Tensor::cat(&[prompt, negative, negative], 0)?;
    Ok(UNetConditions {
        context: Context { encoder_hidden_states, image_prompt: None, control: None },
        added: None,
    })
}

/// A predictor that sees the source in channels after the sample's own. Only the sample's are
/// scaled to the noise level.
pub struct SourceChannels<P> {
    /// Of as many channels as sample and source have together.
    pub predictor: P,
    /// `(3b, c, h, w)`: the source twice, then zeros.
    source: Tensor,
    /// Whether the network knows differences instead of pictures.
    difference: Option<Difference>,
}

impl<P: NoisePredictor> NoisePredictor for SourceChannels<P> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        let of_network = |sample: &Tensor| {
            self.predictor.predict(&Tensor::cat(&[sample, &self.source], 1)?, timestep)
        };
        match &self.difference {
            None => of_network(sample),
            Some(difference) => {
                let output = of_network(&difference.of(sample, &self.source, timestep)?)?;
                difference.with_source(output, &self.source, timestep)
            }
        }
    }
}

/// A network that was trained on what the edit adds to the source's latents: its sample is the
/// noised difference, its prediction is about the difference. One that says nothing keeps the
/// source; without a source (zeros) it is the plain model.
#[derive(Clone, Debug)]
pub struct Difference {
    alphas_cumprod: Vec<f64>,
    prediction_type: PredictionType,
}

impl Difference {
    /// Under the noise schedule that the network was trained with.
    pub fn new(scheduler: &SchedulerConfig) -> Self {
        let alphas_cumprod = scheduler.alphas_cumprod();
        Self { alphas_cumprod, prediction_type: scheduler.prediction_type }
    }

    /// √ᾱ and √(1-ᾱ).
    fn scales(&self, timestep: f64) -> (f64, f64) {
        let last = self.alphas_cumprod.len().saturating_sub(1);
        let index = (timestep.round().max(0.0) as usize).min(last);
        let alpha = self.alphas_cumprod.get(index).copied().unwrap_or(1.0);
        (alpha.sqrt(), (1.0 - alpha).max(0.0).sqrt())
    }

    /// The noised difference in a noised picture.
    ///
    /// # Shapes
    /// `sample`, `source` `(b, c, h, w)` → the same.
    fn of(&self, sample: &Tensor, source: &Tensor, timestep: f64) -> Result<Tensor> {
        sample - (source * self.scales(timestep).0)?
    }

    /// What is predicted of the picture when `output` is predicted of the difference.
    ///
    /// # Shapes
    /// `output`, `source` `(b, c, h, w)` → the same.
    fn with_source(&self, output: Tensor, source: &Tensor, timestep: f64) -> Result<Tensor> {
        match self.prediction_type {
            PredictionType::Epsilon => Ok(output),
            PredictionType::Sample => output + source,
            PredictionType::VPrediction => output - (source * self.scales(timestep).1)?,
        }
    }
}

/// How firmly text and picture are followed; 1 is no guidance.
#[derive(Clone, Copy, Debug)]
pub struct Scales {
    /// The instruction's.
    pub text: f64,
    /// The picture's.
    pub picture: f64,
}

/// The guided predictor. `predictor` is conditioned on [`conditions`]; `source` is of
/// [`source_latents`], `(b, c, h, w)`; `difference` is for networks trained on differences.
pub fn guided<P: NoisePredictor>(
    predictor: P,
    source: &Tensor,
    scales: Scales,
    difference: Option<Difference>,
) -> Result<PictureTextGuidance<SourceChannels<P>>> {
    let source = Tensor::cat(&[source, source, &source.zeros_like()?], 0)?;
    Ok(PictureTextGuidance {
        predictor: SourceChannels { predictor, source, difference },
        text_scale: scales.text,
        picture_scale: scales.picture,
    })
}

/// The sampler of the published program: Euler ancestral over σ that is linear in log σ between
/// training timesteps. What `config` says itself is kept.
pub fn reference_scheduler(config: SchedulerConfig) -> SchedulerConfig {
    SchedulerConfig {
        class_name: Some("EulerAncestralDiscreteScheduler".to_string()),
        interpolation_type: config.interpolation_type.or(Some(SigmaInterpolation::LogLinear)),
        ..config
    }
}

/// The instruction as the text encoder reads it: `picture` in the place of the reference (`None`
/// among the segments), which is left out where it only stands before everything.
pub fn instruction<'a>(
    segments: impl IntoIterator<Item = Option<&'a str>>,
    picture: &str,
) -> String {
    let mut text = String::new();
    for segment in segments {
        match segment {
            Some(words) => text.push_str(words),
            None if text.trim().is_empty() => {}
            None => text.push_str(picture),
        }
    }
    let begins = |c: char| c.is_whitespace() || matches!(c, ':' | ',' | ';');
    text.trim_start_matches(begins).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The sides at which the published program paints a picture of `size`: the longer one about
/// `resolution`, both whole multiples of 64.
pub fn painted_size(size: (u32, u32), resolution: u32) -> (u32, u32) {
    const MULTIPLE: f64 = 64.0;
    let (width, height) = (f64::from(size.0.max(1)), f64::from(size.1.max(1)));
    let shorter = width.min(height);
    let factor = f64::from(resolution) / width.max(height);
    let factor = (shorter * factor / MULTIPLE).ceil() * MULTIPLE / shorter;
    // The shorter side may miss its multiple by the last bit of a product.
    let side = |pixels: f64| ((pixels * factor / MULTIPLE).floor().max(1.0) * MULTIPLE) as u32;
    (side(width), side(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_those_of_the_published_program() {
        for (size, painted) in [
            ((512, 512), (512, 512)),
            ((1024, 768), (512, 384)),
            ((1920, 1080), (512, 320)),
            ((768, 1024), (384, 512)),
            ((640, 480), (512, 384)),
            ((3000, 2000), (576, 384)),
            ((1000, 300), (640, 192)),
            ((100, 100), (512, 512)),
        ] {
            assert_eq!(painted_size(size, 512), painted, "{size:?}");
        }
        assert_eq!(painted_size((100, 70), 64), (64, 64));
    }
}
