//! `SourceDecoder`: the UNet that sees the picture it edits, and only has to say what differs.
//!
//! Each latent has a prior: a normal distribution around what is already known there (the
//! reference where one is laid, else the source), tight outside the region to change. Given a
//! noisy sample, the posterior mean of that prior is the prediction of a network that says
//! nothing; the network's output is added at the scale of the posterior's deviation. So an
//! untrained network draws from the prior: it pastes the reference and keeps the rest, up to τ.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::denoise::NoisePredictor;
use crate::unet::{UNet2DConditionModel, UNetConditions};

/// Deviations τ of the prior.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriorDeviations {
    /// Outside the region.
    pub outside: f64,
    /// Inside it, where a reference lies.
    pub reference: f64,
    /// Inside it, where there is none.
    pub imagined: f64,
}

impl Default for PriorDeviations {
    fn default() -> Self {
        Self { outside: 0.03, reference: 0.25, imagined: 1.0 }
    }
}

impl PriorDeviations {
    /// For an edit of the whole picture.
    pub const GLOBAL: Self = Self { outside: 0.5, reference: 0.5, imagined: 0.5 };
}

/// What is known of a window before it is painted, in the UNet's latents.
#[derive(Clone, Debug)]
pub struct SourceWindow {
    /// The source's latents `(b, c, h, w)`.
    pub source: Tensor,
    /// Latents of the references, drawn where the objects shall be `(b, c, h, w)`; zeros where
    /// there is none.
    pub reference: Tensor,
    /// How far each position may change, 0 to 1, `(b, 1, h, w)`.
    pub region: Tensor,
    /// How much of each position the reference covers, 0 to 1, `(b, 1, h, w)`.
    pub reference_alpha: Tensor,
    /// Deviation τ of every item `(b, 1, h, w)`: see [`SourceWindow::new`].
    deviation: Tensor,
}

impl SourceWindow {
    /// # Shapes
    /// `source`, `reference` `(b, c, h, w)`; `region`, `reference_alpha` `(b, 1, h, w)`;
    /// `deviations` b of them.
    pub fn new(
        source: Tensor,
        reference: Tensor,
        region: Tensor,
        reference_alpha: Tensor,
        deviations: &[PriorDeviations],
    ) -> Result<Self> {
        let b = source.dim(0)?;
        if deviations.len() != b {
            candle_core::bail!("{} deviations for {b} windows", deviations.len())
        }
        let column = |of: fn(&PriorDeviations) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = deviations.iter().map(|d| of(d) as f32).collect();
            Tensor::from_vec(values, (b, 1, 1, 1), source.device())?.to_dtype(source.dtype())
        };
        let outside = column(|d| d.outside)?;
        let (known, imagined) = (column(|d| d.reference)?, column(|d| d.imagined)?);
        // a reference also says something of what is around it: the source stays visible there
        let has_reference =
            reference_alpha.flatten_from(1)?.max_keepdim(1)?.reshape((b, 1, 1, 1))?;
        let has_reference = has_reference.gt(0.0)?.to_dtype(source.dtype())?;
        let inside = (&imagined + has_reference.mul(&(known - &imagined)?)?)?;
        let deviation = region.broadcast_mul(&(inside - &outside)?)?.broadcast_add(&outside)?;
        Ok(Self { source, reference, region, reference_alpha, deviation })
    }

    /// The prior's mean: the reference laid over the source.
    ///
    /// # Shapes
    /// `(b, c, h, w)`.
    pub fn mean(&self) -> Result<Tensor> {
        &self.source + (&self.reference - &self.source)?.broadcast_mul(&self.reference_alpha)?
    }

    /// The window repeated, for the halves of guidance.
    pub fn repeat(&self, times: usize) -> Result<Self> {
        let cat = |t: &Tensor| Tensor::cat(&vec![t; times], 0);
        Ok(Self {
            source: cat(&self.source)?,
            reference: cat(&self.reference)?,
            region: cat(&self.region)?,
            reference_alpha: cat(&self.reference_alpha)?,
            deviation: cat(&self.deviation)?,
        })
    }

    /// Channels that the UNet is given for latents of `c` channels.
    pub fn unet_channels(c: usize) -> usize {
        3 * c + 2
    }
}

/// How a noisy window enters the network, and how its output becomes a prediction.
struct Preconditioned {
    /// The network's input `(b, 3c+2, h, w)`.
    input: Tensor,
    /// v of the prior's posterior mean `(b, c, h, w)`.
    base: Tensor,
    /// What the network's output is multiplied with `(b, 1, h, w)`.
    gain: Tensor,
}

/// With x = √ᾱ·x0 + √(1-ᾱ)·ε, x0 ~ N(m, τ²) and D = ᾱτ² + 1 - ᾱ, the posterior mean of x0 has
/// v = √(1-ᾱ)/D · (√ᾱ(1-τ²)·x - m), and its deviation in units of v is τ/√D. The network sees
/// the sample whitened: (x - √ᾱ·m)/√D.
fn precondition(
    window: &SourceWindow,
    sample: &Tensor,
    alpha_bars: &[f64],
) -> Result<Preconditioned> {
    let b = sample.dim(0)?;
    let column = |of: &dyn Fn(f64) -> f64| -> Result<Tensor> {
        let values: Vec<f32> = alpha_bars.iter().map(|a| of(*a) as f32).collect();
        Tensor::from_vec(values, (b, 1, 1, 1), sample.device())?.to_dtype(sample.dtype())
    };
    let (alpha, rest) = (column(&|a| a)?, column(&|a| 1.0 - a)?);
    let (root_alpha, root_rest) = (column(&|a| a.sqrt())?, column(&|a| (1.0 - a).sqrt())?);
    let mean = window.mean()?;
    let variance = window.deviation.sqr()?; // (b, 1, h, w)
    let total = variance.broadcast_mul(&alpha)?.broadcast_add(&rest)?; // D
    let root_total = total.sqrt()?;
    let shrunk = variance.affine(-1.0, 1.0)?.broadcast_mul(&root_alpha)?;
    let base = (sample.broadcast_mul(&shrunk)? - &mean)?
        .broadcast_mul(&total.recip()?.broadcast_mul(&root_rest)?)?;
    let whitened = (sample - mean.broadcast_mul(&root_alpha)?)?.broadcast_div(&root_total)?;
    let parts =
        [&whitened, &window.source, &window.reference, &window.region, &window.reference_alpha];
    Ok(Preconditioned {
        input: Tensor::cat(&parts, 1)?,
        base,
        gain: (&window.deviation / root_total)?,
    })
}

/// A UNet with `3c + 2` input channels as a predictor of v.
pub struct SourceDecoder<'a> {
    /// The model.
    pub unet: &'a UNet2DConditionModel,
    /// As many items as the samples will have.
    pub conditions: UNetConditions,
    /// As many items as the samples will have.
    pub window: SourceWindow,
    /// ᾱ of every training timestep.
    pub alphas_cumprod: Vec<f64>,
}

impl SourceDecoder<'_> {
    /// v at one timestep an item.
    ///
    /// # Shapes
    /// `sample` `(b, c, h, w)`, `timesteps` b values → `(b, c, h, w)`.
    pub fn predict_v(&self, sample: &Tensor, timesteps: &[f64]) -> Result<Tensor> {
        let last = self.alphas_cumprod.len().saturating_sub(1);
        let alpha = |t: &f64| {
            let index = (t.round().max(0.0) as usize).min(last);
            self.alphas_cumprod.get(index).copied().unwrap_or(1.0)
        };
        let alpha_bars: Vec<f64> = timesteps.iter().map(alpha).collect();
        let Preconditioned { input, base, gain } = precondition(&self.window, sample, &alpha_bars)?;
        let output = self.unet.forward(&input, timesteps, &self.conditions)?;
        base + output.broadcast_mul(&gain)?
    }
}

impl NoisePredictor for SourceDecoder<'_> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        self.predict_v(sample, &vec![timestep; sample.dim(0)?])
    }
}

#[cfg(test)]
mod tests {
    use any2pix_nn::{Generator, Parameters};
    use candle_core::{DType, Device};

    use super::*;
    use crate::UNet2DConditionModelConfig;
    use crate::denoise::{Flow, denoise};
    use crate::schedulers::{DDIMScheduler, SchedulerConfig};
    use crate::unet::Context;

    fn window(generator: &mut Generator) -> SourceWindow {
        let device = &Device::Cpu;
        let latents = |g: &mut Generator| g.randn((1, 2, 4, 4), device).unwrap();
        let zero = Tensor::zeros((1, 1, 4, 2), DType::F32, device).unwrap();
        let right = Tensor::cat(&[&zero, &zero.ones_like().unwrap()], 3).unwrap();
        let (source, reference) = (latents(generator), latents(generator));
        let tight = PriorDeviations { outside: 0.01, reference: 0.01, imagined: 1.0 };
        SourceWindow::new(source, reference, right.clone(), right, &[tight]).unwrap()
    }

    #[test]
    fn an_untrained_decoder_pastes_the_reference_and_keeps_the_source() {
        let device = &Device::Cpu;
        let config: UNet2DConditionModelConfig = serde_json::from_str(
            r#"{"in_channels": 8, "out_channels": 2, "block_out_channels": [8, 8],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1,
                "attention_head_dim": 2, "cross_attention_dim": 4, "norm_num_groups": 4}"#,
        )
        .unwrap();
        let unet = UNet2DConditionModel::load(Parameters::new(1).builder(device), &config).unwrap();
        let scheduler_config: SchedulerConfig = serde_json::from_str(
            r#"{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                "prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
                "timestep_spacing": "trailing", "clip_sample": false}"#,
        )
        .unwrap();
        let mut generator = Generator::new(4);
        let window = window(&mut generator);
        let mean = window.mean().unwrap();
        let encoder_hidden_states = Tensor::zeros((1, 1, 4), DType::F32, device).unwrap();
        let context = Context { encoder_hidden_states, image_prompt: None, control: None };
        let decoder = SourceDecoder {
            unet: &unet,
            conditions: UNetConditions { context, added: None },
            window,
            alphas_cumprod: scheduler_config.alphas_cumprod(),
        };
        let scheduler = DDIMScheduler::new(&scheduler_config, 8).unwrap();
        let noise = generator.randn((1, 2, 4, 4), device).unwrap();
        let painted =
            denoise(&decoder, &scheduler, noise, 0, &mut generator, |_| Flow::Continue).unwrap();
        let error = crate::latents::norm(&(painted - mean).unwrap()).unwrap();
        assert!(error < 0.2, "{error}");
    }
}
