//! Stage `ip2p`: a UNet that sees the source in channels of its own learns to follow instructions.

use std::path::Path;
use std::sync::Arc;

use any2pix_diffusion::denoise::{Flow, denoise};
use any2pix_diffusion::draft::to_latent_mask;
use any2pix_diffusion::instruct_pix2pix::{
    Channels, Scales, conditions, gate_error, guided, laid_over, source_latents,
};
use any2pix_diffusion::schedulers::{DDIMScheduler, PredictionType, SchedulerConfig};
use any2pix_diffusion::unet::{
    AttentionControl, AttentionStore, ConditionedUNet, Context, UNetConditions,
};
use any2pix_diffusion::{Autoencoder, UNet2DConditionModel, UNet2DConditionModelConfig};
use any2pix_encoders::clip_text::{ClipTextModel, ClipTextOutput};
use any2pix_encoders::locator::Locator;
use any2pix_nn::{Generator, Parameters};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::pairs::{Batch, Kinds, Pair, Pairs};
use super::watch::Looked;
use super::{Reader, SCHEDULER, TEXT_ENCODER, UNET, Words, codec, eye, watch};
use crate::playroom::splits::Split;
use crate::prefetch::Prefetch;
use crate::recipes::component;
use crate::recipes::noising::Noising;
use crate::recipes::pictures::{contact_sheet, psnr, squared_error, to_pictures};
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss, TrainError};

/// Numbers under `[recipe]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ip2pSettings {
    /// How often each kind of edit is drawn from a Playroom.
    #[serde(default)]
    kinds: Kinds,
    /// How often a whole picture is painted from its caption and no source, as a text-to-image
    /// model does.
    #[serde(default)]
    captions: f32,
    /// A component whose UNet it starts from, and the prefix of the names there.
    #[serde(default)]
    init: Option<Init>,
    /// What is left out, each this often: the text, both, the source.
    #[serde(default = "dropout")]
    conditioning_dropout: f32,
    /// How often the timestep is the last, where sampling begins.
    #[serde(default)]
    last_timestep: f32,
    /// How much more an error counts where source and target differ.
    #[serde(default)]
    changed_weight: f64,
    /// How much it counts that the UNet looks at the wrong tokens: see [`watch`].
    #[serde(default)]
    attention_weight: f64,
    /// How much it counts that gates are open where nothing changes, or shut where something does.
    #[serde(default)]
    gate_weight: f64,
    /// With a number, only that many pairs are ever shown: a first look at whether it learns.
    #[serde(default)]
    overfit: Option<usize>,
}

/// Where a UNet starts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Init {
    component: String,
    #[serde(default)]
    prefix: String,
}

fn dropout() -> f32 {
    0.05
}

/// Pairs that `evaluate` looks at, and how many at once.
const HELD_OUT: usize = 64;
const TOGETHER: usize = 16;
/// Steps of evaluation and samples.
const STEPS: usize = 8;
/// Side of the pictures that the embedded codec and UNet are made for.
const SIDE: u32 = 128;

/// The stage.
pub struct Ip2pRecipe {
    parameters: Parameters,
    unet: UNet2DConditionModel,
    text_encoder: ClipTextModel,
    reader: Reader,
    words: Words,
    settings: Ip2pSettings,
    scheduler: SchedulerConfig,
    noising: Noising,
    vae: Box<dyn Autoencoder>,
    channels: Channels,
    eye: Option<Locator>,
    batches: Prefetch<Batch>,
    pairs: Arc<Pairs>,
}

/// What the UNet sees of a batch, and what it shall say of that.
struct Task {
    timesteps: Vec<f64>,
    /// `(b, c, h, w)`, both.
    noised: Tensor,
    wanted: Tensor,
}

/// What batches are drawn of.
#[derive(Clone, Copy)]
struct Draw {
    split: Split,
    captions: f32,
    overfit: Option<usize>,
}

impl Draw {
    fn pair(self, pairs: &Pairs, generator: &mut Generator) -> Result<Pair> {
        if self.captions > 0.0
            && generator.chance(self.captions)
            && let Some(pair) = pairs.caption(self.split, generator)
        {
            return Ok(pair);
        }
        pairs.draw(self.split, generator)
    }

    /// The pairs of one batch: the same few for ever when overfitting.
    fn batch(self, pairs: &Pairs, size: usize, generator: &mut Generator) -> Result<Batch> {
        let seen = Self { split: Split::Train, ..self };
        let pair = |i: usize| match self.overfit {
            None => self.pair(pairs, generator),
            Some(few) => seen.pair(pairs, &mut Generator::new((i % few.max(1)) as u64)),
        };
        Batch::new((0..size).map(pair).collect::<Result<_>>()?)
    }
}

/// Puts what fits of another UNet's weights in place: `conv_in` is cut or widened with zeros to
/// the channels that there are; a `conv_out` of other channels stays.
fn start_from(init: &Init, model: &Path, parameters: &Parameters) -> Result<()> {
    let weights = component::weights(model, &init.component)?;
    for (name, var) in parameters.named() {
        let Some(tensor) = weights.tensor(&format!("{}{name}", init.prefix)) else { continue };
        let tensor = tensor.to_dtype(DType::F32)?;
        if name == "conv_in.weight" {
            var.set(&fitted(&tensor, var.dim(1)?)?)?;
        } else if tensor.dims() == var.dims() {
            var.set(&tensor)?;
        }
    }
    Ok(())
}

/// # Shapes
/// `(o, i, k, k)` → `(o, channels, k, k)`.
fn fitted(weight: &Tensor, channels: usize) -> Result<Tensor> {
    let (o, i, h, w) = weight.dims4()?;
    if i >= channels {
        return Ok(weight.narrow(1, 0, channels)?.contiguous()?);
    }
    let zeros = Tensor::zeros((o, channels - i, h, w), weight.dtype(), weight.device())?;
    Ok(Tensor::cat(&[weight, &zeros], 1)?)
}

impl Ip2pRecipe {
    /// Opens the data, the codec and the text encoder, and starts a UNet.
    pub fn open(context: &StageContext) -> Result<Self> {
        let settings: Ip2pSettings = context.settings.recipe()?;
        let model_dir = &context.model;
        let config: UNet2DConditionModelConfig = component::config(model_dir, UNET)?;
        let scheduler: SchedulerConfig = component::json(&model_dir.join(SCHEDULER))?;
        let seed = context.settings.seed;
        let parameters = Parameters::new(seed);
        let unet = UNet2DConditionModel::load(parameters.builder(&Device::Cpu), &config)
            .map_err(component::misfit)?;
        if let Some(init) = &settings.init {
            start_from(init, model_dir, &parameters)?;
        }
        let codec = codec(model_dir)?;
        let Some(channels) = Channels::of(&config, codec.latent_channels()) else {
            return Err(component::misfit("the UNet's channels do not fit the codec's"));
        };
        let vae = channels.codec(codec);
        let eye = (channels.features() > 0).then(|| eye(model_dir)).transpose()?;
        let reader = Reader::open(model_dir)?;
        let text_weights = component::weights(model_dir, TEXT_ENCODER)?;
        let text_builder = text_weights.builder(DType::F32, &Device::Cpu);
        let text_encoder = ClipTextModel::load(text_builder, &reader.config)?;
        text_weights.finish(&[])?;
        let pairs = Pairs::open(&context.data, model_dir, settings.kinds.clone(), SIDE)?;
        let pairs = Arc::new(pairs);
        let (captions, overfit) = (settings.captions, settings.overfit);
        let draw = Draw { split: Split::Train, captions, overfit };
        let (shared, size) = (pairs.clone(), context.settings.batch);
        let batches =
            Prefetch::new(seed, 2, 4, move |_, generator| draw.batch(&shared, size, generator));
        Ok(Self {
            noising: Noising::new(scheduler.alphas_cumprod(), settings.last_timestep),
            words: Words::read()?,
            parameters,
            unet,
            text_encoder,
            reader,
            settings,
            scheduler,
            vae,
            channels,
            eye,
            batches,
            pairs,
        })
    }

    fn read<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<ClipTextOutput> {
        Ok(self.text_encoder.forward(&self.reader.ids(texts)?)?)
    }

    /// # Shapes
    /// → `(1, tokens, hidden)`, without a graph.
    fn nothing(&self) -> Result<Tensor> {
        Ok(self.read([self.words.negative.as_str()])?.last_hidden_state.detach())
    }

    /// # Shapes
    /// `(b, 3, h, w)` → `(b, c, h/8, w/8)`, without a graph.
    fn latents(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok(self.vae.image_to_latents(pictures, None)?.detach())
    }

    /// # Shapes
    /// → `(b, c, h/8, w/8)`, what the UNet sees of the sources; zeros where there is none.
    fn sources(&self, batch: &Batch, said: &ClipTextOutput) -> Result<Tensor> {
        let latents = source_latents(&*self.vae, &batch.source)?.detach();
        let seen = match &self.eye {
            None => latents,
            Some(eye) => {
                let seen = eye.see(&batch.source)?;
                let features = eye.features(&seen, said.text_embeds.as_ref())?.detach();
                self.channels.with_features(&latents, &features)?
            }
        };
        only(&seen, batch.has_source.iter().copied())
    }

    /// Texts and sources with some left out: of one draw an item, below 2p the text is, from p
    /// to 3p the source. A text that is left out says nothing; what a locator was asked with it
    /// belongs to the source, as it does in both guidances of an edit.
    fn dropped(&self, batch: &mut Batch, generator: &mut Generator) -> Result<(Tensor, Tensor)> {
        let p = self.settings.conditioning_dropout;
        let draws: Vec<f32> = batch.texts.iter().map(|_| generator.uniform()).collect();
        let said = self.read(batch.texts.iter().map(String::as_str))?;
        let seen = self.sources(batch, &said)?;
        let mut tokens = said.last_hidden_state.detach();
        let silent: Vec<bool> = draws.iter().map(|draw| *draw < 2.0 * p).collect();
        if silent.contains(&true) {
            let nothing = self.nothing()?;
            let row = |(item, silent): (usize, &bool)| match silent {
                true => Ok(nothing.clone()),
                false => tokens.narrow(0, item, 1),
            };
            let rows = silent.iter().enumerate().map(row);
            tokens = Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        }
        for (_, looked) in silent.iter().zip(&mut batch.looked).filter(|(silent, _)| **silent) {
            *looked = Looked::default();
        }
        let kept = draws.iter().map(|draw| !(p..3.0 * p).contains(draw));
        Ok((tokens, only(&seen, kept)?))
    }

    /// A target under noise of timesteps of chance.
    fn task(&self, target: Tensor, generator: &mut Generator) -> Result<Task> {
        let timesteps = self.noising.timesteps(target.dim(0)?, generator);
        let (signal, rest) = self.noising.scales(&timesteps)?;
        let noise = generator.randn_like(&target)?;
        let noised = (target.broadcast_mul(&signal)? + noise.broadcast_mul(&rest)?)?;
        let wanted = match self.scheduler.prediction_type {
            PredictionType::Sample => target,
            PredictionType::Epsilon => noise,
            PredictionType::VPrediction => {
                (noise.broadcast_mul(&signal)? - target.broadcast_mul(&rest)?)?
            }
        };
        Ok(Task { timesteps, noised, wanted })
    }

    /// How wrong the gates are of those items that have a source.
    ///
    /// # Shapes
    /// `output` `(b, 2c, h, w)` → `()`; zero of a UNet without gates.
    fn unsure(&self, output: &Tensor, batch: &Batch) -> Result<Tensor> {
        if !self.channels.is_gated || self.settings.gate_weight == 0.0 {
            return Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?);
        }
        let error = gate_error(output, &batch.changed, self.channels)?;
        Ok(only(&error, batch.has_source.iter().copied())?.mean_all()?)
    }

    /// Edits pictures from noise.
    ///
    /// # Shapes
    /// → `(b, 3, h, w)` in `[-1, 1]`.
    fn edit(&self, batch: &Batch, generator: &mut Generator) -> Result<Tensor> {
        let said = self.read(batch.texts.iter().map(String::as_str))?;
        let tokens = &said.last_hidden_state;
        let nothing = self.nothing()?.broadcast_as(tokens.shape())?.contiguous()?;
        let conditions = conditions(tokens, &nothing)?;
        let source = self.sources(batch, &said)?;
        let predictor = ConditionedUNet { unet: &self.unet, conditions };
        let scales = Scales { text: 1.0, picture: 1.0 };
        let guided = guided(predictor, &source, scales)?;
        let scheduler = DDIMScheduler::new(&self.scheduler, STEPS).map_err(component::misfit)?;
        let noise = generator.randn_like(&source.narrow(1, 0, self.channels.sample)?)?;
        let latents =
            denoise(&guided, &scheduler, noise, 0, &mut Generator::new(0), |_| Flow::Continue)?;
        Ok(self.vae.latents_to_image(&latents)?.clamp(-1.0, 1.0)?.detach())
    }

    fn look_at(&self, size: usize, captions: f32, generator: &mut Generator) -> Result<Batch> {
        let overfit = self.settings.overfit;
        let draw = Draw { split: Split::HeldOut, captions, overfit };
        draw.batch(&self.pairs, size, generator)
    }
}

/// `latents` of those items that are `kept`, zeros for the others.
fn only(latents: &Tensor, kept: impl Iterator<Item = bool>) -> Result<Tensor> {
    let kept: Vec<f32> = kept.map(|kept| f32::from(u8::from(kept))).collect();
    let kept = Tensor::from_vec(kept, (latents.dim(0)?, 1, 1, 1), &Device::Cpu)?;
    Ok(latents.broadcast_mul(&kept)?)
}

impl Recipe for Ip2pRecipe {
    fn name(&self) -> &str {
        "ip2p"
    }

    fn component(&self) -> &str {
        UNET
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, step: u64, generator: &mut Generator) -> Result<StepLoss> {
        let mut batch = self.batches.batch(step)?;
        let target = self.latents(&batch.target)?;
        let b = target.dim(0)?;
        let (tokens, source) = self.dropped(&mut batch, generator)?;
        let Task { timesteps, noised, wanted } = self.task(target, generator)?;
        let store = AttentionStore::default();
        let control = (self.settings.attention_weight > 0.0)
            .then(|| AttentionControl::watched_by(store.clone()));
        let context = Context { encoder_hidden_states: tokens, image_prompt: None, control };
        let conditions = UNetConditions { context, added: None };
        let input = Tensor::cat(&[&noised, &source], 1)?;
        let predicted = self.unet.forward(&input, &timesteps, &conditions)?;
        let unsure = self.unsure(&predicted, &batch)?;
        let predicted = laid_over(predicted, &source.narrow(1, 0, self.channels.sample)?)?;
        let changed = to_latent_mask(&batch.changed, self.vae.spatial_factor())?;
        let error = (predicted - wanted)?.sqr()?.mean_keepdim(1)?;
        let weights = changed.affine(self.settings.changed_weight, 1.0)?;
        let loss = (error.detach() * &changed)?.sum_all()?.to_scalar::<f32>()?;
        let inside = loss / changed.sum_all()?.to_scalar::<f32>()?.max(1.0);
        let all = error.detach().mean_all()?.to_scalar::<f32>()?;
        let watched = store.take();
        let astray = watch::astray(&watched, &batch.looked)?;
        let unfound = watch::unfound(&watched, &batch.looked)?;
        let loss = ((error * weights)?.mean_all()?
            + ((&astray + &unfound)? * self.settings.attention_weight)?)?;
        let loss = (loss + (&unsure * self.settings.gate_weight)?)?;
        let value = |t: &Tensor| t.detach().to_scalar::<f32>().map(f64::from);
        let loss = StepLoss::new(loss, b).log("all", f64::from(all));
        let loss = loss.log("inside", f64::from(inside)).log("astray", value(&astray)?);
        Ok(loss.log("unfound", value(&unfound)?).log("unsure", value(&unsure)?))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let mut sums = [(0.0, 0.0); 3];
        for _ in 0..HELD_OUT / TOGETHER {
            let batch = self.look_at(TOGETHER, 0.0, generator)?;
            let edited = self.edit(&batch, generator)?;
            let [inside, outside] = squared_error(&edited, &batch.target, &batch.changed)?;
            let [of_source, _] = squared_error(&batch.source, &batch.target, &batch.changed)?;
            let errors = [inside, of_source, outside];
            for (sum, (error, count)) in sums.iter_mut().zip(errors) {
                *sum = (sum.0 + error, sum.1 + count);
            }
        }
        let names = ["psnr_inside", "psnr_inside_of_source", "psnr_outside"];
        let figure = |(name, (error, count)): (&str, (f64, f64))| {
            (name.to_string(), psnr(error / count.max(1.0)))
        };
        Ok(names.into_iter().zip(sums).map(figure).collect())
    }

    fn sample(&mut self, dir: &Path, generator: &mut Generator) -> Result<()> {
        for (name, captions) in [("edits", 0.0), ("captions", 1.0)] {
            let batch = self.look_at(TOGETHER, captions, generator)?;
            let edited = self.edit(&batch, generator)?;
            let rows = [&batch.source, &edited, &batch.target].map(to_pictures);
            let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
            contact_sheet(&rows, &dir.join(format!("{name}.png")))?;
            let path = dir.join(format!("{name}.txt"));
            std::fs::write(&path, batch.texts.join("\n")).map_err(TrainError::io(&path))?;
        }
        Ok(())
    }

    fn export(&self, dir: &Path) -> Result<()> {
        component::export(dir, UNET, &self.parameters)
    }
}
