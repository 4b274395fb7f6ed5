//! InstructPix2Pix' wiring (Brooks et al. 2023): the picture that is edited stands in extra
//! channels of the UNet, and guidance goes by picture and by text.

use any2pix_nn::ops;
use candle_core::{Result, Tensor};

use crate::autoencoder::Autoencoder;
use crate::denoise::NoisePredictor;
use crate::draft::to_latent_mask;
use crate::guidance::PictureTextGuidance;
use crate::packed::{Packed, pack};
use crate::schedulers::{SchedulerConfig, SigmaInterpolation};
use crate::unet::{Context, UNet2DConditionModelConfig, UNetConditions};

/// What the channels of a UNet stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Channels of the sample; as many at first of the source are its latents.
    pub sample: usize,
    /// Channels of the source: none for a text-to-image model; what comes behind its latents is
    /// what else is seen in it, see [`Channels::with_features`].
    pub source: usize,
    /// Whether four neighbouring latents of the codec stand together in the sample's channels.
    pub is_packed: bool,
    /// Whether the output has a gate for each channel of the sample, see [`laid_over`].
    pub is_gated: bool,
}

impl Channels {
    /// Of a UNet over a codec with so many latent channels; `None` if they do not fit.
    pub fn of(config: &UNet2DConditionModelConfig, latent_channels: usize) -> Option<Self> {
        let (into, out) = (config.in_channels, config.out_channels);
        let packed = latent_channels * Packed::<()>::TOGETHER;
        let is_packed = out.is_multiple_of(packed);
        let sample = if is_packed { packed } else { latent_channels };
        let is_gated = out == 2 * sample;
        let source = into.checked_sub(sample)?;
        let fits = (is_gated || out == sample) && (source == 0 || source >= sample);
        fits.then_some(Self { sample, source, is_packed, is_gated })
    }

    /// Latents a side that stand together at a position.
    pub fn latents_a_side(&self) -> usize {
        if self.is_packed { Packed::<()>::SIDE } else { 1 }
    }

    /// Channels of what is seen in the source besides its latents.
    pub fn features(&self) -> usize {
        self.source.saturating_sub(self.sample)
    }

    /// The codec as the UNet reads its latents.
    pub fn codec<'a>(&self, codec: impl Autoencoder + 'a) -> Box<dyn Autoencoder + 'a> {
        if self.is_packed { Box::new(Packed(codec)) } else { Box::new(codec) }
    }

    /// A source's latents with the features of another network's look at it behind them: the means
    /// of `features` where each latent is.
    ///
    /// # Shapes
    /// `latents` `(b, sample, h, w)`, `features` `(b, c, h', w')` of any size → `(b, sample + c, h,
    /// w)`, with four times as many `c` if packed.
    pub fn with_features(&self, latents: &Tensor, features: &Tensor) -> Result<Tensor> {
        const FINER: usize = 2;
        let (_, _, h, w) = latents.dims4()?;
        let finer = self.latents_a_side() * FINER;
        let (h, w) = (h * finer, w * finer);
        let features = features.upsample_nearest2d(h, w)?.avg_pool2d(FINER)?;
        let features = if self.is_packed { pack(&features)? } else { features };
        Tensor::cat(&[latents, &features], 1)
    }
}

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
    /// `(3b, c', h, w)`: the source twice, then zeros; its first channels are its latents.
    source: Tensor,
}

impl<P: NoisePredictor> NoisePredictor for SourceChannels<P> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        let input = Tensor::cat(&[sample, &self.source], 1)?;
        let latents = self.source.narrow(1, 0, sample.dim(1)?)?;
        laid_over(self.predictor.predict(&input, timestep)?, &latents)
    }
}

/// What a network predicts that says what an edit puts down and how much of that shows: its output
/// has the sample's channels twice, first the picture, then a gate before its sigmoid. Where the
/// gate is shut the source stays. A network that has the sample's channels once is left alone.
///
/// # Shapes
/// `output` `(b, c or 2c, h, w)`, `source` `(b, c, h, w)` → `(b, c, h, w)`.
pub fn laid_over(output: Tensor, source: &Tensor) -> Result<Tensor> {
    if output.dim(1)? != 2 * source.dim(1)? {
        return Ok(output);
    }
    let halves = output.chunk(2, 1)?;
    let gate = candle_nn::ops::sigmoid(&halves[1])?;
    source + (gate * (&halves[0] - source)?)?
}

/// How wrong the gates of an output are: the cross entropy of being open where something changes.
///
/// # Shapes
/// `output` `(b, 2c, h, w)`, `changed` `(b, 1, h', w')`, 0 or 1 a pixel → `(b, c, h, w)`.
pub fn gate_error(output: &Tensor, changed: &Tensor, channels: Channels) -> Result<Tensor> {
    let gates = output.chunk(2, 1)?.swap_remove(1);
    let factor = changed.dim(2)? / (gates.dim(2)? * channels.latents_a_side());
    let open = to_latent_mask(changed, factor)?;
    let open = if channels.is_packed { pack(&open)? } else { open };
    let open = open.repeat((1, channels.sample / open.dim(1)?, 1, 1))?;
    ops::softplus(&gates)? - (gates * open)?
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
/// [`source_latents`], perhaps [`Channels::with_features`], `(b, c', h, w)`.
pub fn guided<P: NoisePredictor>(
    predictor: P,
    source: &Tensor,
    scales: Scales,
) -> Result<PictureTextGuidance<SourceChannels<P>>> {
    let source = Tensor::cat(&[source, source, &source.zeros_like()?], 0)?;
    Ok(PictureTextGuidance {
        predictor: SourceChannels { predictor, source },
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

    #[test]
    fn channels_say_what_they_stand_for() {
        let of = |in_channels, out_channels, latent_channels| {
            let sizes = UNet2DConditionModelConfig::default();
            let config = UNet2DConditionModelConfig { in_channels, out_channels, ..sizes };
            let channels = Channels::of(&config, latent_channels)?;
            let Channels { sample, source, is_packed, is_gated } = channels;
            Some((sample, source, is_packed, is_gated))
        };
        assert_eq!(of(8, 4, 4), Some((4, 4, false, false)));
        assert_eq!(of(4, 4, 4), Some((4, 0, false, false)));
        assert_eq!(of(128, 128, 16), Some((64, 64, true, true)));
        assert_eq!(of(320, 128, 16), Some((64, 256, true, true)));
        assert_eq!(of(32, 32, 16), Some((16, 16, false, true)));
        for refused in [of(6, 4, 4), of(8, 6, 4), of(2, 4, 4)] {
            assert_eq!(refused, None);
        }
    }

    #[test]
    fn features_stand_where_their_latents_are() {
        let device = candle_core::Device::Cpu;
        let channels = Channels { sample: 4, source: 8, is_packed: true, is_gated: false };
        let latents = Tensor::zeros((1, 4, 2, 1), candle_core::DType::F32, &device).unwrap();
        let features = Tensor::arange(0f32, 32.0, &device).unwrap().reshape((1, 1, 8, 4)).unwrap();
        let seen = channels.with_features(&latents, &features).unwrap();
        assert_eq!(seen.dims(), [1, 8, 2, 1]);
        let seen = seen.narrow(1, 4, 4).unwrap().flatten_all().unwrap();
        // Each is the mean of a block of two by two.
        assert_eq!(seen.to_vec1::<f32>().unwrap(), [2.5, 18.5, 4.5, 20.5, 10.5, 26.5, 12.5, 28.5]);
    }

    #[test]
    fn a_shut_gate_keeps_the_source_and_an_open_one_shows_the_picture() {
        let device = candle_core::Device::Cpu;
        let source =
            Tensor::new(&[3f32, 3.0, 3.0], &device).unwrap().reshape((1, 3, 1, 1)).unwrap();
        let output = Tensor::new(&[7f32, 7.0, 7.0, -50.0, 0.0, 50.0], &device).unwrap();
        let output = output.reshape((1, 6, 1, 1)).unwrap();
        let seen = laid_over(output, &source).unwrap().flatten_all().unwrap();
        assert_eq!(seen.to_vec1::<f32>().unwrap(), [3.0, 5.0, 7.0]);
        let plain = laid_over(source.clone(), &source).unwrap().flatten_all().unwrap();
        assert_eq!(plain.to_vec1::<f32>().unwrap(), [3.0; 3]);
    }
}
