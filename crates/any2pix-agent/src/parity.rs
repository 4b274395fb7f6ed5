//! Golden parity: recorded cases of official implementations, run by the crate that owns the
//! component.

use std::path::{Path, PathBuf};
use std::time::Instant;

use any2pix_diffusion::parity::TextStates;
use any2pix_encoders::clip_text::{ClipTextConfig, ClipTextModel};
use any2pix_nn::golden::{GoldenCase, Outputs, Row};
use any2pix_nn::{Checkpoint, CheckpointError, Hint};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

/// How one case went.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// The case's folder.
    pub dir: PathBuf,
    /// The component, when meta.json could be read.
    pub component: String,
    /// The case's name within the component.
    pub case: String,
    /// One row an output.
    pub rows: Vec<Row>,
    /// Why there are no rows.
    pub problem: Option<String>,
    /// Wall time.
    pub seconds: f64,
}

impl CaseReport {
    /// Every output that the case records is there and within its tolerance.
    pub fn passes(&self) -> bool {
        self.problem.is_none() && !self.rows.is_empty() && self.rows.iter().all(|row| row.passes)
    }

    /// The row furthest from passing: a failing one if there is one, else the largest error
    /// relative to its reference.
    pub fn worst(&self) -> Option<&Row> {
        let badness = |row: &Row| {
            let relative = row.max_abs / row.reference_max.max(f64::MIN_POSITIVE);
            (!row.passes, if relative.is_nan() { f64::INFINITY } else { relative })
        };
        self.rows.iter().max_by(|a, b| {
            let ((a_fails, a), (b_fails, b)) = (badness(a), badness(b));
            a_fails.cmp(&b_fails).then(a.total_cmp(&b))
        })
    }
}

/// The cases at and below `folders`, sorted within each; a folder without any is an error.
pub fn find(folders: &[PathBuf]) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut cases = Vec::new();
    for folder in folders {
        let found = GoldenCase::find(folder)?;
        if found.is_empty() {
            return Err(CheckpointError::Malformed {
                origin: folder.display().to_string(),
                reason: "no meta.json at or below it".to_string(),
            });
        }
        cases.extend(found);
    }
    Ok(cases)
}

/// What a crate that this one cannot see makes of a case; nothing when it is not its own.
pub type Above<'a> = dyn Fn(&GoldenCase) -> Option<Result<Outputs, String>> + 'a;

/// Runs the case in `dir`; `above` is asked about what no crate below knows.
pub fn run(dir: &Path, above: &Above<'_>) -> CaseReport {
    let start = Instant::now();
    let mut report = CaseReport {
        dir: dir.to_path_buf(),
        component: "?".to_string(),
        case: dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        rows: Vec::new(),
        problem: None,
        seconds: 0.0,
    };
    match GoldenCase::open(dir) {
        Err(error) => report.problem = Some(chain(&error)),
        Ok(case) => {
            report.component.clone_from(&case.meta.component);
            report.case.clone_from(&case.meta.case);
            match compare(&case, above) {
                Ok(rows) => report.rows = rows,
                Err(problem) => report.problem = Some(problem),
            }
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

fn compare(case: &GoldenCase, above: &Above<'_>) -> Result<Vec<Row>, String> {
    if let Some(rows) = any2pix_llm::parity::compare_texts(case) {
        return rows.map_err(|e| chain(&e));
    }
    let ours = dispatch(case)
        .or_else(|| above(case))
        .ok_or("no component of this build has this name")??;
    let rows = case.compare(&ours).map_err(|e| chain(&e))?;
    if rows.is_empty() {
        return Err("the case records no outputs that are compared".to_string());
    }
    Ok(rows)
}

/// Asks each crate in turn whether the component is its own.
fn dispatch(case: &GoldenCase) -> Option<Result<Outputs, String>> {
    any2pix_encoders::parity::run(case)
        .map(told)
        .or_else(|| any2pix_llm::parity::run(case).map(told))
        .or_else(|| any2pix_diffusion::parity::run(case, &clip_text).map(told))
}

/// The text encoder that pipelines of the diffusion crate need and cannot see.
fn clip_text(
    weights: &Checkpoint,
    config: &Value,
    ids: &Tensor,
) -> candle_core::Result<TextStates> {
    let mut config = config.clone();
    // Cases record two configs without their classes; the projection's weights tell them apart.
    if weights.names().iter().any(|name| name == "text_projection.weight") {
        config["architectures"] = json!(["CLIPTextModelWithProjection"]);
    }
    let config: ClipTextConfig =
        serde_json::from_value(config).map_err(candle_core::Error::wrap)?;
    let model = ClipTextModel::load(weights.builder(DType::F32, &Device::Cpu), &config)?;
    let output = model.forward(ids)?;
    Ok(TextStates {
        penultimate: output.penultimate()?.clone(),
        last: output.last_hidden_state,
        text_embeds: output.text_embeds,
    })
}

/// A crate's outcome with its error in words.
pub fn told<E: Hint>(result: Result<Outputs, E>) -> Result<Outputs, String> {
    result.map_err(|error| chain(&error))
}

/// An error with its causes, in one line each without the backtrace that candle appends.
fn chain(error: &dyn std::error::Error) -> String {
    let line = |error: &dyn std::error::Error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().to_string()
    };
    let mut text = line(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = line(cause);
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
