//! The settings that commands share: flags, `ANY2PIX_*`, the project's file, the user's file.

use std::path::{Path, PathBuf};

use any2pix_agent::{Compat, Decoder, EditSettings, LlmFormat, Sampler, SettingsPatch};
use any2pix_nn::ops;
use clap::ValueEnum;

use crate::diagnostics::{Exit, Failure};

/// The project's settings file, in the folder where the command runs.
const PROJECT_FILE: &str = "any2pix.toml";

#[derive(Clone, Copy, ValueEnum)]
enum DecoderArg {
    /// The source stands in extra channels of the UNet.
    Source,
    /// DDIM inversion of the source, the published method.
    Inversion,
}

/// How denoising steps are taken.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum SamplerArg {
    /// The inversion's own steps, backwards.
    Ddim,
    /// SDXL's own.
    Euler,
    /// InstructPix2Pix' own.
    EulerAncestral,
    /// Few steps, with an LCM-LoRA and --guidance 1.
    Lcm,
}

impl From<SamplerArg> for Sampler {
    fn from(sampler: SamplerArg) -> Self {
        match sampler {
            SamplerArg::Ddim => Self::Ddim,
            SamplerArg::Euler => Self::Euler,
            SamplerArg::EulerAncestral => Self::EulerAncestral,
            SamplerArg::Lcm => Self::Lcm,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum CompatArg {
    /// The published weights without the published program's slips.
    Repaired,
    /// The published program, slips and all.
    Reference,
}

#[derive(Clone, Copy, ValueEnum)]
enum Quantisation {
    None,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_k")]
    Q4K,
    #[value(name = "q6_k")]
    Q6K,
}

/// Settings of an edit.
#[derive(clap::Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    /// Chooses the noise.
    #[arg(long, env = "ANY2PIX_SEED")]
    seed: Option<u64>,
    /// Denoising steps.
    #[arg(long, env = "ANY2PIX_STEPS")]
    steps: Option<usize>,
    /// Classifier-free guidance; 1 is none.
    #[arg(long, env = "ANY2PIX_GUIDANCE")]
    guidance: Option<f64>,
    /// Guidance towards reference pictures, in InstructPix2Pix towards the edited one; 1 is none.
    #[arg(long, env = "ANY2PIX_IMAGE_GUIDANCE")]
    image_guidance: Option<f64>,
    /// 1 starts from the inverted source, 0 from noise alone.
    #[arg(long, env = "ANY2PIX_ALPHA")]
    alpha: Option<f64>,
    /// Weights of three embeddings in the condition that the painter follows: of the base, of what
    /// the plan wants, and of that as the prior refines it.
    #[arg(long, env = "ANY2PIX_MIX", value_name = "BASE,GEN,REFINED", value_parser = mix)]
    mix: Option<[f64; 3]>,
    /// Length that the condition is brought to.
    #[arg(long, env = "ANY2PIX_NORM")]
    norm: Option<f64>,
    /// How firmly a reference picture is followed, 0 to 1.
    #[arg(long, env = "ANY2PIX_STRENGTH")]
    strength: Option<f64>,
    /// Size of a picture that is made from nothing; full-size models paint every picture with
    /// about so many pixels.
    #[arg(long, env = "ANY2PIX_SIZE", value_name = "WIDTHxHEIGHT", value_parser = size)]
    size: Option<[u32; 2]>,
    /// How the painter starts.
    #[arg(long, env = "ANY2PIX_DECODER", value_enum)]
    decoder: Option<DecoderArg>,
    /// How the steps of a full-size model are taken.
    #[arg(long, env = "ANY2PIX_SAMPLER", value_enum)]
    sampler: Option<SamplerArg>,
    /// Part of its steps that a full-size model's refiner repaints with; 0 is none.
    #[arg(long, env = "ANY2PIX_REFINEMENT")]
    refinement: Option<f64>,
    /// How much the condition counts beside a full-size model's prompt; 0 is the prompt alone.
    #[arg(long, env = "ANY2PIX_IMAGE_SCALE")]
    image_scale: Option<f64>,
    /// Whether a full-size model keeps the slips of the published program.
    #[arg(long, env = "ANY2PIX_COMPAT", value_enum)]
    compat: Option<CompatArg>,
    /// Also show what a full-size model's language model says when nothing binds its answer.
    #[arg(long)]
    show_text: bool,
    /// How often each step of an inversion is repeated at its own result; 0 is the published
    /// method.
    #[arg(long, env = "ANY2PIX_INVERSION_REFINEMENT", value_name = "TIMES")]
    inversion_refinement: Option<usize>,
    /// How freely a full-size model's plan is drawn; 0 takes the best token, the published
    /// program 0.3.
    #[arg(long, env = "ANY2PIX_TEMPERATURE")]
    temperature: Option<f32>,
    /// Draw a plan's tokens from so many of the best; 0 is all, the published program 50.
    #[arg(long, env = "ANY2PIX_TOP_K")]
    top_k: Option<usize>,
    /// Draw a plan's tokens from the best that together are so probable; the published program 0.6.
    #[arg(long, env = "ANY2PIX_TOP_P")]
    top_p: Option<f32>,
    /// Do not let the prior refine the target.
    #[arg(long)]
    no_refine: bool,
    /// Do not look for reference pictures in galleries.
    #[arg(long)]
    no_gallery: bool,
    /// Paint the whole picture, not a window around the edit.
    #[arg(long)]
    no_window: bool,
    /// Show what the decoder made, without the source's own pixels.
    #[arg(long)]
    no_compose: bool,
    /// When the model does not know an object, go on with the nearest that it knows.
    #[arg(long)]
    force: bool,
    /// Quantisation of the language model. Unless given, a large one is kept in q8_0 where the
    /// machine does not multiply bf16.
    #[arg(long, env = "ANY2PIX_LLM_QUANT", value_enum)]
    llm_quant: Option<Quantisation>,
    /// Memory in GB that the program may have once a part of a full-size model is loaded; what is
    /// larger is refused before it is read.
    #[arg(long, env = "ANY2PIX_MAX_MEMORY", value_name = "GB")]
    max_memory: Option<f64>,
    /// Where to compute: this build has `cpu` alone.
    #[arg(long, env = "ANY2PIX_DEVICE")]
    device: Option<String>,
    /// A settings file (TOML) instead of the project's and the user's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn mix(text: &str) -> Result<[f64; 3], String> {
    let numbers: Vec<f64> = text
        .split(',')
        .map(|part| part.trim().parse().map_err(|_| format!("`{part}` is not a number")))
        .collect::<Result<_, _>>()?;
    numbers.try_into().map_err(|_| "three numbers are needed, as in 0,0.4,1".to_string())
}

/// A width and a height.
pub(crate) fn size(text: &str) -> Result<[u32; 2], String> {
    let wrong = || "a size is WIDTHxHEIGHT, as in 512x384".to_string();
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    Ok([width.parse().map_err(|_| wrong())?, height.parse().map_err(|_| wrong())?])
}

impl SettingsArgs {
    /// The settings that result: flags and environment over files over the model's own over the
    /// program's.
    pub(crate) fn resolve(&self, model: &SettingsPatch) -> Result<EditSettings, Failure> {
        self.refuse_unavailable()?;
        let mut settings = EditSettings::default();
        model.apply(&mut settings);
        for patch in self.files()? {
            patch.apply(&mut settings);
        }
        self.patch().apply(&mut settings);
        settings.validate().map_err(|e| Failure::of(Exit::Refused, &e))?;
        Ok(settings)
    }

    fn patch(&self) -> SettingsPatch {
        let off = |flag: bool| flag.then_some(false);
        SettingsPatch {
            seed: self.seed,
            steps: self.steps,
            guidance: self.guidance,
            image_guidance: self.image_guidance,
            alpha: self.alpha,
            mix: self.mix,
            norm: self.norm,
            strength: self.strength,
            size: self.size,
            decoder: self.decoder.map(|decoder| match decoder {
                DecoderArg::Source => Decoder::Source,
                DecoderArg::Inversion => Decoder::Inversion,
            }),
            refine: off(self.no_refine),
            gallery: off(self.no_gallery),
            window: off(self.no_window),
            compose: off(self.no_compose),
            force: self.force.then_some(true),
            sampler: self.sampler.map(Sampler::from),
            refinement: self.refinement,
            image_scale: self.image_scale,
            compat: self.compat.map(|compat| match compat {
                CompatArg::Repaired => Compat::Repaired,
                CompatArg::Reference => Compat::Reference,
            }),
            show_text: self.show_text.then_some(true),
            inversion_refinement: self.inversion_refinement,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        }
    }

    /// The flags that are given, or set in the environment, and that change a result.
    pub(crate) fn given(&self) -> Vec<String> {
        let patch = serde_json::to_value(self.patch()).unwrap_or_default();
        let flag = |(name, value): (&String, &serde_json::Value)| {
            let name = name.replace('_', "-");
            match value {
                serde_json::Value::Null => None,
                serde_json::Value::Bool(false) => Some(format!("--no-{name}")),
                _ => Some(format!("--{name}")),
            }
        };
        let mut given: Vec<String> =
            patch.as_object().into_iter().flatten().filter_map(flag).collect();
        given.extend(self.llm_quant.map(|_| "--llm-quant".to_string()));
        given.extend(self.config.as_ref().map(|_| "--config".to_string()));
        given
    }

    /// Bytes that the program may have in memory.
    pub(crate) fn max_memory(&self) -> Option<u64> {
        self.max_memory.map(|gigabytes| (gigabytes * 1e9) as u64)
    }

    /// How the language model's weights are kept.
    pub(crate) fn llm_format(&self) -> LlmFormat {
        LlmFormat::Quantised(match self.llm_quant {
            None => return LlmFormat::Fitting,
            Some(Quantisation::None) => return LlmFormat::Whole,
            Some(Quantisation::Q8_0) => ops::Quantisation::Q8_0,
            Some(Quantisation::Q4_0) => ops::Quantisation::Q4_0,
            Some(Quantisation::Q4K) => ops::Quantisation::Q4K,
            Some(Quantisation::Q6K) => ops::Quantisation::Q6K,
        })
    }

    /// What the flags promise for later is refused until it is there, not ignored.
    fn refuse_unavailable(&self) -> Result<(), Failure> {
        match self.device.as_deref() {
            None | Some("cpu") => Ok(()),
            Some(other) => {
                Err(Failure::refused(format!("--device {other}: this build computes on the CPU")))
            }
        }
    }

    /// The settings files that count, the weakest first.
    fn files(&self) -> Result<Vec<SettingsPatch>, Failure> {
        if let Some(path) = &self.config {
            return Ok(vec![read(path)?]);
        }
        let user = user_folder().map(|folder| folder.join("any2pix").join("config.toml"));
        let project = Some(PathBuf::from(PROJECT_FILE));
        [user, project].into_iter().flatten().filter(|p| p.is_file()).map(|p| read(&p)).collect()
    }
}

fn read(path: &Path) -> Result<SettingsPatch, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::refused(format!("{name}: cannot be read: {e}")))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::refused(format!("{name}:{line}: {}", e.message()))
    })
}

fn user_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))
}
