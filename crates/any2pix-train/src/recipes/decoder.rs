//! Stage `decoder`: the UNet and its adapter learn to paint windows around edits.

use std::path::Path;
use std::sync::Arc;

use any2pix_diffusion::denoise::{Flow, NoisePredictor, denoise};
use any2pix_diffusion::draft::to_latent_mask;
use any2pix_diffusion::guidance::ClassifierFreeGuidance;
use any2pix_diffusion::ip_adapter::AdaptedUNet;
use any2pix_diffusion::schedulers::{DDIMScheduler, SchedulerConfig};
use any2pix_diffusion::source_decoder::{PriorDeviations, SourceDecoder, SourceWindow};
use any2pix_diffusion::unet::{ConditionedUNet, UNetConditions};
use any2pix_diffusion::{
    Autoencoder, ImageProjModelConfig, PatchCodec, UNet2DConditionModelConfig,
};
use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_nn::{Generator, Parameters};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::Deserialize;

use super::component;
use super::cut::WINDOW;
use super::noising::Noising;
use super::pictures::{contact_sheet, psnr, squared_error, to_pictures, to_tensor};
use super::windows::{Window, window};
use crate::playroom::World;
use crate::playroom::splits::Split;
use crate::prefetch::Prefetch;
use crate::stages::StageContext;
use crate::{Recipe, Result, StepLoss};

/// Numbers under `[recipe]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecoderSettings {
    /// The component that is trained: `unet` (source channels) or `unet_inversion` (none).
    unet: String,
    /// How often the picture's embedding is left out.
    #[serde(default = "half")]
    drop_generated: f32,
    /// How often the object's embedding is left out.
    #[serde(default = "half")]
    drop_subject: f32,
    /// How often a wanted object is laid in the draft.
    #[serde(default = "half")]
    reference: f32,
    /// Largest noise on the picture's embedding, as a part of its norm.
    #[serde(default = "noise")]
    generated_noise: f32,
    /// How often the timestep is the last.
    #[serde(default)]
    last_timestep: f32,
    /// Computes the UNet's blocks twice instead of keeping what is in them: for large ones.
    #[serde(default)]
    gradient_checkpointing: bool,
    /// With a number, only that many windows are ever shown: a first look at whether it learns.
    #[serde(default)]
    overfit: Option<usize>,
}

fn half() -> f32 {
    0.5
}

fn noise() -> f32 {
    0.5
}

/// Windows that `evaluate` looks at, with and without reference each.
const HELD_OUT: usize = 32;
/// Steps and guidance of evaluation and samples.
const STEPS: usize = 12;
const GUIDANCE: f64 = 1.5;

/// Windows as tensors.
struct Batch {
    source: Tensor,
    target: Tensor,
    draft: Tensor,
    region: Tensor,
    alpha: Tensor,
    changed: Tensor,
    deviations: Vec<PriorDeviations>,
    generated: Vec<RgbImage>,
    subjects: Vec<Option<RgbImage>>,
}

impl Batch {
    fn new(windows: Vec<Window>) -> Result<Self> {
        let (b, side) = (windows.len(), WINDOW as usize);
        let masks = |of: &dyn Fn(&Window) -> Vec<f32>| -> Result<Tensor> {
            let values: Vec<f32> = windows.iter().flat_map(of).collect();
            Ok(Tensor::from_vec(values, (b, 1, side, side), &Device::Cpu)?)
        };
        Ok(Self {
            source: to_tensor(windows.iter().map(|w| &w.source))?,
            target: to_tensor(windows.iter().map(|w| &w.target))?,
            draft: to_tensor(windows.iter().map(|w| &w.draft))?,
            region: masks(&|w| w.region.clone())?,
            alpha: masks(&|w| w.alpha.clone())?,
            changed: masks(&|w| w.changed.pixels().map(|p| f32::from(p[0] > 0)).collect())?,
            deviations: windows.iter().map(|w| w.deviations).collect(),
            subjects: windows.iter().map(|w| w.subject.clone()).collect(),
            generated: windows.into_iter().map(|w| w.scene).collect(),
        })
    }
}

/// The stage.
pub struct DecoderRecipe {
    parameters: Parameters,
    model: AdaptedUNet,
    config: UNet2DConditionModelConfig,
    settings: DecoderSettings,
    scheduler: SchedulerConfig,
    noising: Noising,
    vae: PatchCodec,
    imagebind: ImageBindModel,
    batches: Prefetch<Batch>,
    world: Arc<World>,
}

impl DecoderRecipe {
    /// Opens the world, the codec and the encoder, and starts a fresh UNet.
    pub fn open(context: &StageContext) -> Result<Self> {
        let settings: DecoderSettings = context.settings.recipe()?;
        let model_dir = &context.model;
        let config: UNet2DConditionModelConfig = component::config(model_dir, &settings.unet)?;
        let adapter: ImageProjModelConfig = component::config(model_dir, "ip_adapter")?;
        let scheduler: SchedulerConfig =
            component::json(&model_dir.join("scheduler/scheduler_config.json"))?;
        let seed = context.settings.seed;
        let parameters = Parameters::new(seed);
        let vb = parameters.builder(&Device::Cpu);
        let mut model =
            AdaptedUNet::load(vb.pp("unet"), vb, &config, &adapter).map_err(component::misfit)?;
        if settings.gradient_checkpointing {
            model.unet.enable_gradient_checkpointing();
        }
        let vae_weights = component::weights(model_dir, "vae")?;
        let vae = PatchCodec::load(
            vae_weights.builder(DType::F32, &Device::Cpu),
            &component::config(model_dir, "vae")?,
        )
        .map_err(component::misfit)?;
        vae_weights.finish(&[])?;
        let world = Arc::new(World::open(&context.data).map_err(component::misfit)?);
        let (batch, shared) = (context.settings.batch, world.clone());
        let (reference, overfit) = (settings.reference, settings.overfit);
        let batches = Prefetch::new(seed, 2, 4, move |_, generator| {
            let windows = (0..batch).map(|i| match overfit {
                None => window(&shared, Split::Train, reference, generator),
                Some(few) => {
                    let mut same = Generator::new((i % few.max(1)) as u64);
                    window(&shared, Split::Train, reference, &mut same)
                }
            });
            Batch::new(windows.collect::<Result<_>>()?)
        });
        Ok(Self {
            imagebind: component::imagebind(model_dir)?,
            noising: Noising::new(scheduler.alphas_cumprod(), settings.last_timestep),
            parameters,
            model,
            config,
            settings,
            scheduler,
            vae,
            batches,
            world,
        })
    }

    fn sees_source(&self) -> bool {
        self.config.in_channels == SourceWindow::unet_channels(self.vae.latent_channels())
    }

    /// # Shapes
    /// `(b, 3, h, w)` → `(b, c, h/8, w/8)`, without a graph.
    fn latents(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok(self.vae.image_to_latents(pictures, None)?.detach())
    }

    fn window_latents(&self, batch: &Batch) -> Result<SourceWindow> {
        let factor = self.vae.spatial_factor();
        let alpha = to_latent_mask(&batch.alpha, factor)?;
        let drafted = alpha.gt(0.0)?.to_dtype(DType::F32)?;
        let reference = self.latents(&batch.draft)?.broadcast_mul(&drafted)?;
        let region = to_latent_mask(&batch.region, factor)?;
        let source = self.latents(&batch.source)?;
        Ok(SourceWindow::new(source, reference, region, alpha, &batch.deviations)?)
    }

    /// Embeddings of the scenes and the objects, where an object is given.
    ///
    /// # Shapes
    /// Two of `(b, e)`.
    fn embeddings(&self, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let generated = self.imagebind.encode_images(&batch.generated)?.detach();
        let given: Vec<RgbImage> = batch.subjects.iter().flatten().cloned().collect();
        let encoded = self.imagebind.encode_images(&given)?.detach();
        let zero = generated.narrow(0, 0, 1)?.zeros_like()?;
        let mut next = 0;
        let mut rows = Vec::new();
        for subject in &batch.subjects {
            rows.push(if subject.is_some() { encoded.narrow(0, next, 1)? } else { zero.clone() });
            next += usize::from(subject.is_some());
        }
        Ok((generated, Tensor::cat(&rows, 0)?))
    }

    /// The embeddings as training gives them: noisy, or left out.
    fn dropped(&self, batch: &Batch, generator: &mut Generator) -> Result<(Tensor, Tensor)> {
        let (generated, subject) = self.embeddings(batch)?;
        let (b, width) = generated.dims2()?;
        let mut kept = |probability: f32| -> Result<Tensor> {
            let keep: Vec<f32> =
                (0..b).map(|_| f32::from(!generator.chance(probability))).collect();
            Ok(Tensor::from_vec(keep, (b, 1), &Device::Cpu)?)
        };
        let keep_generated = kept(self.settings.drop_generated)?;
        let keep_subject = kept(self.settings.drop_subject)?;
        let most = self.settings.generated_noise * EMBEDDING_NORM as f32 / (width as f32).sqrt();
        let loud: Vec<f32> = (0..b).map(|_| generator.uniform_in(0.0, most)).collect();
        let loud = Tensor::from_vec(loud, (b, 1), &Device::Cpu)?;
        let noise = generator.randn_like(&generated)?.broadcast_mul(&loud)?;
        let generated = (generated + noise)?.broadcast_mul(&keep_generated)?;
        Ok((generated, subject.broadcast_mul(&keep_subject)?))
    }

    fn predict(
        &self,
        batch: &Batch,
        sample: &Tensor,
        timesteps: &[f64],
        conditions: UNetConditions,
    ) -> Result<Tensor> {
        if !self.sees_source() {
            return Ok(self.model.unet.forward(sample, timesteps, &conditions)?);
        }
        let window = self.window_latents(batch)?;
        let alphas_cumprod = self.noising.alphas_cumprod.clone();
        let decoder = SourceDecoder { unet: &self.model.unet, conditions, window, alphas_cumprod };
        Ok(decoder.predict_v(sample, timesteps)?)
    }

    /// Paints held-out or training windows from noise.
    ///
    /// # Shapes
    /// → `(b, 3, h, w)` in `[-1, 1]`.
    fn paint(&self, batch: &Batch, generator: &mut Generator) -> Result<Tensor> {
        let (generated, subject) = self.embeddings(batch)?;
        let conditions = self.model.guided_conditions(&generated, &subject, SIZE, 1.0)?;
        let noise = generator.randn_like(&self.latents(&batch.source)?)?;
        let latents = if self.sees_source() {
            let window = self.window_latents(batch)?.repeat(2)?;
            let alphas_cumprod = self.noising.alphas_cumprod.clone();
            let unet = &self.model.unet;
            self.sample_from(SourceDecoder { unet, conditions, window, alphas_cumprod }, noise)?
        } else {
            self.sample_from(ConditionedUNet { unet: &self.model.unet, conditions }, noise)?
        };
        Ok(self.vae.latents_to_image(&latents)?.clamp(-1.0, 1.0)?.detach())
    }

    fn sample_from(&self, predictor: impl NoisePredictor, noise: Tensor) -> Result<Tensor> {
        let guided =
            ClassifierFreeGuidance { predictor, guidance_scale: GUIDANCE, guidance_rescale: 0.0 };
        let scheduler = DDIMScheduler::new(&self.scheduler, STEPS).map_err(component::misfit)?;
        let mut unused = Generator::new(0);
        Ok(denoise(&guided, &scheduler, noise, 0, &mut unused, |_| Flow::Continue)?)
    }

    fn look_at(&self, count: usize, reference: f32, generator: &mut Generator) -> Result<Batch> {
        let (split, overfit) = match self.settings.overfit {
            Some(few) => (Split::Train, few.max(1)),
            None => (Split::HeldOut, usize::MAX),
        };
        let windows = (0..count).map(|i| match overfit {
            usize::MAX => window(&self.world, split, reference, generator),
            few => {
                let mut same = Generator::new((i % few) as u64);
                window(&self.world, split, self.settings.reference, &mut same)
            }
        });
        Batch::new(windows.collect::<Result<_>>()?)
    }
}

/// Norm of embeddings.
const EMBEDDING_NORM: f64 = 20.0;
/// Height and width of a window.
const SIZE: (usize, usize) = (WINDOW as usize, WINDOW as usize);

impl Recipe for DecoderRecipe {
    fn name(&self) -> &str {
        match self.sees_source() {
            true => "decoder",
            false => "decoder_inversion",
        }
    }

    fn component(&self) -> &str {
        &self.settings.unet
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn loss(&mut self, step: u64, generator: &mut Generator) -> Result<StepLoss> {
        let batch = self.batches.batch(step)?;
        let target = self.latents(&batch.target)?;
        let b = target.dim(0)?;
        let timesteps = self.noising.timesteps(b, generator);
        let (signal, rest) = self.noising.scales(&timesteps)?;
        let noise = generator.randn_like(&target)?;
        let sample = (target.broadcast_mul(&signal)? + noise.broadcast_mul(&rest)?)?;
        let v = (noise.broadcast_mul(&signal)? - target.broadcast_mul(&rest)?)?;
        let (generated, subject) = self.dropped(&batch, generator)?;
        let conditions = self.model.conditions(&generated, &subject, SIZE, 1.0)?;
        let predicted = self.predict(&batch, &sample, &timesteps, conditions)?;
        // Every timestep weighs the same: min-SNR weights (Hang et al. 2023) are zero at pure
        // noise, where a few steps of sampling settle most of the picture.
        let error = (predicted - v)?.sqr()?;
        let changed = to_latent_mask(&batch.changed, self.vae.spatial_factor())?;
        let inside = error.detach().mean_keepdim(1)?.broadcast_mul(&changed)?.sum_all()?;
        let inside = (inside / f64::from(changed.sum_all()?.to_scalar::<f32>()?.max(1.0)))?;
        let loss = error.mean_all()?;
        Ok(StepLoss::new(loss, b).log("inside", f64::from(inside.to_scalar::<f32>()?)))
    }

    fn evaluate(&mut self, generator: &mut Generator) -> Result<Vec<(String, f64)>> {
        let mut figures = Vec::new();
        for (name, reference) in [("reference", 1.0), ("imagined", 0.0)] {
            let mut sums = [(0.0, 0.0); 4];
            for _ in 0..HELD_OUT / 8 {
                let batch = self.look_at(8, reference, generator)?;
                let painted = self.paint(&batch, generator)?;
                let ours = squared_error(&painted, &batch.target, &batch.changed)?;
                let draft = squared_error(&batch.draft, &batch.target, &batch.changed)?;
                for (sum, (error, count)) in sums.iter_mut().zip(ours.into_iter().chain(draft)) {
                    *sum = (sum.0 + error, sum.1 + count);
                }
            }
            let figure = |(error, count): (f64, f64)| psnr(error / count.max(1.0));
            figures.push((format!("{name}_psnr_inside"), figure(sums[0])));
            figures.push((format!("{name}_psnr_outside"), figure(sums[1])));
            figures.push((format!("{name}_psnr_inside_of_draft"), figure(sums[2])));
        }
        Ok(figures)
    }

    fn sample(&mut self, dir: &Path, generator: &mut Generator) -> Result<()> {
        for (name, reference) in [("reference", 1.0), ("imagined", 0.0)] {
            let batch = self.look_at(10, reference, generator)?;
            let painted = self.paint(&batch, generator)?;
            let rows = [&batch.source, &batch.draft, &painted, &batch.target].map(to_pictures);
            let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
            contact_sheet(&rows, &dir.join(format!("{name}.png")))?;
        }
        Ok(())
    }

    fn export(&self, dir: &Path) -> Result<()> {
        component::export(dir, &self.settings.unet, &self.parameters)
    }
}
