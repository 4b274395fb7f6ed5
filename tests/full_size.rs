//! The full-size models: every tensor that our classes ask for is one of the official classes',
//! of the same shape, and none is left over. No weights are made for it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use any2pix_diffusion::{
    AdaptedUNet, Autoencoder, AutoencoderKL, PriorTransformer, UNet2DConditionModel,
};
use any2pix_encoders::clip_text::{ClipTextConfig, ClipTextModel};
use any2pix_encoders::imagebind::{self, ImageBindConfig, ImageBindModel};
use any2pix_hub::{ComponentDefinition, InitOptions, ModelDefinition, Silent, TensorTable, init};
use any2pix_llm::tokenizer::Tokenizer;
use any2pix_llm::{InstructAny2PixForCausalLM, LlamaConfig};
use any2pix_nn::{Checkpoint, Generator};
use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use serde::de::DeserializeOwned;

/// Models and where their definitions lie.
const MODEL_FOLDERS: [(&str, &str); 3] = [
    ("instructany2pix", "instructany2pix"),
    ("instruct-pix2pix", "instruct_pix2pix"),
    ("instruct-pix2pix-ckpt", "instruct_pix2pix"),
];

type Shapes = BTreeMap<String, Vec<usize>>;

/// Answers every question with one zero, spread to the shape that was asked for, and notes what
/// was asked. The zero is trained, so that no layer packs it: a model takes no memory.
struct Questions {
    zero: Var,
    asked: Arc<Mutex<Shapes>>,
    known: Shapes,
}

impl SimpleBackend for Questions {
    fn get(&self, s: Shape, name: &str, _: Init, _: DType, _: &Device) -> Result<Tensor> {
        let before = self.asked.lock().unwrap().insert(name.to_string(), s.dims().to_vec());
        assert!(before.is_none_or(|dims| dims == s.dims()), "`{name}` was asked for in two shapes");
        self.zero.as_tensor().broadcast_as(s)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.known.get(name) {
            Some(dims) => self.get(dims.clone().into(), name, Init::Const(0.0), dtype, device),
            None => candle_core::bail!("`{name}` was asked for without a shape"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }
}

/// What a published component gives to its model: names as the model has them.
fn given(component: &ComponentDefinition) -> Shapes {
    let named = |(name, shape): (&str, &[usize])| Some((component.read_as(name)?, shape.to_vec()));
    component.tensors.iter().filter_map(named).collect()
}

/// Starts of the names that are not read.
fn ignored(component: &ComponentDefinition) -> Vec<String> {
    component.names.ignore.iter().map(|ignore| ignore.prefix.clone()).collect()
}

/// What `load` asks for.
fn asked(known: &Shapes, load: impl FnOnce(VarBuilder<'static>)) -> Shapes {
    let zero = Var::zeros((), DType::F32, &Device::Cpu).unwrap();
    let asked = Arc::new(Mutex::new(Shapes::new()));
    let questions = Questions { zero, asked: asked.clone(), known: known.clone() };
    load(VarBuilder::from_backend(Box::new(questions), DType::F32, Device::Cpu));
    let asked = asked.lock().unwrap();
    asked.clone()
}

fn config<T: DeserializeOwned>(component: &ComponentDefinition) -> T {
    serde_json::from_str(component.config).unwrap()
}

/// Fails with the first few differences, by name.
fn assert_same(component: &str, given: &Shapes, asked: &Shapes) {
    let wrong = |(name, shape): (&String, &Vec<usize>)| match given.get(name) {
        None => Some(format!("{name} {shape:?} is asked for and not published")),
        Some(published) if published != shape => {
            Some(format!("{name} is published as {published:?} and asked for as {shape:?}"))
        }
        Some(_) => None,
    };
    let unread = given
        .iter()
        .filter(|(name, _)| !asked.contains_key(*name))
        .map(|(name, shape)| format!("{name} {shape:?} is published and not asked for"));
    let faults: Vec<String> = asked.iter().filter_map(wrong).chain(unread).take(10).collect();
    assert!(faults.is_empty(), "{component}:\n{}", faults.join("\n"));
    assert!(!given.is_empty(), "{component} has no tensors");
}

/// Loads a component of InstructAny2Pix by its class and compares.
fn check(name: &str, load: impl FnOnce(VarBuilder<'static>, &ComponentDefinition)) {
    check_in(&ModelDefinition::named("instructany2pix").unwrap(), name, load);
}

/// The same of any model.
fn check_in(
    model: &ModelDefinition,
    name: &str,
    load: impl FnOnce(VarBuilder<'static>, &ComponentDefinition),
) {
    let component = model.component(name).unwrap();
    let given = given(component);
    assert_same(name, &given, &asked(&given, |vb| load(vb, component)));
}

/// InstructPix2Pix: Stable Diffusion 1.5 with four more channels.
#[test]
fn instruct_pix2pix() {
    let model = ModelDefinition::named("instruct-pix2pix").unwrap();
    check_in(&model, "unet", |vb, component| {
        UNet2DConditionModel::load(vb, &config(component)).unwrap();
    });
    check_in(&model, "vae", |vb, component| {
        AutoencoderKL::load(vb, &config(component)).unwrap();
    });
    check_in(&model, "text_encoder", clip_text);
    let shape = |part: &str, name: &str| {
        model.component(part).unwrap().tensors.shape(name).map(<[usize]>::to_vec)
    };
    assert_eq!(shape("unet", "conv_in.weight"), Some(vec![320, 8, 3, 3]));
}

/// The one file of the authors holds what the folders hold, under other names, and the UNet's
/// average beside it.
#[test]
fn the_one_file_of_instruct_pix2pix() {
    let folders = ModelDefinition::named("instruct-pix2pix").unwrap();
    let file = ModelDefinition::named("instruct-pix2pix-ckpt").unwrap();
    let tensors = &file.component("one_file").unwrap().tensors;
    let numbers = |begins: &str| {
        let of = |(name, shape): (&str, &[usize])| {
            name.strip_prefix("state_dict.")?.starts_with(begins).then(|| shape.iter().product())
        };
        tensors.iter().filter_map(of).map(|n: usize| n as u64).collect::<Vec<u64>>()
    };
    let sum = |begins: &str| numbers(begins).iter().sum::<u64>();
    let wanted = |part: &str| folders.component(part).unwrap().tensors.parameters();
    assert_eq!(sum("model.diffusion_model."), wanted("unet"));
    assert_eq!(sum("model_ema.diffusion_model"), wanted("unet"));
    assert_eq!(sum("first_stage_model."), wanted("vae"));
    let positions = 77;
    assert_eq!(sum("cond_stage_model."), wanted("text_encoder") + positions);
}

#[test]
fn imagebind_huge() {
    check("imagebind", |vb, component| {
        let config: ImageBindConfig = config(component);
        assert_eq!(config, ImageBindConfig::default());
        ImageBindModel::load(vb, &config).unwrap();
        let mut ignored = ignored(component);
        ignored.sort();
        let mut known: Vec<String> = imagebind::IGNORED.iter().map(ToString::to_string).collect();
        known.sort();
        assert_eq!(ignored, known);
    });
}

#[test]
fn the_language_model_and_its_projectors() {
    check("llm", |vb, component| {
        let config = LlamaConfig::from_json(component.config.as_bytes()).unwrap();
        InstructAny2PixForCausalLM::load(vb, &config).unwrap();
        let mut ignored = ignored(component);
        let mut known = InstructAny2PixForCausalLM::ignored_prefixes(&config);
        ignored.sort();
        known.sort();
        assert_eq!(ignored, known);
    });
}

#[test]
fn the_prior() {
    check("prior", |vb, component| {
        PriorTransformer::load(vb, &config(component)).unwrap();
    });
}

/// Loads a CLIP text encoder.
fn clip_text(vb: VarBuilder<'static>, component: &ComponentDefinition) {
    ClipTextModel::load(vb, &config::<ClipTextConfig>(component)).unwrap();
}

#[test]
fn the_text_encoders() {
    check("prior_text_encoder", clip_text);
    check("text_encoder", clip_text);
    check("text_encoder_2", clip_text);
}

#[test]
fn the_vae() {
    check("vae", |vb, component| {
        AutoencoderKL::load(vb, &config(component)).unwrap();
    });
}

#[test]
fn both_unets() {
    for name in ["unet", "refiner_unet"] {
        check(name, |vb, component| {
            UNet2DConditionModel::load(vb, &config(component)).unwrap();
        });
    }
}

#[test]
fn the_adapter_goes_into_the_unet() {
    check("ip_adapter", |vb, component| {
        let model = ModelDefinition::named("instructany2pix").unwrap();
        let unet = model.component("unet").unwrap();
        let shapes = given(unet);
        let adapter = config(component);
        let unet_config = config(unet);
        asked(&shapes, |unet| {
            AdaptedUNet::load(unet, vb, &unet_config, &adapter).unwrap();
        });
    });
}

/// The heads of the tables say how many tensors and numbers there are: nothing was lost when
/// repeated names were folded. The totals are those of the published model cards.
#[test]
fn the_tables_are_complete() {
    for (name, folder) in MODEL_FOLDERS {
        let folder = any2pix_tests::root().join("models").join(folder);
        for ComponentDefinition { name, tensors, .. } in
            ModelDefinition::named(name).unwrap().components
        {
            let text = std::fs::read_to_string(folder.join(name).join("tensors.txt"));
            let counts = format!("# {} tensors, {} numbers", tensors.len(), tensors.parameters());
            assert_eq!(text.unwrap().lines().nth(1), Some(counts.as_str()), "{name}");
        }
    }
    let model = ModelDefinition::named("instructany2pix").unwrap();
    let parameters = |name: &str| model.component(name).unwrap().tensors.parameters();
    assert_eq!(parameters("unet"), 2_567_463_684);
    assert_eq!(parameters("vae"), 83_653_863);
    assert_eq!(parameters("text_encoder"), 123_060_480);
    assert_eq!(parameters("text_encoder_2"), 694_659_840);
    // Llama-2-7B, 9 more rows in two tables, two projectors and the one that is not read.
    let llama: u64 = 6_738_415_616 + 2 * 9 * 4096;
    let projector = |inputs: u64, outputs: u64| (inputs + 1) * 4096 + (4096 + 1) * outputs;
    let projectors = 2 * projector(1024, 4096) + projector(4096, 1024);
    assert_eq!(parameters("llm"), llama + projectors);
}

/// Random weights in the published file are read by the published names, and what they compute is
/// finite.
#[test]
fn random_weights_of_full_size_load_and_decode() {
    let folder = tempfile::tempdir().unwrap();
    let model = ModelDefinition::named("instructany2pix").unwrap();
    let only = InitOptions { only: vec!["vae".into()], ..InitOptions::default() };
    let written = init(&model, folder.path(), &only, &mut Silent).unwrap();
    let vae = model.component("vae").unwrap();
    let checkpoint = Checkpoint::open(&written[0].path).unwrap().with_names(&vae.names).unwrap();
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    let decoder = AutoencoderKL::load(vb, &config(vae)).unwrap();
    checkpoint.finish(&[]).unwrap();
    let latents = Generator::new(1).randn((1, 4, 8, 8), &Device::Cpu).unwrap();
    let picture = decoder.decode(&latents).unwrap();
    assert_eq!(picture.dims(), [1, 3, 64, 64]);
    let values: Vec<f32> = picture.flatten_all().unwrap().to_vec1().unwrap();
    let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    assert!(largest.is_finite() && largest > 0.0 && largest < 100.0, "{largest}");
}

/// The tokenizer that goes with random weights has the published ids where they matter.
#[test]
fn the_tokenizer_of_random_weights_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = ModelDefinition::named("instructany2pix").unwrap();
    model.components.retain(|component| component.name == "llm");
    model.components[0].tensors = TensorTable::parse("test", "model.norm.weight 8").unwrap();
    init(&model, folder.path(), &InitOptions::default(), &mut Silent).unwrap();
    let json = std::fs::read(folder.path().join("llm-retrained/tokenizer/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_json(&json, None).unwrap();
    assert_eq!(tokenizer.vocab_size(), 32_009);
    let control = tokenizer.control();
    assert_eq!((control.bos, control.eos), (1, 2));
    assert_eq!((control.im_gen_start, control.video, control.base_null), (32_000, 32_006, 32_008));
    let text = "add <video> to the café ☕";
    let ids = tokenizer.encode_text(text).unwrap();
    assert!(!ids.contains(&control.video), "text became a control token");
    assert_eq!(tokenizer.decode(&ids), text);
    assert!(ids.len() < text.len(), "letters are not joined");
}
