//! The third stage: which pairs are kept.

use std::path::{Path, PathBuf};

use any2pix_agent::batch::Shard;
use any2pix_eval::pix2pix::{Encoder, Filter, Thresholds};
use serde_json::json;

use super::{Outcome, teller};
use crate::commands::eval::failure;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// What a pair must reach to be kept.
#[derive(clap::Args)]
pub(super) struct FilterFlags {
    /// CLIP (ViT-L/14 as published, or another) in this folder; unless given, the embedded
    /// model's own encoder, whose figures are called `playroom_sim`.
    #[arg(long, value_name = "DIR")]
    clip: Option<PathBuf>,
    /// Least likeness of the two pictures; unless given, 0.7.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    image_threshold: Option<f64>,
    /// Least likeness of each picture and its caption; unless given, 0.2 by CLIP, 0.08 by the
    /// embedded encoder.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    caption_threshold: Option<f64>,
    /// Least likeness of the change of the pictures and that of the captions; unless given, 0.2.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    direction_threshold: Option<f64>,
    /// Most pairs of a triplet, those with the best direction.
    #[arg(long, value_name = "N", default_value_t = 4)]
    most: usize,
}

impl FilterFlags {
    pub(super) fn run(
        &self,
        (pairs, out): (&Path, &Path),
        shard: Shard,
        resume: bool,
        printer: &Printer,
    ) -> Result<Outcome, Failure> {
        let encoder = Encoder::open(self.clip.as_deref()).map_err(failure)?;
        let usual = encoder.thresholds();
        let thresholds = Thresholds {
            image: self.image_threshold.unwrap_or(usual.image),
            caption: self.caption_threshold.unwrap_or(usual.caption),
            direction: self.direction_threshold.unwrap_or(usual.direction),
        };
        let filter = Filter { encoder: &encoder, thresholds, most: self.most, shard, resume };
        let kept = filter.keep(pairs, out, &mut teller(printer, "triplets")).map_err(failure)?;
        let mut said = format!(
            "{} pairs of {} triplets are kept; {} triplets have none",
            kept.kept,
            kept.with_pairs,
            kept.prompts - kept.with_pairs
        );
        if kept.missing > 0 {
            said.push_str(&format!("; {} triplets are of shards to come", kept.missing));
        }
        Ok(Outcome {
            exit: Exit::Done,
            said,
            document: json!({
                "out": out.to_string_lossy(), "triplets": kept.prompts, "kept": kept.kept,
                "with_pairs": kept.with_pairs, "missing": kept.missing, "thresholds": thresholds,
            }),
            out: out.to_path_buf(),
        })
    }
}
