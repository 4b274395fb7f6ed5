//! Further figures in stored results: what a stage measured after the run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use any2pix_agent::storage::write_atomically;
use serde_json::{Value, json};

use crate::journal::pretty;
use crate::report::{self, Sample};
use crate::{EvalError, Result};

/// Writes `samples` and what follows from them over the stored results in `dir`, and gives the
/// table. `absent` says for some figures why they are missing, or that they are not any more; what
/// the results say of the run and of other figures stays.
///
/// # Errors
/// `results.json` must be there.
pub fn write(
    dir: &Path,
    samples: &[Sample],
    absent: &BTreeMap<String, Option<String>>,
) -> Result<String> {
    let path = dir.join(report::RESULTS);
    let bytes = fs::read(&path).map_err(EvalError::io(&path))?;
    let mut results: Value =
        serde_json::from_slice(&bytes).map_err(|e| EvalError::malformed(&path, e))?;
    let slices = report::slices(samples);
    let narrow: Vec<_> = slices.iter().filter(|s| report::parts(&s.name) < 3).cloned().collect();
    let mut table = report::table(&narrow);
    let known = results["absent"].as_object().cloned().unwrap_or_default();
    let mut missing: BTreeMap<String, Value> = known.into_iter().collect();
    for (figure, why) in absent {
        match why {
            Some(why) => drop(missing.insert(figure.clone(), json!(why))),
            None => drop(missing.remove(figure)),
        }
    }
    if !missing.is_empty() {
        table.push_str("\nNot measured:\n\n");
        for (name, why) in &missing {
            table.push_str(&format!("- `{name}`: {}\n", why.as_str().unwrap_or_default()));
        }
    }
    results["absent"] = json!(missing);
    results["slices"] = json!(slices);
    let rows: String = samples.iter().map(|sample| format!("{}\n", json!(sample))).collect();
    write_atomically(&dir.join(report::SAMPLES), rows.as_bytes())?;
    write_atomically(&path, &pretty(&results))?;
    write_atomically(&dir.join(report::TABLE), table.as_bytes())?;
    Ok(table)
}
