//! `InstructPix2Pix`: one picture and words; one edit from request to outcome.

mod canvas;
mod changes;
mod parts;
mod text_to_image;

pub use parts::{Layout, layout};
pub use text_to_image::{PaintedPair, PairCaptions, PairPainter, PairSettings, TextToImage};

use any2pix_diffusion::denoise::denoise;
use any2pix_diffusion::instruct_pix2pix::{
    Scales, conditions, guided, reference_scheduler, source_latents,
};
use any2pix_diffusion::schedulers::{self, SchedulerConfig};
use any2pix_diffusion::unet::{ConditionedUNet, UNetConditions};
use any2pix_encoders::image::Picture;
use any2pix_nn::Generator;
use any2pix_nn::ops::{Precision, PrecisionScope};
use candle_core::{Device, Result as TensorResult, Tensor};
use image::{DynamicImage, RgbImage};
use serde::Deserialize;

use canvas::Canvas;
use changes::Changes;
use parts::Parts;
use serde_json::{Value, json};

use crate::error::AgentError;
use crate::full_size::{finite, misfit, to_pixels};
use crate::inputs::{self, Media};
use crate::instructany2pix::Compat;
use crate::outcome::{EditOutcome, PlanReport};
use crate::painter::flow;
use crate::pipeline::Pipeline;
use crate::plan_report;
use crate::planes::Pixels;
use crate::progress::{Progress, Stage};
use crate::request::{EditRequest, Instruction, Segment};
use crate::run::{Run, stage};
use crate::settings::{EditSettings, SettingsPatch};
use crate::store::ModelStore;

const WORDS: &str = include_str!("../../../../prompts/instruct_pix2pix/prompts.json");

/// What the text encoder reads besides the instruction.
#[derive(Clone, Debug, Deserialize)]
struct Words {
    /// Stands for the picture where the instruction names it.
    picture: String,
    /// The text of no instruction.
    negative: String,
}

/// CLIP's text encoder, the codec and a UNet that sees the source, one after another.
pub struct InstructPix2Pix {
    parts: Parts,
    words: Words,
}

/// The picture that is edited, and its name.
struct Source {
    name: String,
    picture: Picture,
}

/// What the text encoder makes of an instruction and of nothing.
struct Said {
    conditions: UNetConditions,
    /// The instruction projected, `(1, p)`, if the encoder has a projection.
    query: Option<Tensor>,
}

/// The one picture of a request; everything else that it refers to is refused.
fn source(request: &EditRequest, run: &mut Run) -> Result<Source, AgentError> {
    let mut source = None;
    for reference in &request.references {
        let name = reference.name.clone();
        match inputs::decode(reference)? {
            Media::Image(picture) if source.is_none() => source = Some(Source { name, picture }),
            _ => return Err(AgentError::WordsOnly { name }),
        }
    }
    let source = source.ok_or(AgentError::NoPicture)?;
    for warning in &source.picture.warnings {
        run.warn(format!("[{}]: {warning}", source.name));
    }
    Ok(source)
}

/// The instruction as the text encoder reads it: `picture` in the place of the reference, which
/// is left out where it only stands before everything.
fn words(instruction: &Instruction, picture: &str) -> String {
    let segments = instruction.segments.iter().map(|segment| match segment {
        Segment::Text(words) => Some(words.as_str()),
        Segment::Reference(_) => None,
    });
    any2pix_diffusion::instruct_pix2pix::instruction(segments, picture)
}

impl InstructPix2Pix {
    /// A model in a folder. Every part is looked for; no weights are read yet.
    pub fn open(
        store: ModelStore,
        layout: Layout,
        max_memory: Option<u64>,
    ) -> Result<Self, AgentError> {
        let words = serde_json::from_str(WORDS).map_err(|e| store.bad("prompts.json", &e))?;
        Ok(Self { parts: Parts::open(store, layout, max_memory)?, words })
    }

    fn said(&self, text: &str) -> Result<Said, AgentError> {
        let said = self.parts.said(&[text, &self.words.negative])?;
        let row = |of: &Tensor, i: usize| of.narrow(0, i, 1)?.contiguous();
        let both = || {
            let tokens = &said.last_hidden_state;
            let query = said.text_embeds.as_ref().map(|embeds| row(embeds, 0)).transpose()?;
            Ok(Said { conditions: conditions(&row(tokens, 0)?, &row(tokens, 1)?)?, query })
        };
        both().map_err(AgentError::compute(Stage::Prompt))
    }

    /// What the UNet sees of the picture, its latents first.
    fn seen(&self, picture: &RgbImage, said: &Said) -> Result<Tensor, AgentError> {
        let _exact = PrecisionScope::new(Precision::F32);
        let (codec, channels) = (self.parts.codec()?, self.parts.channels()?);
        let features = self.parts.features(picture, said.query.as_ref())?;
        let image = Pixels::from_rgb(picture).tensor(&Device::Cpu);
        let latents = image.and_then(|image| source_latents(&*codec, &image));
        let seen = latents.and_then(|latents| match &features {
            Some(features) => channels.with_features(&latents, features),
            None => Ok(latents),
        });
        seen.map_err(AgentError::compute(Stage::Invert))
    }

    /// From noise to latents under text and source; the UNet is dropped.
    fn denoise(
        &self,
        (conditions, source): (UNetConditions, &Tensor),
        settings: &EditSettings,
        run: &mut Run,
    ) -> Result<Tensor, AgentError> {
        let unet = run.stage(Stage::Load, |_| self.parts.unet())?;
        let channels = self.parts.channels()?;
        let class_name = Some(settings.sampler.class_name().to_string());
        let config = reference_scheduler(self.parts.scheduler()?);
        let config = SchedulerConfig { class_name, ..config };
        let scheduler =
            schedulers::from_config(&config, settings.steps).map_err(misfit("scheduler"))?;
        stage(run, Stage::Denoise, |run| {
            let unet = unet; // dropped with the stage
            let mut work = || -> TensorResult<Tensor> {
                let scales = Scales { text: settings.guidance, picture: settings.image_guidance };
                let predictor = ConditionedUNet { unet: &unet, conditions: conditions.clone() };
                let guided = guided(predictor, source, scales)?;
                // One source for the start and for every step, in order.
                let mut chance = Generator::new(settings.seed).fork("noise");
                let latents = source.narrow(1, 0, channels.sample)?;
                let start = (chance.randn_like(&latents)? * scheduler.init_noise_sigma())?;
                denoise(&guided, &*scheduler, start, 0, &mut chance, |progress| {
                    run.step(progress.done, progress.steps);
                    flow(run)
                })
            };
            let latents = work().map_err(AgentError::compute(Stage::Denoise))?;
            run.continue_or_stop(Stage::Decode)?;
            finite(latents, Stage::Denoise)
        })
    }

    fn decode(&self, latents: &Tensor) -> Result<Pixels, AgentError> {
        let _exact = PrecisionScope::new(Precision::F32);
        to_pixels(&*self.parts.codec()?, latents, Stage::Decode)
    }

    /// What was painted, at the source's size; `seen` is what the UNet saw of the source. A model
    /// with gates says where it changed something, which the report gets; when composing is
    /// wanted, the rest stays the source's own.
    fn at_source_size(
        &self,
        (source, seen, canvas): (&RgbImage, &Tensor, &Canvas),
        painted: Pixels,
        settings: &EditSettings,
        report: &mut PlanReport,
    ) -> Result<RgbImage, AgentError> {
        let (is_whole, channels) = (settings.compat == Compat::Repaired, self.parts.channels()?);
        if is_whole && channels.is_gated {
            let latents = seen.narrow(1, 0, channels.sample);
            let latents = latents.map_err(AgentError::compute(Stage::Compose))?;
            let changes = Changes::between(self.decode(&latents)?, painted.clone());
            report.subjects.extend(changes.subject(source.dimensions()));
            if settings.compose {
                return Ok(changes.over(source));
            }
        }
        Ok(canvas.give_back(to_rgb(&painted, settings.compat)))
    }

    /// The page.
    fn carry_out(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        let settings = &request.settings;
        settings.validate()?;
        let mut run = Run::new(progress);
        // 1. load: the one picture
        let source = stage(&mut run, Stage::Load, |run| source(request, run))?;
        let text = words(&request.instruction, &self.words.picture);
        let mut report = report(&source.name, &text);
        run.show_plan(&plan_report::lines(&report));
        // 2. prompt: the instruction, and nothing, become tokens
        let said = stage(&mut run, Stage::Prompt, |_| self.said(&text))?;
        // 3. invert: the source becomes latents, which stand in channels of their own, perhaps
        //    with what a locator sees in it
        let resolution = settings.size[0].max(settings.size[1]);
        let canvas = Canvas::new(source.picture.rgb.dimensions(), resolution, settings.compat);
        let seen = stage(&mut run, Stage::Invert, |_| {
            self.seen(&canvas.take(&source.picture.rgb), &said)
        })?;
        // 4. denoise: from noise, guided by text and by source
        let edited = self.denoise((said.conditions, &seen), settings, &mut run)?;
        // 5. decode: latents become a picture
        let painted = stage(&mut run, Stage::Decode, |_| self.decode(&edited))?;
        // 6. back to the source's size
        let picture = stage(&mut run, Stage::Compose, |_| {
            let before = (&source.picture.rgb, &seen, &canvas);
            self.at_source_size(before, painted, settings, &mut report)
        })?;
        Ok(EditOutcome::new(
            DynamicImage::ImageRgb8(picture),
            request,
            report,
            &self.parts.store,
            run,
        ))
    }
}

fn to_rgb(pixels: &Pixels, compat: Compat) -> RgbImage {
    match compat {
        Compat::Repaired => pixels.to_rgb(),
        // The published program cuts fractions off.
        Compat::Reference => {
            let whole = |v: f32| (v.clamp(0.0, 1.0) * 255.0).floor() / 255.0;
            Pixels(pixels.0.clone().map(|plane| plane.map(whole))).to_rgb()
        }
    }
}

impl Pipeline for InstructPix2Pix {
    fn identity(&self) -> Result<Value, AgentError> {
        let store = &self.parts.store;
        Ok(json!({ "name": store.name(), "files": store.fingerprint()? }))
    }

    fn settings(&self) -> &SettingsPatch {
        &self.parts.settings
    }

    fn edit(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        Self { parts: self.parts.for_one_edit(), words: self.words.clone() }
            .carry_out(request, progress)
    }
}

/// There is no planner: the plan is the instruction.
fn report(source: &str, text: &str) -> PlanReport {
    PlanReport {
        base: Some(source.to_string()),
        operation: String::new(),
        caption: text.to_string(),
        subjects: Vec::new(),
        place: None,
        look: None,
        text: text.to_string(),
        unbound_text: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_a_word_where_it_is_named() {
        for (instruction, read) in [
            ("make [park.jpg] snowy", "make it snowy"),
            ("add a hat to [dog.png]", "add a hat to it"),
            ("[dog.png]: add a hat", "add a hat"),
            ("  [dog.png]  add  a hat", "add a hat"),
        ] {
            assert_eq!(words(&Instruction::parse(instruction).unwrap(), "it"), read);
        }
    }

    /// The picture that the published program made of a recorded one.
    #[test]
    fn the_published_program_cuts_a_picture_to_the_same_bytes() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/goldens/pipelines/ip2p_original_ckpt"
        );
        let case = any2pix_nn::golden::GoldenCase::open(folder).unwrap();
        let picture = image::open(format!("{folder}/in.png")).unwrap().to_rgb8();
        let canvas = Canvas::new(picture.dimensions(), 64, Compat::Reference);
        let ours = Pixels::from_rgb(&canvas.take(&picture)).tensor(&Device::Cpu).unwrap();
        let recorded = case.input("image").unwrap();
        let distance = (ours - recorded).unwrap().abs().unwrap().flatten_all().unwrap();
        let largest = distance.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(largest < 1e-6, "{largest}");
    }
}
