//! Random checkpoints: in the published layout, read back by the loader, the same by seed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;

use any2pix_hub::definition::{Format, Placement, Precision};
use any2pix_hub::{
    ComponentDefinition, HubError, InitOptions, ModelDefinition, Progress, Silent, TensorTable,
    convert, init, inspect,
};
use any2pix_nn::Checkpoint;
use any2pix_nn::checkpoint::Names;
use candle_core::DType;

fn place(file: &str, format: Format) -> Placement {
    Placement {
        file: file.into(),
        format,
        shards: false,
        nested: false,
        dtype: Precision::F16,
        own_folder: true,
        tokenizer: false,
        alternatives: Vec::new(),
        optional: None,
    }
}

fn component(name: &'static str, tensors: &str, placement: Placement) -> ComponentDefinition {
    ComponentDefinition {
        name,
        config: "{\"vocab_size\": 400}",
        tensors: TensorTable::parse(name, tensors).unwrap(),
        names: Names::default(),
        placement,
    }
}

/// A model of all layouts and formats, small.
fn small() -> ModelDefinition {
    let llm = Placement {
        shards: true,
        tokenizer: true,
        dtype: Precision::Bf16,
        ..place("llm/pytorch_model.bin", Format::Torch)
    };
    let adapter = Placement { nested: true, ..place("ip/adapter.bin", Format::Torch) };
    let unet = place("sdxl/unet/model.safetensors", Format::Safetensors);
    ModelDefinition {
        name: "small",
        components: vec![
            component("llm", "embed.weight 400x16\nlayers.{0..3}.q.weight 16x16\n", llm),
            component("ip_adapter", "image_proj.norm.bias 8\nip_adapter.1.w.weight 8x4\n", adapter),
            component("unet", "norm.weight 8\nconv.weight 8x4x3x3\nconv.bias 8\n", unet),
        ],
        repositories: Vec::new(),
        index: None,
    }
}

fn options() -> InitOptions {
    InitOptions { seed: 5, shard_bytes: 13_000, ..InitOptions::default() }
}

/// Every file below `folder` with its bytes, sorted.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.push((name, std::fs::read(path).unwrap()));
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_layout_is_the_published_one_and_the_seed_decides() {
    let (one, again, other) = (tempdir(), tempdir(), tempdir());
    init(&small(), one.path(), &options(), &mut Silent).unwrap();
    init(&small(), again.path(), &options(), &mut Silent).unwrap();
    init(&small(), other.path(), &InitOptions { seed: 6, ..options() }, &mut Silent).unwrap();
    let written = files(one.path());
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "ip/adapter.bin",
            "ip/config.json",
            "llm/config.json",
            "llm/pytorch_model-00001-of-00002.bin",
            "llm/pytorch_model-00002-of-00002.bin",
            "llm/pytorch_model.bin.index.json",
            "llm/tokenizer/tokenizer.json",
            "sdxl/unet/config.json",
            "sdxl/unet/model.safetensors",
        ]
    );
    assert!(written == files(again.path()), "the same seed gave other bytes");
    assert!(written != files(other.path()), "another seed gave the same bytes");
    let index = String::from_utf8(written[5].1.clone()).unwrap();
    assert!(
        index.contains("\"layers.3.q.weight\": \"pytorch_model-00002-of-00002.bin\""),
        "{index}"
    );
}

#[test]
fn values_are_those_of_a_fresh_model() {
    let folder = tempdir();
    init(&small(), folder.path(), &options(), &mut Silent).unwrap();
    let checkpoint = Checkpoint::open(folder.path().join("sdxl/unet/model.safetensors")).unwrap();
    let values = |name: &str| {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), DType::F16);
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(values("norm.weight"), [1.0; 8]);
    assert_eq!(values("conv.bias"), [0.0; 8]);
    let weights = values("conv.weight");
    let deviation = (weights.iter().map(|w| w * w).sum::<f32>() / 288.0).sqrt();
    assert!((deviation - 0.02).abs() < 0.003, "{deviation}");
}

#[test]
fn torch_files_are_read_back_by_name() {
    let folder = tempdir();
    init(&small(), folder.path(), &options(), &mut Silent).unwrap();
    let llm = folder.path().join("llm");
    let shards = Checkpoint::open(llm.join("pytorch_model.bin.index.json")).unwrap();
    let names: Vec<String> = (0..4).map(|i| format!("layers.{i}.q.weight")).collect();
    assert_eq!(shards.names()[0], "embed.weight");
    assert_eq!(shards.names()[1..], names);
    let tensor = shards.tensor("layers.3.q.weight").unwrap();
    assert_eq!((tensor.dims(), tensor.dtype()), (&[16, 16][..], DType::BF16));
    let adapter = folder.path().join("ip/adapter.bin");
    let nested = Checkpoint::open(&adapter).unwrap();
    assert_eq!(nested.names(), ["image_proj.norm.bias", "ip_adapter.1.w.weight"]);
    assert_eq!(nested.tensor("ip_adapter.1.w.weight").unwrap().dims(), [8, 4]);
    let bytes = std::fs::read(&adapter).unwrap();
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&bytes)).unwrap();
    for i in 0..zip.len() {
        let file = zip.by_index(i).unwrap();
        assert_eq!(file.compression(), zip::CompressionMethod::Stored);
        assert_eq!(file.data_start().unwrap() % 64, 0, "{:?}", file.name());
    }
}

#[test]
fn only_what_is_named_is_written_and_nothing_is_overwritten() {
    let folder = tempdir();
    let only = InitOptions { only: vec!["unet".into()], dtype: Some(DType::F32), ..options() };
    let written = init(&small(), folder.path(), &only, &mut Silent).unwrap();
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].bytes, 4 * (8 + 288 + 8));
    let before = files(folder.path());
    let error = init(&small(), folder.path(), &options(), &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Exists { .. }), "{error}");
    assert!(files(folder.path()) == before);
    let unknown = InitOptions { only: vec!["unit".into()], ..options() };
    let error = init(&small(), folder.path(), &unknown, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("`unit`") && error.contains("unet"), "{error}");
}

/// Stops at the second tensor.
struct Impatient(usize);

impl Progress for Impatient {
    fn file(&mut self, _: &str, _: u64, _: u64) {}
    fn advance(&mut self, _: u64) {
        self.0 += 1;
    }
    fn warning(&mut self, _: &str) {}
    fn is_cancelled(&self) -> bool {
        self.0 > 0
    }
}

#[test]
fn a_stop_leaves_no_half_of_a_file() {
    let folder = tempdir();
    let only = InitOptions { only: vec!["unet".into()], ..options() };
    let error = init(&small(), folder.path(), &only, &mut Impatient(0)).unwrap_err();
    assert!(matches!(error, HubError::Stopped), "{error}");
    assert!(files(folder.path()).is_empty());
}

/// The tensors of a file, as numbers.
fn numbers(path: &Path) -> Vec<(String, Vec<f32>)> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let of = |name: String| {
        let tensor = checkpoint.tensor(&name).unwrap().to_dtype(DType::F32).unwrap();
        (name, tensor.flatten_all().unwrap().to_vec1().unwrap())
    };
    checkpoint.names().into_iter().map(of).collect()
}

#[test]
fn converted_files_hold_the_same_numbers() {
    let (from, to) = (tempdir(), tempdir());
    init(&small(), from.path(), &options(), &mut Silent).unwrap();
    convert(from.path(), to.path(), None, &mut Silent).unwrap();
    let names: Vec<String> = files(to.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "ip/adapter.safetensors",
            "ip/config.json",
            "llm/config.json",
            "llm/model.safetensors",
            "sdxl/unet/config.json",
            "sdxl/unet/model.safetensors",
        ]
    );
    for (before, after) in [
        ("ip/adapter.bin", "ip/adapter.safetensors"),
        ("llm/pytorch_model.bin.index.json", "llm/model.safetensors"),
    ] {
        assert_eq!(numbers(&from.path().join(before)), numbers(&to.path().join(after)));
    }
    let one = to.path().join("one.safetensors");
    let adapter = from.path().join("ip/adapter.bin");
    convert(&adapter, &one, Some(DType::F32), &mut Silent).unwrap();
    assert_eq!(Checkpoint::open(&one).unwrap().entries()[0].dtype, "F32");
    assert_eq!(numbers(&adapter), numbers(&one));
    let error = convert(&adapter, &one, None, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Exists { .. }), "{error}");
}

#[test]
fn an_inspection_counts_and_names_what_is_missing() {
    let folder = tempdir();
    let model = ModelDefinition::named("instructany2pix").unwrap();
    let only = InitOptions { only: vec!["vae".into()], ..InitOptions::default() };
    init(&model, folder.path(), &only, &mut Silent).unwrap();
    let found = inspect(folder.path()).unwrap();
    assert_eq!(found.model, Some("instructany2pix"));
    assert!(!found.is_complete());
    let part = |name: &str| found.parts.iter().find(|part| part.name == name).unwrap();
    let vae = part("vae");
    assert!(vae.is_fine(), "{:?}", vae.faults);
    assert_eq!((vae.contents.tensors, vae.contents.parameters), (248, 83_653_863));
    assert_eq!(vae.contents.bytes, 2 * 83_653_863);
    assert_eq!(vae.contents.dtypes.keys().collect::<Vec<_>>(), ["F16"]);
    let llm = part("llm");
    assert!(llm.faults[0].contains("llm-retrained/"), "{:?}", llm.faults);
    let get = llm.get.as_ref().unwrap();
    assert!(get.contains("pull instructany2pix --only jacklishufan/"), "{get}");
    assert!(part("refiner_unet").is_fine());
    // Another file under the right name is told apart.
    let place = &model.component("text_encoder").unwrap().placement.file;
    let from = folder.path().join(vae.file.as_ref().unwrap());
    std::fs::create_dir_all(folder.path().join(place).parent().unwrap()).unwrap();
    std::fs::rename(from, folder.path().join(place)).unwrap();
    let found = inspect(folder.path()).unwrap();
    let wrong = found.parts.iter().find(|part| part.name == "text_encoder").unwrap();
    assert!(wrong.faults[0].contains("196 tensors are missing"), "{:?}", wrong.faults);
    assert!(wrong.faults[1].contains("248 tensors are not known"), "{:?}", wrong.faults);
}

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
