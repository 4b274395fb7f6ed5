//! What the tests of batches share: a small untrained model whose edits take milliseconds, and the
//! binary.

#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use any2pix_nn::{Checkpoint, Generator};
use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

/// The text encoder's vocabulary: bytes, and these.
const MERGES: [&str; 3] = ["i t</w>", "s n", "r e"];

/// Writes an InstructPix2Pix into `dir`: the recorded file of original names, with a vocabulary
/// that can be written in, and configs that say its sizes.
fn write_model(dir: &Path) {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens/pipelines/ip2p_original_ckpt/model.ckpt");
    let recorded = Checkpoint::open(recorded).unwrap();
    let names = recorded.names().into_iter();
    let mut tensors: HashMap<String, Tensor> =
        names.filter_map(|name| recorded.tensor(&name).map(|tensor| (name, tensor))).collect();
    let rows = 512 + MERGES.len() + 2;
    let table =
        "state_dict.cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
    let drawn = Generator::new(3).randn((rows, 24), &Device::Cpu).unwrap();
    assert!(tensors.insert(table.to_string(), drawn).is_some());
    std::fs::create_dir_all(dir).unwrap();
    candle_core::safetensors::save(&tensors, dir.join("instruct-pix2pix-small.ckpt")).unwrap();
    let unet = json!({"block_out_channels": [32, 32], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 4, "cross_attention_dim": 24});
    let vae = json!({"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1});
    let text = json!({"architectures": ["CLIPTextModel"], "vocab_size": rows, "hidden_size": 24,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu"});
    for (component, config) in [("unet", unet), ("vae", vae), ("text_encoder", text)] {
        std::fs::create_dir_all(dir.join(component)).unwrap();
        std::fs::write(dir.join(component).join("config.json"), config.to_string()).unwrap();
    }
    std::fs::create_dir_all(dir.join("tokenizer")).unwrap();
    let merges = format!("#version: 0.2\n{}\n", MERGES.join("\n"));
    std::fs::write(dir.join("tokenizer/merges.txt"), merges).unwrap();
}

/// A folder with the model, two pictures, a sound and a text file.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_model(&dir.path().join("model"));
        for (name, green) in [("park.png", 4u8), ("shop.png", 1)] {
            let picture = RgbImage::from_fn(40, 32, |x, y| {
                Rgb([x as u8 * 2, (y as u8).wrapping_mul(green), (x ^ y) as u8])
            });
            picture.save(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("note.txt"), "not a picture").unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary, in the folder, without the user's settings.
    pub(crate) fn any2pix(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_any2pix"));
        command.args(args).current_dir(self.dir.path());
        command.env("XDG_CONFIG_HOME", self.path("no-config"));
        for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK", "ANY2PIX_SHARD"] {
            command.env_remove(name);
        }
        command
    }

    /// `any2pix batch` with the small model.
    pub(crate) fn batch(&self, manifest: &str, out: &str, more: &[&str]) -> Command {
        let mut args = vec!["batch", manifest, "--out", out];
        args.extend(SMALL);
        args.extend(more);
        self.any2pix(&args)
    }

    pub(crate) fn write(&self, name: &str, rows: &[Value]) {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(self.path(name), lines).unwrap();
    }

    /// What must not depend on how the batch in `out` was done: results, report, pictures. No
    /// temporary file may be left.
    pub(crate) fn results(&self, out: &str) -> BTreeMap<String, Vec<u8>> {
        let out = self.path(out);
        let mut found = BTreeMap::new();
        for folder in [out.clone(), out.join("outputs")] {
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                assert!(!name.ends_with(".tmp"), "{name} is left");
                let counts = folder != out || ["results.jsonl", "report.json"].contains(&&*name);
                if counts && entry.path().is_file() {
                    found.insert(name, std::fs::read(entry.path()).unwrap());
                }
            }
        }
        found
    }

    /// The lines of the merged results.
    pub(crate) fn rows(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(out).join("results.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The small model in its smallest use.
pub(crate) const SMALL: [&str; 6] = ["--model", "model", "--steps", "2", "--size", "32x32"];

/// `count` rows: every fifth and the row after it are one session; some name no picture, and fail.
pub(crate) fn rows(count: usize) -> Vec<Value> {
    let row = |n: usize| {
        let (id, session) = (format!("row-{n}"), format!("s{}", n / 5));
        let picture = ["park.png", "shop.png"][n % 2];
        let snow = match n % 7 {
            6 => "make it snow".to_string(),
            _ => format!("make it snow in [{picture}]"),
        };
        match n % 5 {
            0 => json!({"id": id, "instruction": snow, "session": session, "turn": 1}),
            1 => json!({"id": id, "instruction": "rain in [last]", "session": session, "turn": 2}),
            _ => json!({"id": id, "instruction": snow}),
        }
    };
    (0..count).map(row).collect()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs to the end; the exit code must be `code`.
pub(crate) fn ends_with(mut command: Command, code: i32) -> Output {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", stderr(&output));
    output
}
