//! `Recording`: what a picture's file tells about its edit, and the request that repeats it.
//!
//! The file is a stranger's: its size, the record's size and depth, and the number of references
//! are bounded; its names lead nowhere but beside the file and into the current folder; what is
//! found there is used only if its SHA-256 is the recorded one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use any2pix_nn::ops::{Level, Precision};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{AgentError, short};
use crate::gallery;
use crate::outcome::{EditOutcome, Provenance, level_name, precision_name, sha256};
use crate::output::{self, Encoding};
use crate::pipeline::{LlmFormat, LoraFile, OpenOptions};
use crate::public_names::relative;
use crate::request::{EditRequest, Instruction, MAX_REFERENCES, Reference, read_file};
use crate::settings::{EditSettings, SettingsPatch};
use crate::strict_json;

/// Fields of a record that are objects.
const OBJECTS: [&str; 4] = ["plan", "settings", "weights", "encoding"];
/// Largest picture that is looked into, in bytes.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// What a picture's file tells about its edit.
#[derive(Clone, Debug)]
pub struct Recording {
    path: PathBuf,
    document: Value,
    record: Record,
    sha256: String,
}

/// What of a record is needed to repeat its edit.
#[derive(Clone, Debug, Deserialize)]
struct Record {
    any2pix: String,
    model: String,
    instruction: String,
    #[serde(default)]
    references: Vec<Provenance>,
    settings: SettingsPatch,
    precision: String,
    level: String,
    llm_quant: Option<String>,
    weights: BTreeMap<String, String>,
    encoding: Encoding,
}

impl Recording {
    /// Reads the record in the picture at `path`.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let none = |reason: String| AgentError::NoRecord { path: path.to_path_buf(), reason };
        let bytes = read_file(path, MAX_FILE_BYTES)?;
        let text = output::record(&bytes)
            .ok_or_else(|| none("holds no record of an edit by any2pix".to_string()))?;
        let unusable = |reason: String| none(format!("its record cannot be used: {reason}"));
        let document = strict_json::parse_object(&text, &OBJECTS).map_err(unusable)?;
        let record = serde_json::from_value(document.clone());
        let record: Record = record.map_err(|error| unusable(error.to_string()))?;
        record.encoding.validate()?;
        if record.references.len() > MAX_REFERENCES {
            return Err(none(format!("its record has over {MAX_REFERENCES} references")));
        }
        Ok(Self { path: path.to_path_buf(), document, record, sha256: sha256(&bytes) })
    }

    /// The whole record.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// The version of the program that made the edit.
    pub fn version(&self) -> &str {
        &self.record.any2pix
    }

    /// The name of the model that made it.
    pub fn model(&self) -> &str {
        &self.record.model
    }

    /// How the picture became a file.
    pub fn encoding(&self) -> Encoding {
        self.record.encoding
    }

    /// What weights were kept in.
    pub fn precision(&self) -> Result<Precision, AgentError> {
        let all = [Precision::F32, Precision::Bf16];
        let found = all.into_iter().find(|p| precision_name(*p) == self.record.precision);
        found.ok_or_else(|| self.unknown("precision", &self.record.precision))
    }

    /// The instructions that computed; `None` when this machine has them not.
    pub fn level(&self) -> Option<Level> {
        Level::available().find(|level| level_name(*level) == self.record.level)
    }

    /// What the record calls the instructions that computed.
    pub fn level_name(&self) -> &str {
        &self.record.level
    }

    /// Calls the inputs of a repeated edit what they were called, wherever they were found.
    pub fn rename(&self, outcome: &mut EditOutcome) {
        outcome.references.clone_from(&self.record.references);
    }

    /// Whether `bytes` are those of the file, to the last.
    pub fn is(&self, bytes: &[u8]) -> bool {
        sha256(bytes) == self.sha256
    }

    fn unknown(&self, what: &str, value: &str) -> AgentError {
        let reason = format!("its record names the {what} `{value}`, which this version has not");
        AgentError::NoRecord { path: self.path.clone(), reason }
    }

    /// `options` as the edit needs them; an error when galleries or LoRAs are not those of the
    /// edit.
    pub fn options(&self, options: OpenOptions) -> Result<OpenOptions, AgentError> {
        let galleries = options.galleries.iter().map(|dir| gallery::recorded_name(dir));
        let loras = options.loras.iter().map(LoraFile::recorded_name);
        let given: BTreeSet<String> = galleries.chain(loras).collect();
        let prefixes = [gallery::RECORDED, LoraFile::RECORDED];
        let is_extra = |path: &&String| prefixes.iter().any(|prefix| path.starts_with(prefix));
        let recorded: BTreeSet<String> =
            self.record.weights.keys().filter(is_extra).cloned().collect();
        // Whether they hold what they held is seen when they are read.
        if let Some(path) = given.symmetric_difference(&recorded).next() {
            let fault = match given.contains(path) {
                true => "is given and was not used by the edit",
                false => "was used by the edit and is not given",
            };
            let reason = format!("{path} {fault}");
            return Err(AgentError::OtherOptions { path: self.path.clone(), reason });
        }
        let llm_quant = self.record.llm_quant.as_deref();
        let llm_format = LlmFormat::of_name(llm_quant)
            .ok_or_else(|| self.unknown("quantisation", llm_quant.unwrap_or_default()))?;
        let expected_weights = Some(self.record.weights.clone());
        Ok(OpenOptions { llm_format, expected_weights, ..options })
    }

    /// The request that repeats the edit. Its inputs are looked for among `supplied`, by content;
    /// then by name beside the file and in the current folder.
    pub fn request(&self, supplied: &[PathBuf]) -> Result<EditRequest, AgentError> {
        let instruction = Instruction::parse(&self.record.instruction)?;
        let mut settings = EditSettings::default();
        self.record.settings.apply(&mut settings);
        settings.validate()?;
        let mut pool = Vec::new();
        for path in supplied {
            let reference = Reference::open(&path.to_string_lossy(), path)?;
            let hash = sha256(&reference.bytes);
            if !self.record.references.iter().any(|known| known.sha256 == hash) {
                let reason = format!("is no input of the edit in {}", self.path.display());
                return Err(AgentError::Unusable { path: path.clone(), reason });
            }
            pool.push((hash, reference));
        }
        let find = |name: &String| self.find(name, &pool);
        let references = instruction.names.iter().map(find).collect::<Result<_, _>>()?;
        Ok(EditRequest { instruction, references, settings })
    }

    fn find(&self, name: &str, pool: &[(String, Reference)]) -> Result<Reference, AgentError> {
        let fault = |reason: String| AgentError::OtherInput { name: name.to_string(), reason };
        let recorded = self.record.references.iter().find(|known| known.name == name);
        let recorded = recorded
            .ok_or_else(|| fault(format!("{} does not record its hash", self.path.display())))?;
        if let Some((_, reference)) = pool.iter().find(|(hash, _)| *hash == recorded.sha256) {
            return Ok(Reference { name: name.to_string(), ..reference.clone() });
        }
        let mut others = Vec::new();
        for path in self.candidates(recorded) {
            let Ok(found) = Reference::open(name, &path) else { continue };
            let hash = sha256(&found.bytes);
            if hash == recorded.sha256 {
                return Ok(found);
            }
            others.push(format!("{} ({})", path.display(), short(&hash)));
        }
        let needed = short(&recorded.sha256);
        Err(fault(match others.is_empty() {
            true => format!(
                "not found beside {} nor in the current folder (SHA-256 {needed}…)",
                self.path.display()
            ),
            false => format!("{} is another file than the edit's ({needed}…)", others.join(", ")),
        }))
    }

    /// Where an input may lie: under its recorded name, or its file's, in either folder.
    fn candidates(&self, recorded: &Provenance) -> Vec<PathBuf> {
        let beside = self.path.parent().unwrap_or(Path::new(""));
        let mut paths = Vec::new();
        for name in [Some(&recorded.name), recorded.file.as_ref()].into_iter().flatten() {
            let name = relative(name);
            let last = Path::new(&name).file_name().map(PathBuf::from).unwrap_or_default();
            for folder in [beside, Path::new("")] {
                paths.extend([folder.join(&name), folder.join(&last)]);
            }
        }
        let mut seen = BTreeSet::new();
        paths.retain(|path| seen.insert(path.clone()));
        paths
    }
}

#[cfg(test)]
mod tests {
    use any2pix_encoders::metadata::Metadata;
    use image::DynamicImage;
    use serde_json::json;

    use super::*;
    use crate::output::Account;

    /// A picture whose record is `record`.
    fn picture(folder: &Path, record: &str) -> PathBuf {
        let source = Metadata::default();
        let account = Account { record, parameters: "", source: &source, is_edit: true };
        let image = DynamicImage::new_rgb8(16, 16);
        let path = folder.join("picture.png");
        std::fs::write(&path, output::encode(&image, Encoding::default(), &account).unwrap())
            .unwrap();
        path
    }

    fn record(name: &str, sha256: &str) -> Value {
        json!({
            "any2pix": "0.0.0", "model": "playroom",
            "instruction": format!("recolour [{name}]"),
            "references": [{"name": name, "sha256": sha256}],
            "settings": {"steps": 3, "guidance": 1.1}, "precision": "f32", "level": "portable",
            "weights": {}, "encoding": {"format": "png"}
        })
    }

    fn refusal(result: Result<EditRequest, AgentError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn inputs_are_found_by_name_and_taken_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let record = record("pictures/park.png", &sha256(b"the park"));
        let recording = Recording::open(&picture(folder.path(), &record.to_string())).unwrap();
        assert!(refusal(recording.request(&[])).contains("not found beside"));
        let beside = folder.path().join("park.png");
        std::fs::write(&beside, b"another park").unwrap();
        assert!(refusal(recording.request(&[])).contains("is another file"));
        let stray = std::slice::from_ref(&beside);
        assert!(refusal(recording.request(stray)).contains("is no input of the edit"));
        let elsewhere = folder.path().join("renamed");
        std::fs::write(&elsewhere, b"the park").unwrap();
        let request = recording.request(&[elsewhere]).unwrap();
        assert_eq!(request.references[0].name, "pictures/park.png");
        std::fs::write(&beside, b"the park").unwrap();
        let request = recording.request(&[]).unwrap();
        assert_eq!((request.settings.steps, request.settings.guidance), (3, 1.1));
        assert_eq!(&*request.references[0].bytes, b"the park");
    }

    #[test]
    fn names_in_a_strangers_file_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(folder.path().join("secret"), b"secret").unwrap();
        let absolute = folder.path().join("secret").to_string_lossy().into_owned();
        for name in ["../secret", "a/../../secret", &absolute] {
            let record = record(name, &sha256(b"secret")).to_string();
            let recording = Recording::open(&picture(&inner, &record)).unwrap();
            assert!(refusal(recording.request(&[])).contains("not found"), "{name}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused_with_the_files_name() {
        let folder = tempfile::tempdir().unwrap();
        let deep = "[".repeat(100_000);
        let long = json!({ "any2pix": "x".repeat(2 << 20) }).to_string();
        let many: Vec<_> = (0..17).map(|i| json!({"name": i.to_string(), "sha256": ""})).collect();
        let mut crowded = record("a", "");
        crowded["references"] = json!(many);
        let mut strange = record("a", "");
        strange["settings"] = json!({"stepz": 3});
        let texts = ["", "{}", "[]", "null", &deep, &long, &crowded.to_string()];
        for text in texts.into_iter().chain([&*strange.to_string()]) {
            let error = Recording::open(&picture(folder.path(), text)).unwrap_err();
            assert!(matches!(error, AgentError::NoRecord { .. }), "{text:.40}: {error}");
            assert!(error.to_string().contains("picture.png"), "{error}");
        }
        let other = folder.path().join("note.txt");
        std::fs::write(&other, "not a picture").unwrap();
        assert!(matches!(Recording::open(&other).unwrap_err(), AgentError::NoRecord { .. }));
    }
}
