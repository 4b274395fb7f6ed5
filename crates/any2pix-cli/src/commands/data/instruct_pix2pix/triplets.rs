//! The first stage: captions from a file or a Playroom, edits from a language model or the world.

use std::path::{Path, PathBuf};

use any2pix_eval::pix2pix::{self, Caption, Captions, TRIPLETS, Triplet, Written, WrittenBy};
use any2pix_train::playroom::World;
use any2pix_train::recipes::ip2p::world_triplets;
use serde_json::json;

use super::{Outcome, teller};
use crate::chat_args::ChatArgs;
use crate::commands::data::playroom;
use crate::commands::eval::failure;
use crate::diagnostics::{Exit, Failure};
use crate::printer::Printer;

/// Where captions and edits come from.
#[derive(clap::Args)]
pub(super) struct TripletFlags {
    /// Captions, one a line: text, or JSON with `caption` (or `input`, `TEXT`) and perhaps `url`.
    #[arg(long, value_name = "FILE")]
    captions: Option<PathBuf>,
    /// Take captions from this prepared Playroom; without --llm-url its edits, too.
    #[arg(long, value_name = "DIR", conflicts_with = "captions")]
    playroom: Option<PathBuf>,
    /// How many captions a Playroom gives.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: usize,
    /// Where the language model answers (OpenAI's chat protocol), up to and with `/v1`.
    #[arg(long, value_name = "URL", requires = "llm_model")]
    llm_url: Option<String>,
    /// The language model's name there.
    #[arg(long, value_name = "NAME", requires = "llm_url")]
    llm_model: Option<String>,
    /// Sent as a bearer token.
    #[arg(long, env = "ANY2PIX_LLM_KEY", hide_env_values = true, hide = true)]
    llm_key: Option<String>,
    #[command(flatten)]
    chat: ChatArgs,
}

impl TripletFlags {
    pub(super) fn run(
        &self,
        out: &Path,
        seed: u64,
        resume: bool,
        printer: &Printer,
    ) -> Result<Outcome, Failure> {
        let (captions, written) = match (&self.captions, &self.playroom) {
            (Some(file), _) => {
                let captions = Captions::open(file).map_err(failure)?;
                let written = self.ask(&captions, out, resume, printer)?;
                (captions.duplicates, written)
            }
            (None, Some(world)) => self.by_world(world, (out, seed, resume), printer)?,
            (None, None) => {
                let failure = Failure::refused("there are no captions");
                return Err(failure.hint("give --captions FILE, or --playroom DIR"));
            }
        };
        Ok(outcome(captions, &written, out))
    }

    fn by_world(
        &self,
        world: &Path,
        (out, seed, resume): (&Path, u64, bool),
        printer: &Printer,
    ) -> Result<(usize, Written), Failure> {
        let world = World::open(world).map_err(playroom::failure)?;
        let edits = world_triplets(&world, self.count, seed);
        let edits = edits.map_err(|error| Failure::of(Exit::Refused, &error))?;
        if self.llm_url.is_some() {
            let caption = |caption| Caption { caption, url: None };
            let captions = Captions::of(edits.into_iter().map(|edit| caption(edit.caption)));
            return Ok((captions.duplicates, self.ask(&captions, out, resume, printer)?));
        }
        let triplets = edits.into_iter().map(|edit| Triplet {
            caption: edit.caption,
            edit: edit.edit,
            output: edit.output,
            url: None,
        });
        let written = pix2pix::keep(triplets.collect(), "the world itself", out, resume);
        Ok((0, written.map_err(failure)?))
    }

    fn ask(
        &self,
        captions: &Captions,
        out: &Path,
        resume: bool,
        printer: &Printer,
    ) -> Result<Written, Failure> {
        let (Some(url), Some(model)) = (&self.llm_url, &self.llm_model) else {
            let failure = Failure::refused("nobody writes the edits");
            return Err(failure.hint("give --llm-url URL and --llm-model NAME"));
        };
        let endpoint = self.chat.endpoint(url, self.llm_key.as_deref());
        let written_by = WrittenBy {
            endpoint: &endpoint,
            model: model.clone(),
            parallel: self.chat.parallel(),
            resume,
        };
        written_by.write(captions, out, &mut teller(printer, "captions")).map_err(failure)
    }
}

fn outcome(duplicates: usize, written: &Written, out: &Path) -> Outcome {
    let Written { triplets, given_up, unanswered, failure, asked } = written;
    let mut said = format!("{triplets} triplets; {duplicates} captions were there twice");
    for (fault, count) in given_up {
        said.push_str(&format!("; {count} given up: {fault}"));
    }
    if *unanswered > 0 {
        let why = failure.as_deref().unwrap_or_default();
        said.push_str(&format!("; {unanswered} unanswered, --resume asks again: {why}"));
    }
    Outcome {
        exit: if *unanswered > 0 { Exit::Items } else { Exit::Done },
        said,
        document: json!({
            "out": out.to_string_lossy(), "triplets": triplets, "duplicates": duplicates,
            "given_up": given_up, "unanswered": unanswered, "failure": failure, "asked": asked,
        }),
        out: out.join(TRIPLETS),
    }
}
