//! The second stage: many pairs of every triplet.

use std::path::Path;

use any2pix_agent::Sampler;
use any2pix_agent::batch::Shard;
use any2pix_agent::instruct_pix2pix::{PairSettings, TextToImage};
use any2pix_eval::pix2pix::{Pairs, Triplets};
use serde_json::json;

use super::{Outcome, teller};
use crate::commands::eval::failure;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;
use crate::settings_args::{SamplerArg, size};

/// How pairs are painted.
#[derive(clap::Args)]
pub(super) struct PairFlags {
    /// What paints: a folder with a Stable Diffusion or an InstructPix2Pix, or a carried model.
    #[arg(long, value_name = "NAME|DIR")]
    model: String,
    /// Pairs of a triplet.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = samples)]
    samples: usize,
    /// Denoising steps; unless given, the model's own, else 100.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Width and height; unless given, the model's own, else 512x512.
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<[u32; 2]>,
    /// How steps are taken; unless given, the model's own way, else `euler-ancestral`.
    #[arg(long, value_enum)]
    sampler: Option<SamplerArg>,
    /// For how much of the steps both pictures share their self-attention is drawn between these;
    /// unless given, 0.1,0.9.
    #[arg(long, value_name = "LOW,HIGH", value_parser = range)]
    p2p: Option<[f32; 2]>,
    /// The guidance is drawn between these; unless given, the model's own, else 7.5,15.
    #[arg(long, value_name = "LOW,HIGH", value_parser = range)]
    guidance: Option<[f32; 2]>,
    /// Share attention to the captions, too.
    #[arg(long)]
    cross_attention: bool,
    /// Memory in GB that the program may have once a part of the model is loaded; what is larger
    /// is refused before it is read.
    #[arg(long, env = "ANY2PIX_MAX_MEMORY", value_name = "GB")]
    max_memory: Option<f64>,
}

fn range(text: &str) -> Result<[f32; 2], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|n| n.trim().parse::<f32>()).collect();
    match numbers.as_deref() {
        Ok([low, high]) => Ok([*low, *high]),
        _ => Err("two numbers with a comma between them".to_string()),
    }
}

/// There are not many more seeds than this that could all differ.
fn samples(text: &str) -> Result<usize, String> {
    let count = text.parse().map_err(|_| "a whole number".to_string())?;
    (1..=100_000).contains(&count).then_some(count).ok_or("1 to 100000".to_string())
}

impl PairFlags {
    pub(super) fn run(
        &self,
        (triplets, out): (&Path, &Path),
        seed: u64,
        shard: Shard,
        resume: bool,
        printer: &Printer,
    ) -> Result<Outcome, Failure> {
        let triplets = Triplets::open(triplets).map_err(failure)?;
        let max_memory = self.max_memory.map(|gigabytes| (gigabytes * 1e9) as u64);
        let model = TextToImage::open(&self.model, max_memory)?;
        let own = model.settings();
        let settings = PairSettings {
            steps: self.steps.unwrap_or(own.steps),
            size: self.size.unwrap_or(own.size),
            sampler: self.sampler.map_or(own.sampler, Sampler::from),
            threshold: self.p2p.unwrap_or(own.threshold),
            guidance: self.guidance.unwrap_or(own.guidance),
            cross_attention: self.cross_attention,
        };
        let samples = self.samples;
        let pairs =
            Pairs { model: &model, settings, triplets: &triplets, samples, seed, shard, resume };
        let painted = pairs.paint(out, &mut teller(printer, "pairs")).map_err(failure)?;
        let all = painted.prompts * samples;
        Ok(Outcome {
            exit: Exit::Done,
            said: format!(
                "{all} pairs of {} triplets, {} of them painted now",
                painted.prompts, painted.painted
            ),
            document: json!({
                "out": out.to_string_lossy(), "triplets": painted.prompts, "pairs": all,
                "painted": painted.painted,
            }),
            out: out.to_path_buf(),
        })
    }
}
