//! Pairs of captions on untrained models of real classes: a Stable Diffusion in folders, and an
//! InstructPix2Pix whose source is left out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail loudly")]

mod untrained;

use any2pix_agent::instruct_pix2pix::{PaintedPair, PairSettings, TextToImage};
use any2pix_agent::{AgentError, ErrorClass, Sampler};
use any2pix_diffusion::{AutoencoderKL, UNet2DConditionModel};
use any2pix_encoders::clip_text::ClipTextModel;
use serde_json::{Value, json};
use untrained::{folder, from, write};

const DIFFUSERS: &str = "diffusion_pytorch_model.safetensors";

/// A small untrained model in folders, without settings of its own but those of `index`.
fn model(in_channels: usize, index: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("model_index.json"), index.to_string().as_bytes());
    let unet = json!({
        "in_channels": in_channels, "out_channels": 4, "block_out_channels": [8, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1,
        "attention_head_dim": 2, "cross_attention_dim": 8, "norm_num_groups": 4
    });
    folder(&root.join("unet"), DIFFUSERS, &unet, |vb| {
        UNet2DConditionModel::load(vb, &from(&unet)).unwrap();
    });
    let vae = json!({"block_out_channels": [4, 4, 8, 8], "layers_per_block": 1,
        "latent_channels": 4, "norm_num_groups": 4, "scaling_factor": 0.18215});
    folder(&root.join("vae"), DIFFUSERS, &vae, |vb| {
        AutoencoderKL::load(vb, &from(&vae)).unwrap();
    });
    let text = json!({"architectures": ["CLIPTextModel"], "vocab_size": 514, "hidden_size": 8,
        "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu"});
    folder(&root.join("text_encoder"), "model.safetensors", &text, |vb| {
        ClipTextModel::load(vb, &from(&text)).unwrap();
    });
    write(&root.join("tokenizer/merges.txt"), b"#version: 0.2\n");
    let scheduler = json!({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false, "skip_prk_steps": true,
        "set_alpha_to_one": false, "steps_offset": 1, "trained_betas": null});
    write(&root.join("scheduler/scheduler_config.json"), scheduler.to_string().as_bytes());
    dir
}

fn stable_diffusion() -> Value {
    json!({ "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"] })
}

fn open(dir: &tempfile::TempDir) -> TextToImage {
    TextToImage::open(dir.path().to_str().unwrap(), None).unwrap()
}

fn paint(
    model: &TextToImage,
    change: impl Fn(&mut PairSettings),
    captions: [&str; 2],
    seed: u64,
) -> Result<PaintedPair, AgentError> {
    let mut settings = PairSettings { steps: 3, size: [32, 48], ..model.settings() };
    change(&mut settings);
    let painter = model.load(&settings)?;
    let pair = painter.paint(&model.read(captions)?, seed, &mut || false)?;
    assert_eq!(painter.drawn(seed)?, (pair.threshold, pair.guidance));
    Ok(pair)
}

const CAPTIONS: [&str; 2] = ["a dog", "a cat"];

#[test]
fn a_stable_diffusion_paints_pairs_as_published() {
    let dir = model(4, &stable_diffusion());
    let model = open(&dir);
    let published = PairSettings {
        steps: 100,
        size: [512, 512],
        sampler: Sampler::EulerAncestral,
        threshold: [0.1, 0.9],
        guidance: [7.5, 15.0],
        cross_attention: false,
    };
    assert_eq!(model.settings(), published);
    let pair = paint(&model, |_| {}, CAPTIONS, 5).unwrap();
    let [first, second] = &pair.pictures;
    assert_eq!((first.width(), first.height()), (32, 48));
    assert_ne!(first, second);
    assert!((0.1..0.9).contains(&pair.threshold) && (7.5..15.0).contains(&pair.guidance));
    let again = paint(&model, |_| {}, CAPTIONS, 5).unwrap();
    assert_eq!(again.pictures, pair.pictures);
    assert_ne!(paint(&model, |_| {}, CAPTIONS, 6).unwrap().pictures, pair.pictures);
    let same = paint(&model, |_| {}, ["a dog"; 2], 5).unwrap().pictures;
    assert_eq!(same[0], same[1]);
    assert_eq!(&same[0], first, "the second caption is nothing to the first picture");
}

#[test]
fn shared_attention_brings_the_pictures_nearer() {
    let dir = model(4, &stable_diffusion());
    let model = open(&dir);
    let made = |threshold: f32, cross_attention: bool| {
        let change = |s: &mut PairSettings| {
            (s.threshold, s.cross_attention) = ([threshold; 2], cross_attention);
            s.guidance = [1.5; 2];
        };
        paint(&model, change, CAPTIONS, 1).unwrap().pictures
    };
    let (free, bound, more) = (made(0.0, false), made(1.1, false), made(1.1, true));
    assert_eq!(free[0], bound[0]);
    assert_eq!(free[0], more[0]);
    assert!(free[1] != bound[1] && bound[1] != more[1]);
}

#[test]
fn channels_for_a_source_are_left_empty_and_a_model_says_how_it_paints() {
    let index = json!({
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        "settings": { "steps": 8, "size": [128, 64], "sampler": "ddim" },
        "pairs": { "guidance": [1.0, 2.0] },
    });
    let dir = model(8, &index);
    let model = open(&dir);
    let settings = model.settings();
    assert_eq!((settings.steps, settings.size), (8, [128, 64]));
    assert_eq!((settings.sampler, settings.guidance), (Sampler::Ddim, [1.0, 2.0]));
    let pair = paint(&model, |_| {}, CAPTIONS, 2).unwrap();
    assert_ne!(pair.pictures[0], pair.pictures[1]);
}

#[test]
fn what_cannot_be_painted_is_refused_by_name() {
    let dir = model(4, &stable_diffusion());
    let painter = open(&dir);
    type Change = fn(&mut PairSettings);
    let wrong: [(&str, Change); 5] = [
        ("--steps", |s| s.steps = 0),
        ("--size", |s| s.size = [40, 32]),
        ("--size", |s| s.size = [0, 32]),
        ("--p2p", |s| s.threshold = [0.9, 0.1]),
        ("--guidance", |s| s.guidance = [f32::NAN, 2.0]),
    ];
    for (name, change) in wrong {
        let error = paint(&painter, change, CAPTIONS, 0).err().unwrap();
        assert_eq!(error.class(), ErrorClass::Refused);
        assert!(error.to_string().starts_with(name), "{error}");
    }
    let dir = model(5, &stable_diffusion());
    let error = paint(&open(&dir), |_| {}, CAPTIONS, 0).err().unwrap();
    assert_eq!(error.class(), ErrorClass::Model);
    assert!(error.to_string().contains("in_channels is 5"), "{error}");
    let mut asked = 0;
    let dir = model(4, &stable_diffusion());
    let painter = open(&dir);
    let settings = PairSettings { steps: 9, size: [32, 32], ..painter.settings() };
    let loaded = painter.load(&settings).unwrap();
    let mut stop = || {
        asked += 1;
        asked > 2
    };
    let error = loaded.paint(&painter.read(CAPTIONS).unwrap(), 0, &mut stop).err().unwrap();
    assert_eq!(error.class(), ErrorClass::Cancelled);
    assert!(asked < 6, "{asked}");
}
