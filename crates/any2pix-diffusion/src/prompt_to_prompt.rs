//! Prompt-to-Prompt as the data of InstructPix2Pix were made (Brooks et al. 2023, section 3.1.2):
//! two captions are painted from one noise, and for the first part of the steps the second looks
//! where the first looks, in every self-attention.

use any2pix_nn::Generator;
use candle_core::{Result, Tensor};

use crate::denoise::{Flow, NoisePredictor, NoiseSource, Progress, denoise};
use crate::guidance::guide;
use crate::instruct_pix2pix::laid_over;
use crate::schedulers::Scheduler;
use crate::unet::{AttentionControl, Context, UNet2DConditionModel, UNetConditions};

/// What a pair of pictures depends on besides its captions and its ancestral noise.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Standard normal, `(1, c, h, w)`.
    pub noise: Tensor,
    /// Maps are replaced at step `i` of `n` while this is larger than `i / (n - 1)`.
    pub threshold: f32,
    /// How firmly the captions are followed; 1 is no guidance.
    pub guidance_scale: f32,
}

/// What threshold and guidance are drawn from, uniformly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranges {
    /// Of the threshold.
    pub threshold: [f32; 2],
    /// Of the guidance.
    pub guidance: [f32; 2],
}

impl Draw {
    /// In the order of the published program: noise, threshold, guidance. What `generator` gives
    /// next is the ancestral noise.
    ///
    /// # Shapes
    /// `latents` channels, height and width.
    pub fn new(
        generator: &mut Generator,
        latents: (usize, usize, usize),
        ranges: &Ranges,
    ) -> Result<Self> {
        let (c, h, w) = latents;
        let noise = generator.randn((1, c, h, w), &candle_core::Device::Cpu)?;
        let mut within = |[low, high]: [f32; 2]| generator.uniform_in(low, high);
        let (threshold, guidance_scale) = (within(ranges.threshold), within(ranges.guidance));
        Ok(Self { noise, threshold, guidance_scale })
    }
}

/// How many of the first of `steps` steps have their maps replaced.
fn replaced_steps(threshold: f32, steps: usize) -> usize {
    let last = steps.saturating_sub(1).max(1) as f64;
    (0..steps).take_while(|index| f64::from(threshold) > *index as f64 / last).count()
}

/// What the UNet reads in the batch `[nothing, nothing, first caption, second caption]`.
///
/// # Shapes
/// All `(1, n, d)`.
fn conditions(
    negative: &Tensor,
    captions: [&Tensor; 2],
    control: Option<AttentionControl>,
) -> Result<UNetConditions> {
    let encoder_hidden_states = Tensor::cat(&[negative, negative, captions[0], captions[1]], 0)?;
    let context = Context { encoder_hidden_states, image_prompt: None, control };
    Ok(UNetConditions { context, added: None })
}

/// Whose maps each item of that batch has while they are replaced.
const ROWS: [u32; 4] = [0, 0, 2, 2];

/// Predicts both pictures of a pair.
struct PairPredictor<'a> {
    unet: &'a UNet2DConditionModel,
    free: UNetConditions,
    bound: UNetConditions,
    /// The timesteps at which maps are replaced.
    replaced_at: &'a [f64],
    guidance_scale: f64,
}

impl NoisePredictor for PairPredictor<'_> {
    fn predict(&self, sample: &Tensor, timestep: f64) -> Result<Tensor> {
        let is_bound = self.replaced_at.contains(&timestep);
        let conditions = if is_bound { &self.bound } else { &self.free };
        let (b, c, h, w) = sample.dims4()?;
        // A UNet that edits has channels for a source: none is given.
        let others = self.unet.config().in_channels.saturating_sub(c);
        let both = Tensor::cat(&[sample, sample], 0)?;
        let input = match others {
            0 => both.clone(),
            _ => {
                let zeros = Tensor::zeros((2 * b, others, h, w), both.dtype(), both.device())?;
                Tensor::cat(&[&both, &zeros], 1)?
            }
        };
        let all = self.unet.forward(&input, &vec![timestep; 2 * b], conditions)?;
        let all = laid_over(all, &both.zeros_like()?)?;
        let halves = all.chunk(2, 0)?;
        guide(&halves[0], &halves[1], self.guidance_scale)
    }
}

/// One noise for both pictures.
struct Shared<'a>(&'a mut Generator);

impl NoiseSource for Shared<'_> {
    fn next_like(&mut self, sample: &Tensor) -> Result<Tensor> {
        let one = self.0.next_like(&sample.narrow(0, 0, 1)?)?;
        Tensor::cat(&[&one, &one], 0)
    }
}

/// What paints pairs.
pub struct PromptToPrompt<'a> {
    /// With `out_channels` input channels, or further ones that an edit's source would stand in.
    pub unet: &'a UNet2DConditionModel,
    /// The steps.
    pub scheduler: &'a dyn Scheduler,
    /// The text of nothing, `(1, n, d)`.
    pub negative: &'a Tensor,
    /// Whether maps of cross-attention are replaced, too; the published program leaves them.
    pub cross_attention: bool,
}

impl PromptToPrompt<'_> {
    /// The latents of both pictures; `generator` gives the ancestral noise.
    ///
    /// # Shapes
    /// `captions` `(1, n, d)` each → `(2, c, h, w)`.
    pub fn paint(
        &self,
        captions: [&Tensor; 2],
        draw: &Draw,
        generator: &mut Generator,
        watch: impl FnMut(Progress) -> Flow,
    ) -> Result<Tensor> {
        let timesteps = self.scheduler.timesteps();
        let replaced = replaced_steps(draw.threshold, timesteps.len());
        let control = AttentionControl::new(&ROWS, self.cross_attention)?;
        let predictor = PairPredictor {
            unet: self.unet,
            free: conditions(self.negative, captions, None)?,
            bound: conditions(self.negative, captions, Some(control))?,
            replaced_at: &timesteps[..replaced],
            guidance_scale: f64::from(draw.guidance_scale),
        };
        let start =
            (Tensor::cat(&[&draw.noise, &draw.noise], 0)? * self.scheduler.init_noise_sigma())?;
        denoise(&predictor, self.scheduler, start, 0, &mut Shared(generator), watch)
    }
}

#[cfg(test)]
mod tests {
    use any2pix_nn::Parameters;
    use candle_core::Device;

    use super::*;
    use crate::UNet2DConditionModelConfig;
    use crate::guidance::ClassifierFreeGuidance;
    use crate::schedulers::{EulerAncestralDiscreteScheduler, SchedulerConfig};
    use crate::unet::ConditionedUNet;

    /// An untrained UNet whose zeros are drawn, too: they would hide everything.
    fn unet(in_channels: usize) -> UNet2DConditionModel {
        let config: UNet2DConditionModelConfig = serde_json::from_value(serde_json::json!({
            "in_channels": in_channels, "out_channels": 4, "block_out_channels": [8, 8],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1,
            "attention_head_dim": 2, "cross_attention_dim": 8, "norm_num_groups": 4
        }))
        .unwrap();
        let parameters = Parameters::new(1);
        let unet = UNet2DConditionModel::load(parameters.builder(&Device::Cpu), &config).unwrap();
        let mut generator = Generator::new(2);
        for (_, variable) in parameters.named() {
            let noise = generator.randn(variable.shape().clone(), &Device::Cpu).unwrap();
            let drawn = (variable.as_tensor() + (noise * 0.2).unwrap()).unwrap();
            variable.set(&drawn).unwrap();
        }
        unet
    }

    struct Case {
        unet: UNet2DConditionModel,
        scheduler: EulerAncestralDiscreteScheduler,
        /// Nothing, and two captions.
        said: [Tensor; 3],
    }

    impl Case {
        fn new(in_channels: usize) -> Self {
            let mut generator = Generator::new(5);
            let said = [0, 1, 2].map(|_| generator.randn((1, 5, 8), &Device::Cpu).unwrap());
            let config = SchedulerConfig::default();
            let scheduler = EulerAncestralDiscreteScheduler::new(&config, 4).unwrap();
            Self { unet: unet(in_channels), scheduler, said }
        }

        fn draw(&self, threshold: f32) -> (Draw, Generator) {
            let mut generator = Generator::new(9);
            let ranges = Ranges { threshold: [threshold; 2], guidance: [3.0; 2] };
            (Draw::new(&mut generator, (4, 8, 8), &ranges).unwrap(), generator)
        }

        /// The two pictures' latents.
        fn pair(&self, captions: [usize; 2], threshold: f32, across: bool) -> [Vec<f32>; 2] {
            let (draw, mut generator) = self.draw(threshold);
            let painter = PromptToPrompt {
                unet: &self.unet,
                scheduler: &self.scheduler,
                negative: &self.said[0],
                cross_attention: across,
            };
            let captions = captions.map(|caption| &self.said[caption]);
            let both = painter.paint(captions, &draw, &mut generator, |_| Flow::Continue).unwrap();
            [0, 1].map(|i| values(&both.narrow(0, i, 1).unwrap()))
        }

        /// One picture by guidance alone.
        fn plain(&self, caption: usize) -> Vec<f32> {
            let (draw, mut generator) = self.draw(0.0);
            let tokens = Tensor::cat(&[&self.said[0], &self.said[caption]], 0).unwrap();
            let context =
                Context { encoder_hidden_states: tokens, image_prompt: None, control: None };
            let conditions = UNetConditions { context, added: None };
            let predictor = ConditionedUNet { unet: &self.unet, conditions };
            let guided =
                ClassifierFreeGuidance { predictor, guidance_scale: 3.0, guidance_rescale: 0.0 };
            let start = (draw.noise * self.scheduler.init_noise_sigma()).unwrap();
            let keep = |_: Progress| Flow::Continue;
            values(&denoise(&guided, &self.scheduler, start, 0, &mut generator, keep).unwrap())
        }
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn without_replacement_a_pair_is_two_plain_pictures_of_one_noise() {
        let case = Case::new(4);
        let [first, second] = case.pair([1, 2], 0.0, true);
        // A batch of four rounds otherwise than one of two.
        let near = |ours: &[f32], plain: &[f32]| {
            let loudest = plain.iter().fold(0f32, |most, value| most.max(value.abs()));
            distance(ours, plain) < 1e-5 * loudest
        };
        assert!(near(&first, &case.plain(1)) && near(&second, &case.plain(2)));
        assert!(!near(&first, &second));
    }

    #[test]
    fn replacement_brings_the_second_to_the_first_and_leaves_the_first() {
        let case = Case::new(4);
        let [first, free] = case.pair([1, 2], 0.0, false);
        let mut seen = vec![free];
        for (threshold, across) in [(0.5, false), (1.0, false), (1.0, true)] {
            let [same, second] = case.pair([1, 2], threshold, across);
            assert_eq!(same, first, "{threshold}");
            assert!(seen.iter().all(|other| *other != second), "{threshold} {across}");
            seen.push(second);
        }
    }

    #[test]
    fn equal_captions_give_equal_pictures_however_much_is_replaced() {
        for (threshold, across) in [(0.0, false), (0.5, false), (2.0, true)] {
            let [first, second] = Case::new(4).pair([1, 1], threshold, across);
            assert_eq!(first, second);
        }
    }

    #[test]
    fn channels_for_a_source_are_given_none() {
        let case = Case::new(8);
        let [first, second] = case.pair([1, 2], 0.6, false);
        assert!(first.iter().chain(&second).all(|value| value.is_finite()));
        assert!(distance(&first, &second) > 0.0);
    }

    #[test]
    fn steps_are_replaced_while_the_threshold_is_above_their_place() {
        for (threshold, steps, count) in
            [(0.0, 5, 0), (0.1, 5, 1), (0.25, 5, 1), (0.3, 5, 2), (1.0, 5, 4), (1.1, 5, 5)]
        {
            assert_eq!(replaced_steps(threshold, steps), count, "{threshold}");
        }
        assert_eq!((replaced_steps(0.0, 1), replaced_steps(0.1, 1)), (0, 1));
    }

    #[test]
    fn draws_come_in_the_order_of_the_published_program() {
        let mut generator = Generator::new(4);
        let ranges = Ranges { threshold: [0.1, 0.9], guidance: [7.5, 15.0] };
        let draw = Draw::new(&mut generator, (2, 3, 1), &ranges).unwrap();
        let mut again = Generator::new(4);
        let noise: Vec<f32> = (0..6).map(|_| again.normal()).collect();
        assert_eq!(values(&draw.noise), noise);
        assert_eq!(draw.threshold, again.uniform_in(0.1, 0.9));
        assert_eq!(draw.guidance_scale, again.uniform_in(7.5, 15.0));
        assert_eq!(generator.normal(), again.normal());
    }
}
