//! The InstructPix2Pix' stage on folders in the layout of the published data.

#![allow(clippy::unwrap_used, reason = "a test fails by unwrapping")]

use std::fs;
use std::path::Path;

use any2pix_diffusion::PatchCodec;
use any2pix_encoders::clip_text::ClipTextModel;
use any2pix_nn::Parameters;
use any2pix_train::progress::Silent;
use any2pix_train::run_dir::RunDir;
use any2pix_train::stages::{self, StageContext};
use any2pix_train::{Outcome, TrainSettings, Trainer};
use candle_core::Device;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

/// A model of a few thousand random weights, with the tokenizer of the embedded one.
fn model(dir: &Path) {
    let playroom = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/playroom");
    fs::create_dir_all(dir.join("llm")).unwrap();
    fs::copy(playroom.join("llm/tokenizer.json"), dir.join("llm/tokenizer.json")).unwrap();
    fs::create_dir_all(dir.join("ip2p/scheduler")).unwrap();
    let scheduler = "ip2p/scheduler/scheduler_config.json";
    fs::copy(playroom.join(scheduler), dir.join(scheduler)).unwrap();
    let codec = json!({"latent_channels": 4, "block_out_channels": [8, 8], "layers_per_block": 1,
        "norm_num_groups": 4, "scaling_factor": 1.0});
    let text = json!({"vocab_size": 1792, "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16,
        "eos_token_id": 1791});
    let unet = json!({"in_channels": 8, "out_channels": 4, "block_out_channels": [16, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "layers_per_block": 1,
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 2,
        "cross_attention_dim": 8, "norm_num_groups": 4});
    write(&dir.join("vae/config.json"), &codec);
    write(&dir.join("ip2p/text_encoder/config.json"), &text);
    write(&dir.join("ip2p/unet/config.json"), &unet);
    let parameters = Parameters::new(1);
    let codec = serde_json::from_value(codec).unwrap();
    PatchCodec::load(parameters.builder(&Device::Cpu), &codec).unwrap();
    parameters.save(dir.join("vae/model.safetensors")).unwrap();
    let parameters = Parameters::new(2);
    let text = serde_json::from_value(text).unwrap();
    ClipTextModel::load(parameters.builder(&Device::Cpu), &text).unwrap();
    parameters.save(dir.join("ip2p/text_encoder/model.safetensors")).unwrap();
}

/// Twenty folders of two pairs: a flat picture, and the same with a bright middle.
fn data(dir: &Path) {
    let mut list = Vec::new();
    for number in 0..20u8 {
        let name = format!("{number:07}");
        let seeds = ["17", "4"];
        write(&dir.join(&name).join("prompt.json"), &json!({"edit": "light the middle"}));
        for seed in seeds {
            let before = RgbImage::from_pixel(48, 40, Rgb([number * 8, 90, 120]));
            let mut after = before.clone();
            for (x, y, pixel) in after.enumerate_pixels_mut() {
                if x.abs_diff(24) < 12 && y.abs_diff(20) < 10 {
                    *pixel = Rgb([250, 240, 40]);
                }
            }
            for (which, picture) in [before, after].iter().enumerate() {
                picture.save(dir.join(&name).join(format!("{seed}_{which}.jpg"))).unwrap();
            }
        }
        list.push(json!([name, seeds]));
    }
    write(&dir.join("seeds.json"), &json!(list));
}

fn settings(steps: u64) -> TrainSettings {
    let text = format!(
        "steps = {steps}\nbatch = 4\nlearning_rate = 1e-2\nwarmup = 5\nlog_every = 5\nseed = 3\n\
         [recipe]\nlast_timestep = 0.5\nchanged_weight = 1.0"
    );
    toml::from_str(&text).unwrap()
}

#[test]
fn it_learns_from_folders_in_the_published_layout() {
    let root = tempfile::tempdir().unwrap();
    let (data_dir, model_dir) = (root.path().join("data"), root.path().join("model"));
    model(&model_dir);
    data(&data_dir);
    let settings = settings(60);
    let context = StageContext {
        data: data_dir.clone(),
        model: model_dir.clone(),
        settings: settings.clone(),
    };
    let mut recipe = stages::open("ip2p", &context).unwrap();
    let run = RunDir::open(root.path().join("run")).unwrap();
    let (model, stop) = (model_dir.clone(), Default::default());
    let trainer = Trainer { run, model, resume: false, stop };
    let outcome = trainer.run(recipe.as_mut(), &settings, &mut Silent).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let rows = trainer.run.rows(&trainer.run.log()).unwrap();
    let inside = |row: usize| rows[row]["inside"].as_f64().unwrap();
    let last = rows.len() - 1;
    assert!(inside(last) < 0.5 * inside(0), "it must learn: {} to {}", inside(0), inside(last));
    assert!(model_dir.join("ip2p/unet/model.safetensors").is_file());

    // A list that leads out of its folder is refused before anything is read.
    write(&data_dir.join("seeds.json"), &json!([["../model", ["1"]]]));
    let error = stages::open("ip2p", &context).err().unwrap().to_string();
    assert!(error.contains("../model"), "{error}");
}
