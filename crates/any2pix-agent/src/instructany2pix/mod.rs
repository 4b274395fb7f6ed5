//! `InstructAny2Pix`: the published full-size pipeline; one edit from request to outcome.

mod canvas;
mod compat;
mod index;
mod paint;
mod parts;
mod prompt;

pub use compat::{Compat, Quirks};
pub use index::is_full_size;

use any2pix_llm::EditPlan;
use any2pix_nn::Generator;
use candle_core::Tensor;
use image::{DynamicImage, RgbImage};

use canvas::Canvas;
use paint::Painting;
use parts::Parts;
use serde_json::Value;

use crate::conditioning::{self, Condition};
use crate::error::AgentError;
use crate::inputs::{self, Input, Memory, row};
use crate::outcome::EditOutcome;
use crate::pipeline::{OpenOptions, Pipeline};
use crate::plan_report;
use crate::progress::{Progress, Stage};
use crate::request::EditRequest;
use crate::run::{Run, stage};
use crate::settings::{EditSettings, SettingsPatch};
use crate::store::ModelStore;

/// ImageBind, Vicuna, the prior, SDXL with an IP-Adapter and its refiner, one after another.
pub struct InstructAny2Pix {
    parts: Parts,
}

/// What an edit knows once it is planned.
struct Planned {
    plan: EditPlan,
    unbound_text: Option<String>,
}

impl InstructAny2Pix {
    /// A model in a folder. Every part is looked for; no weights are read yet.
    pub fn open(store: ModelStore, options: OpenOptions) -> Result<Self, AgentError> {
        Ok(Self { parts: Parts::open(store, options)? })
    }

    fn plan(
        &self,
        request: &EditRequest,
        inputs: &[Input],
        quirks: &Quirks,
    ) -> Result<Planned, AgentError> {
        let planner = self.parts.planner(quirks)?.with_sampling(request.settings.sampling());
        let (pieces, embeddings) = inputs::for_planner(&request.instruction, inputs);
        let failed = |error| AgentError::Planning { error: Box::new(error) };
        let mut chance = Generator::new(request.settings.seed).fork("plan");
        let mut plan = planner.plan_with(&pieces, &embeddings, &[], &mut chance).map_err(failed)?;
        if let ([only], Some(base)) = (inputs, &mut plan.base) {
            // What a single input looks like need not be guessed.
            base.embedding.clone_from(&only.embedding);
        }
        let unbound_text = match request.settings.show_text {
            true => Some(planner.say(&pieces, &embeddings).map_err(failed)?),
            false => None,
        };
        Ok(Planned { plan, unbound_text })
    }

    fn refine(&self, plan: &EditPlan, settings: &EditSettings) -> Result<Tensor, AgentError> {
        let compute = AgentError::compute(Stage::Refine);
        let generated = row(&plan.gen_embedding).map_err(&compute)?;
        if !settings.refine {
            return Ok(generated);
        }
        let (prior, how) = (self.parts.prior()?, self.parts.index.refine());
        prior.model.refine(&generated, prior.empty_text.as_ref(), &how).map_err(compute)
    }

    /// Whether the refiner shall paint; says so when it should and is not there.
    fn will_polish(&self, painting: &Painting, run: &mut Run) -> bool {
        let wanted = painting.wants_polish();
        if wanted && !self.parts.has_refiner() {
            let place = self.parts.refiner_place();
            run.warn(format!("{place}: is missing; the result is not refined (--refinement 0)"));
        }
        wanted && self.parts.has_refiner()
    }

    /// The page.
    fn carry_out(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        let settings = &request.settings;
        settings.validate()?;
        let (quirks, mut run) = (settings.compat.quirks(), Run::new(progress));
        // 1. encode: every picture and sound becomes an embedding of norm 20
        let inputs = stage(&mut run, Stage::Encode, |run| {
            // One edit's own: the encoder is read anew for each, and no edit needs it twice.
            let memory = Memory::default();
            inputs::perceive(request, &memory, || self.parts.imagebind(&quirks).map(Box::new), run)
        })?;
        // 2. plan: instruction and embeddings become base, caption and the target's embedding
        let Planned { plan, unbound_text } =
            stage(&mut run, Stage::Plan, |_| self.plan(request, &inputs, &quirks))?;
        let mut report = plan_report::report(&plan, &inputs);
        report.unbound_text = unbound_text;
        run.show_plan(&plan_report::lines(&report));
        // 3. refine: the prior cleans the target's embedding
        let refined = stage(&mut run, Stage::Refine, |_| self.refine(&plan, settings))?;
        // 4. condition: base, generated and refined embeddings become one
        let Condition { picture: condition, .. } = stage(&mut run, Stage::Condition, |_| {
            conditioning::of_plan(&plan, &refined, settings)
        })?;
        // 5. prompt: caption and what is not wanted become tokens
        let prompts = stage(&mut run, Stage::Prompt, |_| {
            prompt::encode(&self.parts, &plan.caption, &quirks)
        })?;
        let source = source(&plan, &inputs);
        let size = source.map_or((settings.size[0], settings.size[1]), RgbImage::dimensions);
        let canvas = Canvas::new(size, settings.size, quirks.square);
        let (parts, condition) = (&self.parts, &condition);
        let painting = Painting { parts, settings, quirks, canvas, prompts: &prompts, condition };
        let polish = self.will_polish(&painting, &mut run);
        // 6. invert: the source's latents become the noise that leads to them
        let latents = stage(&mut run, Stage::Invert, |_| painting.source_latents(source))?;
        let unet = stage(&mut run, Stage::Load, |_| parts.unet())?;
        let inverted = stage(&mut run, Stage::Invert, |run| {
            latents.map(|latents| painting.invert(&unet, &latents, run)).transpose()
        })?;
        // 7. mix: as much fresh noise as alpha leaves room for
        let start = stage(&mut run, Stage::Mix, |_| painting.mix(inverted))?;
        // 8. denoise: under prompt and condition, guided away from what is not wanted
        let latents = stage(&mut run, Stage::Denoise, |run| {
            let unet = unet; // dropped with the stage
            painting.denoise(&unet, &start, run)
        })?;
        // 9. decode: latents become a picture
        let mut picture =
            stage(&mut run, Stage::Decode, |_| painting.decode(&latents, false, Stage::Decode))?;
        // 10. refine the picture: a second UNet goes over it
        if polish {
            picture = stage(&mut run, Stage::Polish, |run| painting.polish(&picture, run))?;
        }
        // 11. back to the source's size
        let picture = stage(&mut run, Stage::Compose, |_| Ok(canvas.give_back(picture)))?;
        let picture = DynamicImage::ImageRgb8(picture);
        let outcome = EditOutcome::new(picture, request, report, &self.parts.store, run);
        Ok(outcome.with_llm(self.parts.llm_format()))
    }
}

impl Pipeline for InstructAny2Pix {
    fn identity(&self) -> Result<Value, AgentError> {
        self.parts.identity()
    }

    fn settings(&self) -> &SettingsPatch {
        &self.parts.index.settings
    }

    fn edit(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        Self { parts: self.parts.for_one_edit() }.carry_out(request, progress)
    }
}

/// The picture that is edited; `None` when the plan makes one from nothing.
fn source<'a>(plan: &EditPlan, inputs: &'a [Input]) -> Option<&'a RgbImage> {
    let base = inputs.get(plan.base.as_ref()?.reference)?;
    base.picture().map(|picture| &picture.rgb)
}
