//! `Playroom`: the page; one edit from request to outcome, stage by stage.

use std::path::PathBuf;

use any2pix_llm::EditPlan;
use any2pix_nn::Generator;
use any2pix_nn::ops::Quantisation;
use candle_core::Tensor;
use image::{DynamicImage, RgbImage};
use serde_json::{Value, json};

use crate::components::Components;
use crate::conditioning::{self, Condition};
use crate::error::AgentError;
use crate::gallery::{self, Gallery};
use crate::hearing;
use crate::inputs::{self, Input, Memory, row};
use crate::knowledge::{self, Vocabulary};
use crate::outcome::{EditOutcome, PlanReport};
use crate::pipeline::{LlmFormat, Pipeline};
use crate::plan_report;
use crate::progress::{Progress, Stage};
use crate::request::EditRequest;
use crate::run::Run;
use crate::settings::SettingsPatch;
use crate::sighting;
use crate::steps;
use crate::store::ModelStore;
use crate::tasks::tasks;
use crate::workbench::Workbench;

/// The pipeline of a model of InstructAny2Pix's shape with a locator: the embedded one, and any
/// folder laid out like it.
pub struct Playroom {
    components: Components,
    galleries: Vec<PathBuf>,
    memory: Memory,
}

/// One edit's view of the parts.
struct Edit<'a> {
    components: Components,
    galleries: &'a [PathBuf],
    memory: &'a Memory,
}

/// What an edit knows once it is planned.
pub(crate) struct Planned {
    pub(crate) inputs: Vec<Input>,
    pub(crate) plan: EditPlan,
    pub(crate) condition: Condition,
    pub(crate) vocabulary: Vocabulary,
}

/// What a step came to.
struct Done {
    picture: DynamicImage,
    report: PlanReport,
    /// The embedding of the picture to come that the painter was given.
    aim: Vec<f32>,
}

impl Playroom {
    /// A model by name or folder, with further galleries; no weights are read yet.
    pub fn open(model: &str, galleries: &[PathBuf]) -> Result<Self, AgentError> {
        Self::from_store(ModelStore::open(model)?, galleries)
    }

    /// The model in `store`, with further galleries; no weights are read yet.
    pub fn from_store(store: ModelStore, galleries: &[PathBuf]) -> Result<Self, AgentError> {
        let components = Components::from_store(store)?;
        Ok(Self { components, galleries: galleries.to_vec(), memory: Memory::default() })
    }

    /// Keeps the language model's linear layers in `format`; say so before the first edit.
    pub fn quantise_llm(&mut self, format: Option<Quantisation>) {
        self.components.llm_quant = format;
    }

    /// The model's parts.
    pub fn components(&self) -> &Components {
        &self.components
    }
}

impl Edit<'_> {
    fn encode(&self, request: &EditRequest, run: &mut Run) -> Result<Vec<Input>, AgentError> {
        inputs::perceive(request, self.memory, || self.components.imagebind(), run)
    }

    fn plan(
        &self,
        request: &EditRequest,
        inputs: &[Input],
        vocabulary: &Vocabulary,
    ) -> Result<EditPlan, AgentError> {
        let names = knowledge::names(request, inputs, &self.components, vocabulary)?;
        let (pieces, embeddings) = inputs::for_planner(&request.instruction, inputs);
        self.components
            .planner()?
            .plan_with(&pieces, &embeddings, &names, &mut Generator::new(request.settings.seed))
            .map_err(|error| AgentError::Planning { error: Box::new(error) })
    }

    fn refine(&self, plan: &EditPlan, request: &EditRequest) -> Result<Tensor, AgentError> {
        let generated = row(&plan.gen_embedding).map_err(AgentError::compute(Stage::Refine))?;
        self.components.refined(&generated, &request.settings)
    }

    /// The galleries in the order in which they are asked: people's own come first.
    fn galleries(&self, settings_ask: bool) -> Result<Vec<Gallery<'_>>, AgentError> {
        if !settings_ask {
            return Ok(Vec::new());
        }
        let encoder = self.components.encoder_hash()?;
        let mut galleries = Vec::new();
        for dir in self.galleries {
            galleries.push(Gallery::open(dir, &encoder)?);
            let (store, name) = (&self.components.store, gallery::recorded_name(dir));
            store.remember_once(&name, || gallery::fingerprint(dir))?;
        }
        galleries.extend(Gallery::of_model(&self.components.store, &encoder)?);
        Ok(galleries)
    }

    /// All steps of an instruction, each on the picture of the one before.
    fn carry_out(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        request.settings.validate()?;
        let mut run = Run::new(progress);
        let galleries = self.galleries(request.settings.gallery)?;
        let (first, later) = steps::of(request)?;
        let mut done = self.step(&first.request, &galleries, None, &mut run)?;
        for mut step in later {
            step.goes_on_from(&done.picture)?;
            let next = self.step(&step.request, &galleries, Some(&done.report), &mut run)?;
            done = Done { report: plan_report::joined(done.report, next.report), ..next };
        }
        let Done { picture, report, aim } = done;
        let mut outcome = EditOutcome::new(picture, request, report, &self.components.store, run);
        outcome.aim = Some(aim);
        let llm_format = self.components.llm_quant.map(LlmFormat::Quantised);
        Ok(outcome.with_llm(llm_format.unwrap_or_default()))
    }

    /// The page: one step, after what those before it did.
    fn step(
        &self,
        request: &EditRequest,
        galleries: &[Gallery],
        before: Option<&PlanReport>,
        run: &mut Run,
    ) -> Result<Done, AgentError> {
        let settings = &request.settings;
        // 1. encode: every picture and sound becomes an embedding
        let inputs = run.stage(Stage::Encode, |run| self.encode(request, run))?;
        // 2. plan: instruction and embeddings become base, objects and the target's embedding
        let (plan, vocabulary) = run.stage(Stage::Plan, |run| {
            let vocabulary = Vocabulary::open(&self.components, galleries)?;
            let mut plan = self.plan(request, &inputs, &vocabulary)?;
            knowledge::settle(&mut plan, request, &inputs, &vocabulary, galleries, run)?;
            sighting::settle(&mut plan, &inputs, &self.components, &vocabulary, run)?;
            hearing::doubts(&plan, &inputs, &self.components, &vocabulary, run)?;
            Ok((plan, vocabulary))
        })?;
        // 3. refine: the prior cleans the target's embedding
        let refined = run.stage(Stage::Refine, |_| self.refine(&plan, request))?;
        // 4. condition: base, generated and refined embeddings become one
        let condition =
            run.stage(Stage::Condition, |_| conditioning::of_plan(&plan, &refined, settings))?;
        // 5. locate, invert, denoise, decode, compose: once for each thing to paint
        let planned = Planned { inputs, plan, condition, vocabulary };
        let mut report = plan_report::report(&planned.plan, &planned.inputs);
        let todo = tasks(&planned.plan);
        if todo.is_empty() {
            let reason = "it names nothing to change".to_string();
            return Err(AgentError::NoPlan { text: planned.plan.text.clone(), reason });
        }
        run.show_plan(&plan_report::lines(&report));
        let mut picture = canvas(&planned, request);
        for (index, task) in todo.iter().enumerate() {
            let mut workbench = Workbench {
                components: &self.components,
                planned: &planned,
                settings,
                galleries,
                generator: Generator::new(settings.seed).fork(&format!("task {index}")),
                report: &mut report,
                before,
            };
            picture = workbench.carry_out(*task, picture, run)?;
        }
        let picture = with_alpha(picture, &planned);
        let aim = inputs::vector(&planned.condition.picture)
            .map_err(AgentError::compute(Stage::Condition))?;
        Ok(Done { picture, report, aim })
    }
}

impl Pipeline for Playroom {
    fn settings(&self) -> &SettingsPatch {
        &self.components.index.settings
    }

    fn identity(&self) -> Result<Value, AgentError> {
        let Components { store, llm_quant, .. } = &self.components;
        let galleries = self.galleries.iter().map(|dir| gallery::fingerprint(dir));
        let galleries = galleries.collect::<Result<Vec<_>, _>>()?;
        let (name, files) = (store.name(), store.fingerprint()?);
        Ok(json!({ "name": name, "files": files, "llm_quant": llm_quant.map(|q| format!("{q:?}")),
            "galleries": galleries }))
    }

    fn is_resident(&self) -> bool {
        true
    }

    fn edit(
        &self,
        request: &EditRequest,
        progress: &mut dyn Progress,
    ) -> Result<EditOutcome, AgentError> {
        let (components, galleries) = (self.components.for_one_edit(), &self.galleries);
        Edit { components, galleries, memory: &self.memory }.carry_out(request, progress)
    }
}

/// What is painted on: the source, or an empty canvas.
fn canvas(planned: &Planned, request: &EditRequest) -> RgbImage {
    let [width, height] = request.settings.size;
    let base = planned.plan.base.as_ref().and_then(|base| planned.inputs.get(base.reference));
    match base.and_then(Input::picture) {
        Some(picture) => picture.rgb.clone(),
        None => RgbImage::from_pixel(width, height, image::Rgb([127; 3])),
    }
}

/// A transparent source keeps its transparency.
fn with_alpha(picture: RgbImage, planned: &Planned) -> DynamicImage {
    let base = planned.plan.base.as_ref().and_then(|base| planned.inputs.get(base.reference));
    let rgba = base.and_then(Input::picture).and_then(|picture| picture.rgba.as_ref());
    let Some(source) = rgba.filter(|rgba| rgba.dimensions() == picture.dimensions()) else {
        return DynamicImage::ImageRgb8(picture);
    };
    let shown = base.and_then(Input::picture).map(|picture| &picture.rgb);
    let mut result = DynamicImage::ImageRgb8(picture).into_rgba8();
    for (x, y, pixel) in result.enumerate_pixels_mut() {
        let before = shown.map(|rgb| rgb.get_pixel(x, y).0);
        let untouched = before.is_some_and(|before| before == pixel.0[..3]);
        if untouched {
            *pixel = *source.get_pixel(x, y);
        }
    }
    DynamicImage::ImageRgba8(result)
}
