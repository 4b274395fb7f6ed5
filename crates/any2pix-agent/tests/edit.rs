//! The whole page on an untrained model of real classes: whatever it plans, the edit holds its
//! promises.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail loudly")]

use std::path::Path;

use any2pix_agent::request::Bindings;
use any2pix_agent::{
    AgentError, Decoder, EditOutcome, EditRequest, EditSettings, Pipeline, Playroom, Progress,
    Silent, Stage,
};
use any2pix_diffusion::ip_adapter::AdaptedUNet;
use any2pix_diffusion::{PatchCodec, PriorTransformer};
use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_encoders::locator::Locator;
use any2pix_llm::{InstructAny2PixForCausalLM, LlamaConfig};
use any2pix_nn::Parameters;
use candle_core::Device;
use candle_nn::VarBuilder;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

fn write(dir: &Path, name: &str, config: &Value) {
    std::fs::create_dir_all(dir.join(name)).unwrap();
    std::fs::write(dir.join(name).join("config.json"), config.to_string()).unwrap();
}

/// A component's config and its weights as initialised.
fn component(dir: &Path, name: &str, config: Value, seed: u64, load: impl Fn(VarBuilder, Value)) {
    write(dir, name, &config);
    let parameters = Parameters::new(seed);
    load(parameters.builder(&Device::Cpu), config);
    parameters.save(dir.join(name).join("model.safetensors")).unwrap();
}

fn from<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn unet_config(in_channels: usize) -> Value {
    json!({
        "in_channels": in_channels, "out_channels": 4, "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1,
        "attention_head_dim": 2, "cross_attention_dim": 16, "norm_num_groups": 4,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 40
    })
}

/// Writes a small untrained model into `dir`.
fn untrained(dir: &Path, seed: u64) {
    let settings = json!({"steps": 3, "guidance": 1.5, "size": [48, 40]});
    let index = json!({"_class_name": "Playroom", "window_size": 32, "settings": settings});
    std::fs::write(dir.join("model_index.json"), index.to_string()).unwrap();
    let imagebind = json!({
        "vision_image_size": 16, "kernel_size": [2, 8, 8], "video_frames": 2,
        "vision_embed_dim": 16, "vision_num_blocks": 1, "vision_num_heads": 2,
        "audio_kernel_size": 16, "audio_stride": 16, "audio_embed_dim": 16,
        "audio_num_blocks": 1, "audio_num_heads": 2, "text_vocab_size": 64,
        "text_context_length": 8, "text_embed_dim": 16, "text_num_blocks": 1,
        "text_num_heads": 2, "out_embed_dim": 16
    });
    component(dir, "imagebind", imagebind, seed, |vb, config| {
        ImageBindModel::load(vb, &from(&config)).unwrap();
    });
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens/tokenizers/llama_any2pix/tokenizer.json");
    let tokenizer = std::fs::read(tokenizer).unwrap();
    let described: Value = serde_json::from_slice(&tokenizer).unwrap();
    let rows = described["model"]["vocab"].as_object().unwrap().len() + 16;
    let llm = json!({
        "vocab_size": rows, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "mm_hidden_size": 16, "retrieval_min_cosine": 0.5, "plan_grammar": {
            "sections": [
                {"key": "additions", "slot": true}, {"key": "removals", "slot": true},
                {"key": "place", "values": ["LEFT", "TOP-RIGHT"]}, {"key": "look"},
                {"key": "operation", "values": ["add", "remove", "replace", "look", "move",
                    "recolour", "duplicate", "make"]}
            ],
            "max_caption": 20, "max_name": 6, "max_subjects": 2
        }
    });
    component(dir, "llm", llm, seed, |vb, config| {
        let config = LlamaConfig::from_json(config.to_string().as_bytes()).unwrap();
        InstructAny2PixForCausalLM::load(vb, &config).unwrap();
    });
    std::fs::write(dir.join("llm/tokenizer.json"), tokenizer).unwrap();
    let prior = json!({
        "sequence_input_key": ["src_type", "imagebind", "score"],
        "sequence_input_embed_dim": [0, 16, 512], "embed_dim": 16, "output_dim": 16,
        "gpt2_config": {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    });
    component(dir, "prior", prior, seed, |vb, config| {
        PriorTransformer::load(vb, &from(&config)).unwrap();
    });
    let vae = json!({"_class_name": "PatchCodec", "latent_channels": 4,
        "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
        "scaling_factor": 1.0});
    component(dir, "vae", vae, seed, |vb, config| {
        PatchCodec::load(vb, &from(&config)).unwrap();
    });
    let adapter = json!({"cross_attention_dim": 16, "clip_embeddings_dim": 16});
    write(dir, "ip_adapter", &adapter);
    for (name, channels) in [("unet", 14), ("unet_inversion", 4)] {
        component(dir, name, unet_config(channels), seed, |vb, config| {
            AdaptedUNet::load(vb.pp("unet"), vb, &from(&config), &from(&adapter)).unwrap();
        });
    }
    let locator = json!({"sample_size": 32, "patch_size": 4, "block_out_channels": [16, 24],
        "layers_per_block": 1, "embed_dim": 16, "match_dim": 8});
    component(dir, "locator", locator, seed, |vb, config| {
        Locator::load(vb, &from(&config)).unwrap();
    });
    std::fs::create_dir_all(dir.join("scheduler")).unwrap();
    let scheduler = json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "beta_end": 0.012, "prediction_type": "v_prediction", "timestep_spacing": "trailing",
        "clip_sample": false, "set_alpha_to_one": true});
    std::fs::write(dir.join("scheduler/scheduler_config.json"), scheduler.to_string()).unwrap();
}

/// A model, a picture and a sound.
fn fixture(seed: u64) -> (tempfile::TempDir, Playroom) {
    let dir = tempfile::tempdir().unwrap();
    untrained(dir.path(), seed);
    let park = RgbImage::from_fn(90, 60, |x, y| Rgb([x as u8 * 2, y as u8 * 4, (x ^ y) as u8]));
    park.save(dir.path().join("park.png")).unwrap();
    let ball = RgbImage::from_fn(40, 40, |x, y| {
        let inside = (x as i32 - 20).pow(2) + (y as i32 - 20).pow(2) < 150;
        Rgb(if inside { [220, 30, 30] } else { [255; 3] })
    });
    ball.save(dir.path().join("ball.png")).unwrap();
    let playroom = Playroom::open(dir.path().to_str().unwrap(), &[]).unwrap();
    (dir, playroom)
}

fn request(dir: &Path, playroom: &Playroom, change: impl Fn(&mut EditSettings)) -> EditRequest {
    let mut settings = EditSettings::default();
    playroom.components().index.settings.apply(&mut settings);
    change(&mut settings);
    let images = vec![dir.join("park.png"), dir.join("ball.png")];
    let bindings = Bindings { images, audios: vec![] };
    EditRequest::parse("put the [image2] into [image1]", &bindings, settings).unwrap()
}

fn edit(playroom: &Playroom, request: &EditRequest) -> Result<EditOutcome, AgentError> {
    playroom.edit(request, &mut Silent)
}

#[test]
fn whatever_is_planned_becomes_a_picture_or_a_refusal() {
    let (mut pictures, mut operations) = (0, std::collections::BTreeSet::new());
    for seed in 0..12 {
        let (dir, playroom) = fixture(seed);
        let decoder = if seed % 3 == 2 { Decoder::Inversion } else { Decoder::Source };
        let request = request(dir.path(), &playroom, |s| s.decoder = decoder);
        match edit(&playroom, &request) {
            Ok(outcome) => {
                let size = (outcome.image.width(), outcome.image.height());
                let expected = if outcome.plan.base.is_some() { (90, 60) } else { (48, 40) };
                // The base is one of the two pictures.
                assert!(size == expected || size == (40, 40), "{size:?} {:?}", outcome.plan);
                assert!(outcome.weights.len() >= 5, "{:?}", outcome.weights);
                assert!(outcome.timings.iter().any(|t| t.stage == Stage::Denoise));
                operations.insert(outcome.plan.operation.clone());
                pictures += 1;
            }
            Err(AgentError::NoPlan { .. } | AgentError::Planning { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(pictures >= 6, "only {pictures} of 12 plans led to a picture");
    assert!(operations.len() >= 3, "{operations:?}");
}

/// The first seed whose plan leads to a picture by a local edit.
fn first_local() -> (tempfile::TempDir, Playroom, EditOutcome) {
    for seed in 0..40 {
        let (dir, playroom) = fixture(seed);
        let request = request(dir.path(), &playroom, |_| {});
        if let Ok(outcome) = edit(&playroom, &request)
            && outcome.plan.subjects.iter().any(|s| s.window.is_some())
        {
            return (dir, playroom, outcome);
        }
    }
    panic!("no plan with an object");
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let (dir, playroom, first) = first_local();
    let request = request(dir.path(), &playroom, |_| {});
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let again = pool.install(|| edit(&playroom, &request)).unwrap();
        assert_eq!(first.png().unwrap(), again.png().unwrap(), "{threads} threads");
    }
    let other = self::request(dir.path(), &playroom, |s| s.seed = 1);
    assert_ne!(first.png().unwrap(), edit(&playroom, &other).unwrap().png().unwrap());
}

#[test]
fn outside_of_the_windows_the_source_stays_as_it_is() {
    let (dir, _, outcome) = first_local();
    let plan = &outcome.plan;
    let Some(base) = &plan.base else { return };
    let file = if base == "image1" { "park.png" } else { "ball.png" };
    let source = image::open(dir.path().join(file)).unwrap().to_rgb8();
    let result = outcome.image.to_rgb8();
    let windows: Vec<_> = plan.subjects.iter().filter_map(|s| s.window).collect();
    for (x, y, pixel) in result.enumerate_pixels() {
        let inside = windows
            .iter()
            .any(|w| (w.x..w.x + w.width).contains(&x) && (w.y..w.y + w.height).contains(&y));
        assert!(inside || pixel == source.get_pixel(x, y), "{x} {y}");
    }
}

#[test]
fn a_watcher_sees_the_stages_in_order_and_can_stop_between_any_two() {
    struct Watcher {
        stages: Vec<Stage>,
        stop_after: usize,
    }
    impl Progress for Watcher {
        fn stage(&mut self, stage: Stage) {
            self.stages.push(stage);
        }
        fn is_cancelled(&self) -> bool {
            self.stages.len() >= self.stop_after
        }
    }
    let (dir, playroom, _) = first_local();
    let request = request(dir.path(), &playroom, |_| {});
    let mut all = Watcher { stages: Vec::new(), stop_after: usize::MAX };
    playroom.edit(&request, &mut all).unwrap();
    let begin = [Stage::Encode, Stage::Plan, Stage::Refine, Stage::Condition, Stage::Locate];
    assert_eq!(all.stages[..5], begin);
    for stop_after in 0..all.stages.len() {
        let mut watcher = Watcher { stages: Vec::new(), stop_after };
        let error = playroom.edit(&request, &mut watcher).unwrap_err();
        assert!(matches!(error, AgentError::Cancelled { .. }), "{stop_after}: {error}");
        assert_eq!(watcher.stages, all.stages[..stop_after]);
    }
}

#[test]
fn a_model_that_lacks_something_says_what() {
    let (dir, _) = fixture(0);
    std::fs::remove_file(dir.path().join("prior/model.safetensors")).unwrap();
    let playroom = Playroom::open(dir.path().to_str().unwrap(), &[]).unwrap();
    let request = request(dir.path(), &playroom, |_| {});
    let error = edit(&playroom, &request).unwrap_err();
    assert_eq!(error.class(), any2pix_agent::ErrorClass::Model);
    assert!(error.to_string().contains("prior/model.safetensors"), "{error}");
}
