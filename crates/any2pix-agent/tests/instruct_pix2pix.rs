//! InstructPix2Pix on an untrained model of real classes: in folders as diffusers lays them out,
//! and in one file with the names of its authors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail loudly")]

mod untrained;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use any2pix_agent::request::Bindings;
use any2pix_agent::{
    AgentError, Compat, EditOutcome, EditRequest, EditSettings, ErrorClass, OpenOptions, Pipeline,
    Sampler, Silent, Stage, open,
};
use any2pix_diffusion::{AutoencoderKL, UNet2DConditionModel};
use any2pix_encoders::clip_text::ClipTextModel;
use any2pix_encoders::locator::Locator;
use any2pix_nn::{Checkpoint, Generator, Hint};
use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use untrained::{folder, from, weights, write};

/// The text encoder's vocabulary: bytes, and these.
const MERGES: [&str; 3] = ["i t</w>", "s n", "r e"];
const DIFFUSERS: &str = "diffusion_pytorch_model.safetensors";
const SNOW: &str = "make it snow in [image1]";

fn unet_config(in_channels: usize) -> Value {
    json!({
        "in_channels": in_channels, "out_channels": 4, "block_out_channels": [8, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1,
        "attention_head_dim": 2, "cross_attention_dim": 8, "norm_num_groups": 4
    })
}

fn text_config(width: usize) -> Value {
    json!({
        "architectures": ["CLIPTextModel"], "vocab_size": 512 + MERGES.len() + 2,
        "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 77, "hidden_act": "quick_gelu"
    })
}

fn vocabulary(dir: &Path) {
    let merges = format!("#version: 0.2\n{}\n", MERGES.join("\n"));
    write(&dir.join("tokenizer/merges.txt"), merges.as_bytes());
}

fn pictures(dir: &Path) {
    for (name, green) in [("park.png", 4u8), ("shop.png", 1)] {
        let picture = RgbImage::from_fn(90, 60, |x, y| {
            Rgb([x as u8 * 2, (y as u8).wrapping_mul(green), (x ^ y) as u8])
        });
        picture.save(dir.join(name)).unwrap();
    }
}

/// A small untrained model in folders, and two pictures.
fn folders() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let index = json!({
        "_class_name": "StableDiffusionInstructPix2PixPipeline", "_diffusers_version": "0.12.0",
        "unet": ["diffusers", "UNet2DConditionModel"], "settings": {"image_guidance": 1.25}
    });
    write(&root.join("model_index.json"), index.to_string().as_bytes());
    let unet = unet_config(8);
    folder(&root.join("unet"), DIFFUSERS, &unet, |vb| {
        UNet2DConditionModel::load(vb, &from(&unet)).unwrap();
    });
    let vae = json!({"block_out_channels": [4, 4, 8, 8], "layers_per_block": 1,
        "latent_channels": 4, "norm_num_groups": 4, "scaling_factor": 0.18215});
    folder(&root.join("vae"), DIFFUSERS, &vae, |vb| {
        AutoencoderKL::load(vb, &from(&vae)).unwrap();
    });
    let text = text_config(8);
    folder(&root.join("text_encoder"), "model.safetensors", &text, |vb| {
        ClipTextModel::load(vb, &from(&text)).unwrap();
    });
    vocabulary(root);
    let scheduler = json!({"_class_name": "EulerAncestralDiscreteScheduler", "beta_schedule":
        "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false,
        "set_alpha_to_one": false, "steps_offset": 1, "trained_betas": null});
    write(&root.join("scheduler/scheduler_config.json"), scheduler.to_string().as_bytes());
    pictures(root);
    dir
}

fn model(dir: &Path) -> Result<Box<dyn Pipeline>, AgentError> {
    open(dir.to_str().unwrap(), OpenOptions::default())
}

fn edit(
    dir: &Path,
    pipeline: &dyn Pipeline,
    instruction: &str,
    change: impl Fn(&mut EditSettings),
) -> Result<EditOutcome, AgentError> {
    let mut settings = EditSettings::default();
    pipeline.settings().apply(&mut settings);
    assert_eq!((settings.steps, settings.guidance), (100, 7.5), "the published settings");
    assert_eq!(settings.sampler, Sampler::EulerAncestral);
    settings = EditSettings { steps: 2, size: [64, 64], ..settings };
    change(&mut settings);
    let images = vec![dir.join("park.png"), dir.join("shop.png")];
    let bindings = Bindings { images, audios: Vec::new() };
    let request = EditRequest::parse(instruction, &bindings, settings).unwrap();
    pipeline.edit(&request, &mut Silent)
}

#[test]
fn a_picture_and_words_become_a_picture_through_every_stage() {
    let dir = folders();
    let pipeline = model(dir.path()).unwrap();
    assert_eq!(pipeline.settings().image_guidance, Some(1.25), "the index's own");
    let outcome = edit(dir.path(), &*pipeline, SNOW, |_| {}).unwrap();
    assert_eq!((outcome.image.width(), outcome.image.height()), (90, 60));
    assert_eq!(outcome.plan.base.as_deref(), Some("image1"));
    assert_eq!(outcome.plan.caption, "make it snow in it");
    let stages: Vec<Stage> = outcome.timings.iter().map(|time| time.stage).collect();
    let order =
        [Stage::Load, Stage::Prompt, Stage::Invert, Stage::Denoise, Stage::Decode, Stage::Compose];
    assert_eq!(stages, order);
    let used: Vec<&String> = outcome.weights.keys().collect();
    let (unet, vae) = (format!("unet/{DIFFUSERS}"), format!("vae/{DIFFUSERS}"));
    assert_eq!(used, ["text_encoder/model.safetensors", unet.as_str(), vae.as_str()]);
    let reference = edit(dir.path(), &*pipeline, SNOW, |s| s.compat = Compat::Reference).unwrap();
    assert_eq!((reference.image.width(), reference.image.height()), (64, 64));
}

#[test]
fn the_same_bytes_come_from_any_number_of_threads() {
    let dir = folders();
    let pipeline = model(dir.path()).unwrap();
    let png = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let outcome =
            pool.install(|| edit(dir.path(), &*pipeline, SNOW, |s| s.seed = seed)).unwrap();
        outcome.png().unwrap()
    };
    let one = png(1, 0);
    assert_eq!(one, png(2, 0));
    assert_ne!(one, png(2, 1));
}

#[test]
fn words_source_and_settings_change_the_picture() {
    let dir = folders();
    let pipeline = model(dir.path()).unwrap();
    let made = |instruction: &str, change: &dyn Fn(&mut EditSettings)| {
        edit(dir.path(), &*pipeline, instruction, change).unwrap().image.to_rgb8()
    };
    let plain = made(SNOW, &|_| {});
    assert_ne!(plain, made("make it rain in [image1]", &|_| {}), "the words");
    assert_ne!(plain, made("make it snow in [image2]", &|_| {}), "the source");
    type Change = (&'static str, fn(&mut EditSettings));
    let changes: [Change; 4] = [
        ("guidance", |s| s.guidance = 1.0),
        ("image guidance", |s| s.image_guidance = 3.0),
        ("steps", |s| s.steps = 3),
        ("sampler", |s| s.sampler = Sampler::Euler),
    ];
    for (what, change) in changes {
        assert_ne!(plain, made(SNOW, &change), "{what}");
    }
}

#[test]
fn references_besides_the_picture_are_refused() {
    let dir = folders();
    let pipeline = model(dir.path()).unwrap();
    for (instruction, said) in
        [("add [image2] to [image1]", "image1"), ("make it snow", "names none")]
    {
        let error = edit(dir.path(), &*pipeline, instruction, |_| {}).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Refused, "{instruction}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(!error.hints().is_empty());
    }
}

#[test]
fn what_is_missing_is_named_before_anything_is_read() {
    for component in ["unet", "vae", "text_encoder"] {
        let dir = folders();
        std::fs::remove_dir_all(dir.path().join(component)).unwrap();
        let error = model(dir.path()).err().unwrap();
        assert_eq!(error.class(), ErrorClass::Model, "{component}");
        let message = error.to_string();
        assert!(message.contains(component) && message.contains("missing"), "{message}");
        assert!(!error.hints().is_empty());
    }
}

#[test]
fn a_unet_without_channels_for_the_source_is_refused() {
    let dir = folders();
    let config = dir.path().join("unet/config.json");
    write(&config, unet_config(4).to_string().as_bytes());
    let pipeline = model(dir.path()).unwrap();
    let error = edit(dir.path(), &*pipeline, SNOW, |_| {}).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Model);
    assert!(error.to_string().contains("in_channels is 4"), "{error}");
}

/// The recorded file of original names, with a vocabulary that can be written in, as the tensors
/// of a state.
fn original_tensors() -> BTreeMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens/pipelines/ip2p_original_ckpt/model.ckpt");
    let recorded = Checkpoint::open(path).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = recorded
        .names()
        .into_iter()
        .filter_map(|name| recorded.tensor(&name).map(|tensor| (name, tensor)))
        .collect();
    let table =
        "state_dict.cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
    let rows = Generator::new(3).randn((512 + MERGES.len() + 2, 24), &Device::Cpu).unwrap();
    assert!(tensors.insert(table.to_string(), rows).is_some());
    tensors
}

/// A folder with one file, which says its sizes in configs since it is not of published size.
fn one_file(tensors: &BTreeMap<String, Tensor>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("instruct-pix2pix-00-22000.ckpt");
    let tensors: HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    candle_core::safetensors::save(&tensors, file).unwrap();
    let unet = json!({"block_out_channels": [32, 32], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 4, "cross_attention_dim": 24});
    let vae = json!({"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1});
    let mut text = text_config(24);
    text["intermediate_size"] = json!(48);
    for (component, config) in [("unet", unet), ("vae", vae), ("text_encoder", text)] {
        let path = dir.path().join(component).join("config.json");
        write(&path, config.to_string().as_bytes());
    }
    vocabulary(dir.path());
    pictures(dir.path());
    dir
}

#[test]
fn one_file_of_original_names_edits_with_its_averaged_weights() {
    let picture = |tensors: &BTreeMap<String, Tensor>| {
        let dir = one_file(tensors);
        let pipeline = model(dir.path()).unwrap();
        let outcome = edit(dir.path(), &*pipeline, SNOW, |_| {})?;
        assert_eq!(outcome.weights.len(), 1, "{:?}", outcome.weights);
        Ok::<_, AgentError>(outcome.image.to_rgb8())
    };
    let plain = original_tensors();
    let expected = picture(&plain).unwrap();
    let mut averaged = plain.clone();
    for (name, tensor) in &plain {
        let Some(inner) = name.strip_prefix("state_dict.model.") else { continue };
        let average = format!("state_dict.model_ema.{}", inner.replace('.', ""));
        averaged.insert(average, tensor.clone());
        averaged.insert(name.clone(), (tensor * 0.5).unwrap());
    }
    let decay = Tensor::new(&[0.9999f32], &Device::Cpu).unwrap();
    averaged.insert("state_dict.model_ema.decay".into(), decay.clone());
    assert_eq!(picture(&averaged).unwrap(), expected);
    averaged.retain(|name, _| !name.starts_with("state_dict.model_ema."));
    assert_ne!(picture(&averaged).unwrap(), expected);
    averaged.insert("state_dict.control_model.zero.bias".into(), decay);
    let error = picture(&averaged).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Model);
    assert!(error.to_string().contains("control_model.zero.bias"), "{error}");
}

/// A model with gates, and with the codec and the tokenizer of the embedded one; what it paints is
/// noise, and its gates are open by the sigmoid of `opening`.
fn gated(opening: f32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let playroom = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/playroom");
    let index = json!({
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        "places": {
            "vae": format!("{playroom}/vae"),
            "tokenizer": format!("{playroom}/llm/tokenizer.json"),
        },
    });
    write(&root.join("model_index.json"), index.to_string().as_bytes());
    let unet = json!({"in_channels": 32, "out_channels": 32, "block_out_channels": [8, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1,
        "attention_head_dim": 2, "cross_attention_dim": 8, "norm_num_groups": 4});
    folder(&root.join("unet"), DIFFUSERS, &unet, |vb| {
        UNet2DConditionModel::load(vb, &from(&unet)).unwrap();
    });
    let weights = root.join("unet").join(DIFFUSERS);
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let painted = Generator::new(7).randn((16, 8, 3, 3), &Device::Cpu).unwrap();
    let gates = painted.zeros_like().unwrap();
    let weight = Tensor::cat(&[painted, gates], 0).unwrap();
    let bias = [[0.0; 16], [opening; 16]].concat();
    tensors.insert("conv_out.weight".into(), weight);
    tensors.insert("conv_out.bias".into(), Tensor::new(bias, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let mut text = text_config(8);
    for (key, value) in [("vocab_size", 1792), ("max_position_embeddings", 40)] {
        text[key] = json!(value);
    }
    text["eos_token_id"] = json!(1791);
    folder(&root.join("text_encoder"), "model.safetensors", &text, |vb| {
        ClipTextModel::load(vb, &from(&text)).unwrap();
    });
    let config = format!("{playroom}/ip2p/scheduler/scheduler_config.json");
    let scheduler = std::fs::read(config).unwrap();
    write(&root.join("scheduler/scheduler_config.json"), &scheduler);
    pictures(root);
    dir
}

#[test]
fn a_network_whose_gates_are_shut_keeps_every_pixel() {
    let made = |opening: f32, compose: bool| {
        let dir = gated(opening);
        let pipeline = model(dir.path()).unwrap();
        let change = |s: &mut EditSettings| {
            let size = [128, 128];
            (s.sampler, s.compose, s.size) = (Sampler::Ddim, compose, size);
            (s.guidance, s.image_guidance) = (1.0, 1.0);
        };
        let outcome = edit(dir.path(), &*pipeline, SNOW, change).unwrap();
        let source = image::open(dir.path().join("park.png")).unwrap().to_rgb8();
        (source, outcome)
    };
    let (source, outcome) = made(-40.0, true);
    assert_eq!(outcome.image.to_rgb8(), source);
    assert!(outcome.plan.subjects.is_empty());
    let (source, outcome) = made(-40.0, false);
    assert_ne!(outcome.image.to_rgb8(), source, "the codec's own picture");
    let (source, outcome) = made(2.0, true);
    assert_ne!(outcome.image.to_rgb8(), source);
    let changed = outcome.plan.subjects.first().unwrap();
    assert_eq!((changed.role.as_str(), changed.name.as_str()), ("change", ""));
    assert!(changed.region.is_some_and(|region| region.width <= 90 && region.height <= 60));
}

/// A model whose UNet sees what an untrained locator sees in the source.
fn seeing(seed: u64) -> tempfile::TempDir {
    let dir = folders();
    let root = dir.path();
    let unet = unet_config(4 + 4 + 8);
    folder(&root.join("unet"), DIFFUSERS, &unet, |vb| {
        UNet2DConditionModel::load(vb, &from(&unet)).unwrap();
    });
    let eye = json!({"sample_size": 32, "patch_size": 4, "block_out_channels": [8, 16],
        "layers_per_block": 1, "embed_dim": 8, "match_dim": 8});
    write(&root.join("locator/config.json"), eye.to_string().as_bytes());
    weights(&root.join(EYE), seed, |vb| {
        Locator::load(vb, &from(&eye)).unwrap();
    });
    dir
}

const EYE: &str = "locator/model.safetensors";

#[test]
fn a_unet_with_channels_for_it_sees_what_the_locator_sees() {
    let edited = |seed: u64| {
        let dir = seeing(seed);
        let outcome = edit(dir.path(), &*model(dir.path()).unwrap(), SNOW, |_| {}).unwrap();
        assert!(outcome.weights.contains_key(EYE), "{:?}", outcome.weights);
        outcome.image.to_rgb8()
    };
    assert_eq!(edited(1), edited(1));
    assert_ne!(edited(1), edited(2));
    let dir = seeing(1);
    std::fs::remove_dir_all(dir.path().join("locator")).unwrap();
    let error = edit(dir.path(), &*model(dir.path()).unwrap(), SNOW, |_| {}).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Model);
    assert!(error.to_string().contains("in_channels is 16; this pipeline needs 8"), "{error}");
}
