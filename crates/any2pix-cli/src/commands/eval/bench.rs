//! What runs share: the suite, the model, who judges.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use any2pix_agent::components::Components;
use any2pix_agent::outcome::precision_name;
use any2pix_agent::store::{ModelStore, PLAYROOM};
use any2pix_agent::{EditSettings, OpenOptions, Pipeline, Playroom};
use any2pix_eval::protocol::Report;
use any2pix_eval::systems::{Parts, Stored, System, SystemName};
use any2pix_eval::{
    Asked, ColourRange, EvalError, Eyes, Harness, Perception, Protocol, Published, Sample, Suite,
    page,
};
use any2pix_nn::ops;
use serde_json::{Value, json};

use super::failure;
use crate::diagnostics::{Exit, Failure};
use crate::interrupt;
use crate::printer::Printer;

#[derive(clap::Args)]
pub(super) struct BenchArgs {
    /// The suite, as `any2pix data playroom` wrote it.
    #[arg(long, value_name = "DIR")]
    suite: PathBuf,
    /// Where the report goes.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Go on with the run in that folder, if there is one.
    #[arg(long)]
    resume: bool,
    /// The model: `playroom`, or a folder.
    #[arg(long, value_name = "NAME|DIR", default_value = PLAYROOM)]
    model: String,
    /// The folder of the judge; `none` measures plans, regions and pixels alone.
    #[arg(long, value_name = "DIR", default_value = "models/playroom/judge")]
    judge: PathBuf,
    /// A folder with the models of published metrics, each in a folder of its own:
    /// clip-vit-base-patch32, clip-vit-large-patch14, dino-vits16, aesthetic, pickscore, lpips.
    #[arg(long, value_name = "DIR")]
    metrics_model: Option<PathBuf>,
    /// Give InstructPix2Pix' similarities (clip_sim_…) colours from -1 to 1 where they want 0 to 1,
    /// as the published `compute_metrics.py` does: for comparison with its figures alone.
    #[arg(long)]
    compat_range: bool,
    /// The model that `instruct-pix2pix` stands for among the systems; it is told in words what
    /// references show.
    #[arg(long, value_name = "NAME|DIR", default_value = "playroom-ip2p")]
    instruct_pix2pix: String,
    /// Run the items that are told in words alone.
    #[arg(long)]
    in_words: bool,
    /// Run this many items, spread over all kinds.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Do not run every local edit a second time to measure the decoder without composing.
    #[arg(long)]
    no_raw: bool,
}

/// A model of Playroom's kind, or any other.
enum Model {
    Playroom(Box<Playroom>),
    Other(Box<dyn Pipeline>),
}

impl Model {
    fn open(name: &str) -> Result<Self, any2pix_agent::AgentError> {
        let index: Value = ModelStore::open(name)?.json("model_index.json").unwrap_or_default();
        if index["_class_name"] == "Playroom" {
            return Ok(Self::Playroom(Box::new(Playroom::open(name, &[])?)));
        }
        Ok(Self::Other(any2pix_agent::open(name, OpenOptions::default())?))
    }

    fn pipeline(&self) -> &dyn Pipeline {
        match self {
            Self::Playroom(playroom) => playroom.as_ref(),
            Self::Other(pipeline) => pipeline.as_ref(),
        }
    }

    fn playroom(&self) -> Option<&Playroom> {
        match self {
            Self::Playroom(playroom) => Some(playroom),
            Self::Other(_) => None,
        }
    }
}

/// A model beside the one that is measured.
struct Other {
    pipeline: Box<dyn Pipeline>,
    hash: String,
}

impl Other {
    fn open(name: &str) -> Result<Self, any2pix_agent::AgentError> {
        let hash = ModelStore::open(name)?.fingerprint()?;
        Ok(Self { pipeline: any2pix_agent::open(name, OpenOptions::default())?, hash })
    }
}

/// Everything that runs share.
pub(super) struct Bench<'a> {
    args: &'a BenchArgs,
    suite: Suite,
    suite_hash: String,
    model: Model,
    model_hash: String,
    instruct_pix2pix: Option<Other>,
    eyes: Option<Eyes>,
    published: Published,
}

impl<'a> Bench<'a> {
    /// Opens what runs of these need.
    pub(super) fn open(args: &'a BenchArgs, asked: &[&Asked]) -> Result<Self, Failure> {
        let mut suite = Suite::open(&args.suite).map_err(failure)?;
        let suite_hash = suite.fingerprint().map_err(failure)?;
        if args.in_words {
            suite.only_in_words();
        }
        if let Some(limit) = args.limit {
            suite.limit(limit);
        }
        let of_model = |e| Failure::of(Exit::Model, &e);
        let model = Model::open(&args.model).map_err(of_model)?;
        let store = ModelStore::open(&args.model).map_err(of_model)?;
        let model_hash = store.fingerprint().map_err(of_model)?;
        let is_other = |asked: &&Asked| asked.system == SystemName::InstructPix2Pix;
        let other = asked.iter().any(is_other).then(|| Other::open(&args.instruct_pix2pix));
        let instruct_pix2pix = other.transpose().map_err(of_model)?;
        let eyes = eyes(args)?;
        let range = match args.compat_range {
            true => ColourRange::Signed,
            false => ColourRange::Unit,
        };
        let published = Published::open(args.metrics_model.as_deref()).map_err(failure)?;
        let published = published.with_range(range);
        let bench =
            Self { args, suite, suite_hash, model, model_hash, instruct_pix2pix, eyes, published };
        asked.iter().try_for_each(|asked| bench.check(asked))?;
        Ok(bench)
    }

    /// Whether what is asked for could be run.
    fn check(&self, asked: &Asked) -> Result<(), Failure> {
        self.system(asked).map_err(failure)?;
        self.settings(asked).map(drop).map_err(failure)
    }

    /// The model that makes the edits, where it is not the one that is measured.
    fn other(&self, asked: &Asked) -> Option<&Other> {
        self.instruct_pix2pix.as_ref().filter(|_| asked.system == SystemName::InstructPix2Pix)
    }

    /// What is in force for a system: its own model's settings, and what was asked for.
    fn settings(&self, asked: &Asked) -> Result<EditSettings, EvalError> {
        match self.other(asked) {
            Some(other) => asked.settings(other.pipeline.settings()),
            None => asked.settings(self.model.pipeline().settings()),
        }
    }

    fn system(&self, asked: &Asked) -> Result<Box<dyn System + '_>, EvalError> {
        let parts = Parts {
            pipeline: self.model.pipeline(),
            playroom: self.model.playroom(),
            instruct_pix2pix: self.instruct_pix2pix.as_ref().map(|other| other.pipeline.as_ref()),
            suite: &self.suite,
            sdedit_strength: asked.sdedit_strength,
        };
        parts.system(asked.system)
    }

    /// The system that was asked for, into `out`.
    pub(super) fn run(
        &self,
        asked: &Asked,
        out: &Path,
        printer: &Printer,
    ) -> Result<Report, EvalError> {
        let system = self.system(asked)?;
        let (name, hash) = match self.other(asked) {
            Some(other) => (&self.args.instruct_pix2pix, &other.hash),
            None => (&self.args.model, &self.model_hash),
        };
        let model = json!({ "name": name, "sha256": hash });
        self.measure(system.as_ref(), asked, json!({ "model": model }), out, printer)
    }

    /// The pictures of another system, into `out`.
    pub(super) fn run_stored(
        &self,
        outputs: &Path,
        asked: &Asked,
        printer: &Printer,
    ) -> Result<Report, EvalError> {
        let stored = Stored::open(outputs)?;
        let hash = stored.fingerprint(&self.suite.items)?;
        let about = json!({ "outputs": { "sha256": hash } });
        self.measure(&stored, asked, about, &self.args.out, printer)
    }

    fn measure(
        &self,
        system: &dyn System,
        asked: &Asked,
        mut about: Value,
        out: &Path,
        printer: &Printer,
    ) -> Result<Report, EvalError> {
        let is_made = about.get("outputs").is_none();
        about["system"] = if is_made { asked.about() } else { json!({ "name": "outputs" }) };
        about["suite"] = json!({ "sha256": self.suite_hash });
        about["precision"] = json!(precision_name(ops::precision()));
        if self.args.in_words {
            about["in_words"] = json!(true);
        }
        if self.args.compat_range {
            about["compat_range"] = json!(true);
        }
        let harness = Harness {
            suite: &self.suite,
            eyes: self.eyes.as_ref().map(|eyes| eyes as &dyn Perception),
            published: Some(&self.published),
            settings: self.settings(asked)?,
            raw: !self.args.no_raw,
        };
        let eyes = self.eyes.as_ref().map(|eyes| eyes.fingerprint().to_string());
        let protocol = Protocol { harness, about, eyes };
        let report =
            protocol.run(system, out, self.args.resume, &mut |done, total, sample: &Sample| {
                let state = sample.error.as_deref().unwrap_or("done");
                printer.note(&format!("{done}/{total} {} {}: {state}", sample.id, sample.kind));
                interrupt::requested().is_none()
            })?;
        page::write(&self.suite, out)?;
        Ok(report)
    }
}

/// The judge, and the embedded model's encoder, whatever model is judged; a program without an
/// embedded model takes that of the model.
fn eyes(args: &BenchArgs) -> Result<Option<Eyes>, Failure> {
    if args.judge.as_os_str() == "none" {
        return Ok(None);
    }
    let components = Components::open(PLAYROOM).or_else(|_| Components::open(&args.model));
    let components = components.map_err(|e| Failure::of(Exit::Model, &e))?;
    Eyes::open(&args.judge, Arc::new(components)).map(Some).map_err(failure)
}
