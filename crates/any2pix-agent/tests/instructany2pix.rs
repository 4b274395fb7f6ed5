//! The full-size pipeline on an untrained model of real classes in the published layout: narrow
//! and shallow, but every file where it is published, and every stage.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail loudly")]

mod untrained;

use std::collections::HashMap;
use std::path::Path;

use any2pix_agent::request::Bindings;
use any2pix_agent::{
    AgentError, Compat, EditOutcome, EditRequest, EditSettings, ErrorClass, LoraFile, OpenOptions,
    Pipeline, Sampler, Silent, Stage, open,
};
use any2pix_diffusion::ip_adapter::AdaptedUNet;
use any2pix_diffusion::{AutoencoderKL, PriorTransformer, UNet2DConditionModel};
use any2pix_encoders::clip_text::ClipTextModel;
use any2pix_encoders::imagebind::ImageBindModel;
use any2pix_llm::{InstructAny2PixForCausalLM, LlamaConfig};
use any2pix_nn::{Generator, Parameters};
use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use untrained::{folder, from, weights, write};

/// Width of the embeddings.
const EMBEDDING: usize = 16;
/// The text encoders' vocabulary: bytes, and these.
const MERGES: [&str; 3] = ["d o", "do g</w>", "a n"];
/// Width of the first text encoder, of the second, of its projection.
const TEXT: [usize; 3] = [8, 12, 10];

fn unet_config(blocks: usize, cross: usize, time_ids: usize) -> Value {
    let kinds = |plain: &str, cross: &str| -> Vec<String> {
        (0..blocks).map(|i| if i == 1 { cross } else { plain }.to_string()).collect()
    };
    json!({
        "in_channels": 4, "out_channels": 4, "block_out_channels": vec![8; blocks],
        "down_block_types": kinds("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": kinds("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1,
        "attention_head_dim": 2, "cross_attention_dim": cross, "norm_num_groups": 4,
        "use_linear_projection": true, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": TEXT[2] + 4 * time_ids
    })
}

fn text_config(width: usize, projected: bool) -> Value {
    let class = if projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    json!({
        "architectures": [class], "vocab_size": 512 + MERGES.len() + 2, "hidden_size": width,
        "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": TEXT[2],
        "eos_token_id": 2
    })
}

fn sdxl(dir: &Path, refiner: bool) {
    let name = if refiner { "refiner" } else { "base" };
    let root = dir.join(format!("stable-diffusion-xl-{name}-1.0"));
    let diffusers = "diffusion_pytorch_model.safetensors";
    let unet = match refiner {
        true => unet_config(4, TEXT[1], 5),
        false => unet_config(3, TEXT[0] + TEXT[1], 6),
    };
    folder(&root.join("unet"), diffusers, &unet, |vb| {
        UNet2DConditionModel::load(vb, &from(&unet)).unwrap();
    });
    if refiner {
        return;
    }
    for (name, width) in [("text_encoder", TEXT[0]), ("text_encoder_2", TEXT[1])] {
        let config = text_config(width, name == "text_encoder_2");
        folder(&root.join(name), "model.safetensors", &config, |vb| {
            ClipTextModel::load(vb, &from(&config)).unwrap();
        });
        let words = root.join(name.replace("text_encoder", "tokenizer")).join("merges.txt");
        write(&words, format!("#version: 0.2\n{}\n", MERGES.join("\n")).as_bytes());
    }
    let vae = json!({"block_out_channels": [4, 4, 8, 8], "layers_per_block": 1,
        "latent_channels": 4, "norm_num_groups": 4, "scaling_factor": 0.13025});
    folder(&root.join("vae"), diffusers, &vae, |vb| {
        AutoencoderKL::load(vb, &from(&vae)).unwrap();
    });
    let scheduler = json!({"_class_name": "EulerDiscreteScheduler", "beta_schedule":
        "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false,
        "prediction_type": "epsilon", "set_alpha_to_one": false, "steps_offset": 1,
        "timestep_spacing": "leading"});
    let path = root.join("scheduler/scheduler_config.json");
    write(&path, scheduler.to_string().as_bytes());
}

fn language_model(dir: &Path, seed: u64) {
    let published =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tokenizers/llama_any2pix");
    let added = std::fs::read(published.join("added_tokens.json")).unwrap();
    let rows: HashMap<String, usize> = serde_json::from_slice(&added).unwrap();
    let rows = rows.values().max().unwrap() + 1;
    let config = json!({
        "model_type": "instructany2pix", "vocab_size": rows, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "mm_hidden_size": EMBEDDING,
    });
    let root = dir.join("llm-retrained");
    write(&root.join("config.json"), config.to_string().as_bytes());
    weights(&root.join("model.safetensors"), seed, |vb| {
        let config = LlamaConfig::from_json(config.to_string().as_bytes()).unwrap();
        InstructAny2PixForCausalLM::load(vb, &config).unwrap();
    });
    write(&root.join("tokenizer/added_tokens.json"), &added);
    let pieces = std::fs::read(published.join("tokenizer.model")).unwrap();
    write(&root.join("tokenizer/tokenizer.model"), &pieces);
}

/// Writes a small untrained model of the published layout into `dir`; what its language model
/// says depends on `seed`.
fn write_model(dir: &Path, seed: u64) {
    let imagebind = json!({
        "vision_image_size": 16, "kernel_size": [2, 8, 8], "vision_embed_dim": 16,
        "vision_num_blocks": 1, "vision_num_heads": 2, "audio_stride": 16,
        "audio_embed_dim": 16, "audio_num_blocks": 1, "audio_num_heads": 2,
        "text_vocab_size": 64, "text_context_length": 8, "text_embed_dim": 16,
        "text_num_blocks": 1, "text_num_heads": 2, "out_embed_dim": EMBEDDING
    });
    write(&dir.join("imagebind_huge.json"), imagebind.to_string().as_bytes());
    weights(&dir.join("imagebind_huge.pth"), 7, |vb| {
        ImageBindModel::load(vb, &from(&imagebind)).unwrap();
    });
    language_model(dir, seed);
    let clip = json!({"vocab_size": 20, "hidden_size": 12, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8,
        "hidden_act": "gelu", "bos_token_id": 18, "eos_token_id": 19});
    let prior = json!({
        "sequence_input_key": ["src_type", "imagebind", "crossattn_clip", "score",
            "noisy_inputs", "noise_leveltgt_type"],
        "sequence_input_embed_dim": [0, EMBEDDING, 12, 512, 0, 0], "embed_dim": EMBEDDING,
        "output_dim": EMBEDDING, "clip_text_config": clip,
        "gpt2_config": {"n_positions": 16, "n_embd": EMBEDDING, "n_layer": 1, "n_head": 2}
    });
    write(&dir.join("prior/config.json"), prior.to_string().as_bytes());
    weights(&dir.join("prior/model.bin"), 7, |vb| {
        PriorTransformer::load(vb.clone(), &from(&prior)).unwrap();
        let text = vb.pp("cond_stage_models.0.model");
        ClipTextModel::load(text, &from(&prior["clip_text_config"])).unwrap();
        // A table that the published file holds and nobody reads.
        vb.get((5, EMBEDDING), "model.wte.weight").unwrap();
    });
    sdxl(dir, false);
    sdxl(dir, true);
    let adapter = json!({"cross_attention_dim": TEXT[0] + TEXT[1],
        "clip_embeddings_dim": EMBEDDING});
    let unet = unet_config(3, TEXT[0] + TEXT[1], 6);
    let all = Parameters::new(7);
    let vb = all.builder(&Device::Cpu);
    AdaptedUNet::load(vb.pp("unet"), vb.clone(), &from(&unet), &from(&adapter)).unwrap();
    let own: HashMap<String, Tensor> =
        all.tensors().into_iter().filter(|(name, _)| !name.starts_with("unet.")).collect();
    std::fs::create_dir_all(dir.join("sdxl")).unwrap();
    let path = dir.join("sdxl/ip_adapter_global_local_2_view.bin");
    candle_core::safetensors::save(&own, path).unwrap();
}

/// A language model that edits the picture, whatever it says of it.
const EDITS: u64 = 1;
/// One that makes a new picture.
const MAKES: u64 = 7;

/// A model, two pictures and a sound.
fn fixture(seed: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), seed);
    for (name, green) in [("park.png", 4u8), ("shop.png", 1)] {
        let picture = RgbImage::from_fn(90, 60, |x, y| {
            Rgb([x as u8 * 2, (y as u8).wrapping_mul(green), (x ^ y) as u8])
        });
        picture.save(dir.path().join(name)).unwrap();
    }
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/media/dog.ogg");
    std::fs::copy(media, dir.path().join("dog.ogg")).unwrap();
    dir
}

fn model(dir: &Path, loras: Vec<LoraFile>) -> Result<Box<dyn Pipeline>, AgentError> {
    let options = OpenOptions { loras, ..OpenOptions::default() };
    open(dir.to_str().unwrap(), options)
}

fn edit(
    dir: &Path,
    pipeline: &dyn Pipeline,
    instruction: &str,
    change: impl Fn(&mut EditSettings),
) -> Result<EditOutcome, AgentError> {
    let mut settings = EditSettings::default();
    pipeline.settings().apply(&mut settings);
    assert_eq!((settings.steps, settings.size), (25, [1024, 1024]), "the published settings");
    settings = EditSettings { steps: 2, size: [64, 64], refinement: 0.0, ..settings };
    change(&mut settings);
    let images = vec![dir.join("park.png"), dir.join("shop.png")];
    let bindings = Bindings { images, audios: vec![dir.join("dog.ogg")] };
    let request = EditRequest::parse(instruction, &bindings, settings).unwrap();
    pipeline.edit(&request, &mut Silent)
}

/// Whether two pictures differ anywhere.
fn differ(a: &EditOutcome, b: &EditOutcome) -> bool {
    a.image.to_rgb8() != b.image.to_rgb8()
}

const ADD: &str = "add [audio1] to [image1]";

#[test]
fn a_picture_and_a_sound_become_a_picture_through_every_stage() {
    let dir = fixture(EDITS);
    let pipeline = model(dir.path(), vec![]).unwrap();
    let outcome =
        edit(dir.path(), &*pipeline, ADD, |s| (s.refinement, s.show_text) = (0.05, true)).unwrap();
    assert_eq!(outcome.plan.base.as_deref(), Some("image1"));
    assert_eq!((outcome.image.width(), outcome.image.height()), (90, 60));
    let stages: Vec<Stage> = outcome.timings.iter().map(|time| time.stage).collect();
    let published = [
        Stage::Encode,
        Stage::Plan,
        Stage::Refine,
        Stage::Condition,
        Stage::Prompt,
        Stage::Invert,
        Stage::Load,
        Stage::Mix,
        Stage::Denoise,
        Stage::Decode,
        Stage::Polish,
        Stage::Compose,
    ];
    assert_eq!(stages, published);
    let said = outcome.plan.text.to_ascii_lowercase();
    assert!(said.starts_with("absolutely, its,<base><video><im_gen_start><im_gen>["), "{said}");
    assert!(outcome.plan.unbound_text.is_some());
    assert_eq!(outcome.weights.len(), 9, "{:?}", outcome.weights);
    assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
    let document = outcome.document(None);
    assert_eq!(document["settings"]["sampler"], "ddim");
    if cfg!(target_os = "linux") {
        assert!(document["timings"][0]["resident_memory"].as_u64().unwrap() > 0);
    }
}

#[test]
fn the_same_bytes_come_from_any_number_of_threads() {
    let dir = fixture(EDITS);
    let pipeline = model(dir.path(), vec![]).unwrap();
    let png = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let outcome = pool.install(|| {
            edit(dir.path(), &*pipeline, ADD, |s| (s.seed, s.alpha) = (seed, Some(0.6)))
        });
        outcome.unwrap().png().unwrap()
    };
    let one = png(1, 0);
    assert_eq!(one, png(2, 0));
    assert_ne!(one, png(2, 1));
}

#[test]
fn each_setting_changes_the_picture() {
    let dir = fixture(EDITS);
    let pipeline = model(dir.path(), vec![]).unwrap();
    let made = |change: &dyn Fn(&mut EditSettings)| {
        edit(dir.path(), &*pipeline, "[image1] and [image2]", change).unwrap()
    };
    let plain = made(&|_| {});
    type Change = (&'static str, fn(&mut EditSettings));
    let changes: [Change; 6] = [
        ("alpha", |s| s.alpha = Some(0.3)),
        ("sampler", |s| (s.sampler, s.guidance) = (Sampler::Lcm, 1.0)),
        ("image scale", |s| s.image_scale = 0.0),
        ("prior", |s| s.refine = false),
        ("refiner", |s| s.refinement = 0.1),
        ("guidance", |s| s.guidance = 1.0),
    ];
    for (what, change) in changes {
        assert!(differ(&plain, &made(&change)), "{what}");
    }
}

#[test]
fn the_reference_is_followed_when_asked() {
    let dir = fixture(EDITS);
    let pipeline = model(dir.path(), vec![]).unwrap();
    let plain = edit(dir.path(), &*pipeline, ADD, |_| {}).unwrap();
    let reference = edit(dir.path(), &*pipeline, ADD, |s| s.compat = Compat::Reference).unwrap();
    assert_eq!((reference.image.width(), reference.image.height()), (64, 64));
    assert!(differ(&plain, &reference));
    let again = edit(dir.path(), &*pipeline, ADD, |s| s.compat = Compat::Reference).unwrap();
    assert!(!differ(&reference, &again));
}

#[test]
fn without_a_base_a_picture_is_made() {
    let dir = fixture(MAKES);
    let pipeline = model(dir.path(), vec![]).unwrap();
    for instruction in ["make a picture of a dog", ADD] {
        let outcome = edit(dir.path(), &*pipeline, instruction, |s| s.size = [128, 80]).unwrap();
        assert_eq!(outcome.plan.base, None, "{instruction}");
        assert_eq!((outcome.image.width(), outcome.image.height()), (128, 80));
    }
}

#[test]
fn a_lora_changes_what_it_names() {
    let dir = fixture(EDITS);
    let module = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q";
    let random =
        |seed, shape: (usize, usize)| Generator::new(seed).randn(shape, &Device::Cpu).unwrap();
    let save = |name: &str, module: &str| {
        let tensors = HashMap::from([
            (format!("lora_unet_{module}.lora_down.weight"), random(1, (2, 8))),
            (format!("lora_unet_{module}.lora_up.weight"), random(2, (8, 2))),
        ]);
        let path = dir.path().join(name);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        path
    };
    let path = save("style.safetensors", module);
    let made = |loras: Vec<LoraFile>| {
        let pipeline = model(dir.path(), loras).unwrap();
        edit(dir.path(), &*pipeline, ADD, |s| s.alpha = Some(0.5))
    };
    let plain = made(vec![]).unwrap();
    let changed = made(vec![LoraFile { path: path.clone(), scale: 2.0 }]).unwrap();
    assert!(differ(&plain, &changed));
    assert!(changed.weights.contains_key("lora/style.safetensors × 2"), "{:?}", changed.weights);
    let none = made(vec![LoraFile { path, scale: 0.0 }]).unwrap();
    assert!(!differ(&plain, &none));
    let other = save("other.safetensors", "down_blocks_9_attentions_0");
    let error = made(vec![LoraFile { path: other, scale: 1.0 }]).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Model);
    assert!(error.to_string().contains("down_blocks_9_attentions_0"), "{error}");
}

#[test]
fn what_is_missing_is_named_before_anything_is_read() {
    for (gone, component) in [
        ("imagebind_huge.pth", "imagebind"),
        ("prior/model.bin", "prior"),
        ("llm-retrained/tokenizer/tokenizer.model", "llm"),
        ("sdxl/ip_adapter_global_local_2_view.bin", "ip_adapter"),
        ("stable-diffusion-xl-base-1.0/vae/diffusion_pytorch_model.safetensors", "base"),
    ] {
        let dir = fixture(EDITS);
        std::fs::remove_file(dir.path().join(gone)).unwrap();
        let error = model(dir.path(), vec![]).err().unwrap();
        assert_eq!(error.class(), ErrorClass::Model, "{gone}");
        let message = error.to_string();
        let folder = Path::new(gone).parent().unwrap().to_str().unwrap();
        assert!(message.contains(component) && message.contains("missing"), "{message}");
        assert!(message.contains(folder), "{message}");
        assert!(!any2pix_nn::Hint::hints(&error).is_empty());
    }
}

#[test]
fn a_missing_refiner_is_a_warning() {
    let dir = fixture(EDITS);
    std::fs::remove_dir_all(dir.path().join("stable-diffusion-xl-refiner-1.0")).unwrap();
    let pipeline = model(dir.path(), vec![]).unwrap();
    let outcome = edit(dir.path(), &*pipeline, ADD, |s| s.refinement = 0.3).unwrap();
    assert!(outcome.warnings[0].contains("stable-diffusion-xl-refiner-1.0"));
    assert!(outcome.timings.iter().all(|time| time.stage != Stage::Polish));
}

#[test]
fn an_index_says_where_parts_lie_and_how_they_are_used() {
    let dir = fixture(EDITS);
    let moved = dir.path().join("elsewhere/prior.bin");
    std::fs::create_dir_all(moved.parent().unwrap()).unwrap();
    std::fs::rename(dir.path().join("prior/model.bin"), &moved).unwrap();
    let config = dir.path().join("elsewhere/config.json");
    std::fs::rename(dir.path().join("prior/config.json"), config).unwrap();
    let index = json!({
        "_class_name": "InstructAny2PixPipeline", "components": {"prior": moved},
        "settings": {"guidance": 3.0}, "refiner": {"steps": 4}
    });
    write(&dir.path().join("model_index.json"), index.to_string().as_bytes());
    let pipeline = model(dir.path(), vec![]).unwrap();
    assert_eq!(pipeline.settings().guidance, Some(3.0));
    let outcome = edit(dir.path(), &*pipeline, ADD, |s| s.refinement = 0.5).unwrap();
    assert!(outcome.timings.iter().any(|time| time.stage == Stage::Polish));
}
