//! The stages by name: what `any2pix train STAGE` opens.

use std::path::PathBuf;

use crate::recipes::decoder::DecoderRecipe;
use crate::recipes::imagebind::ImageBindRecipe;
use crate::recipes::ip2p::{Ip2pRecipe, TextRecipe};
use crate::recipes::judge::JudgeRecipe;
use crate::recipes::locator::LocatorRecipe;
use crate::recipes::prior::PriorRecipe;
use crate::recipes::vae::VaeRecipe;
use crate::{Recipe, Result, TrainError, TrainSettings, recipes};

/// What a recipe is built from.
#[derive(Clone, Debug)]
pub struct StageContext {
    /// The training data, as `any2pix data` wrote them.
    pub data: PathBuf,
    /// The model directory: configs, components of earlier stages, and where this one's will go.
    pub model: PathBuf,
    /// The stage's numbers.
    pub settings: TrainSettings,
}

type Open = fn(&StageContext) -> Result<Box<dyn Recipe>>;

/// Every stage, in the order of a whole training.
const STAGES: &[(&str, Open)] = &[
    ("imagebind", ImageBindRecipe::open),
    ("vae", |context| Ok(Box::new(VaeRecipe::open(context)?))),
    ("rehearse", recipes::rehearse::open),
    ("align", recipes::align::open),
    ("generate", recipes::generate::open),
    ("prior", |context| Ok(Box::new(PriorRecipe::open(context)?))),
    ("decoder", |context| Ok(Box::new(DecoderRecipe::open(context)?))),
    ("decoder_inversion", |context| Ok(Box::new(DecoderRecipe::open(context)?))),
    ("ip2p_text", |context| Ok(Box::new(TextRecipe::open(context)?))),
    ("ip2p", |context| Ok(Box::new(Ip2pRecipe::open(context)?))),
    ("instruct", recipes::instruct::open),
    ("locator", LocatorRecipe::open),
    ("judge", JudgeRecipe::open),
];

/// The names of the stages.
pub fn names() -> Vec<&'static str> {
    STAGES.iter().map(|(name, _)| *name).collect()
}

/// The recipe of a stage.
pub fn open(name: &str, context: &StageContext) -> Result<Box<dyn Recipe>> {
    match STAGES.iter().find(|(known, _)| *known == name) {
        Some((_, open)) => open(context),
        None => Err(TrainError::UnknownStage { name: name.to_string(), known: names() }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::PlanOfStages;

    #[test]
    fn every_stage_of_the_whole_training_is_known_and_has_its_settings() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/playroom/training");
        let plan = PlanOfStages::read(&folder.join("all.toml")).unwrap();
        let mut stages = Vec::new();
        for file in &plan.stages {
            let settings = TrainSettings::read(&plan.settings_file(file)).unwrap();
            assert!(settings.steps > settings.warmup, "{file}");
            stages.push(settings.stage.unwrap_or_else(|| file.clone()));
        }
        let mut known: Vec<String> = names().into_iter().map(str::to_string).collect();
        known.sort();
        stages.sort();
        stages.dedup();
        assert_eq!(stages, known);
    }
}
