//! The recorded model in every format; indices of several files; what is no format.

use std::path::Path;

use any2pix_nn::Checkpoint;

use crate::make::safetensors;
use crate::{llama, read, refused};

#[test]
fn every_recorded_file_is_listed_as_it_is_read() {
    for file in [
        "weights.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bf16.bin",
        "legacy.pth",
        "nested.ckpt",
        "nested_legacy.ckpt",
        "sharded_safetensors/model.safetensors.index.json",
        "sharded_bin/pytorch_model.bin.index.json",
        "model-F16.gguf",
        "model-Q5_0.gguf",
        "kquants.gguf",
    ] {
        let checkpoint = Checkpoint::open(llama().join(file)).unwrap();
        let entries = checkpoint.entries();
        assert!(entries.len() >= 7, "{file}: {entries:?}");
        for entry in &entries {
            let tensor = checkpoint.tensor(&entry.name).unwrap();
            assert_eq!(tensor.dims(), entry.shape, "{file}: {entry:?}");
            let quantised = checkpoint.quantised(&entry.name).unwrap();
            assert!(quantised.is_none_or(|q| q.storage_size_in_bytes() == entry.bytes));
        }
        checkpoint.finish(&[]).unwrap();
    }
}

#[test]
fn a_lightning_checkpoint_keeps_its_prefix_and_its_figures() {
    let checkpoint = Checkpoint::open(llama().join("nested.ckpt")).unwrap();
    assert!(checkpoint.names().iter().any(|name| name == "state_dict.view_t"));
    assert_eq!(checkpoint.metadata()["global_step"], "12345");
    let dtype = |name: &str| {
        let entries = checkpoint.entries();
        entries.into_iter().find(|e| e.name == format!("state_dict.{name}")).map(|e| e.dtype)
    };
    for (name, expected) in [("half", "F16"), ("bf16", "BF16"), ("bool", "BOOL"), ("f64", "F64")] {
        assert_eq!(dtype(name).as_deref(), Some(expected));
    }
}

/// A file of one tensor, and an index over such files.
fn folder(files: &[(&str, &str)], index: &str) -> (tempfile::TempDir, Result<Checkpoint, String>) {
    let folder = tempfile::tempdir().unwrap();
    for (file, name) in files {
        let place = r#""dtype":"U8","shape":[1],"data_offsets":[0,1]"#;
        let bytes = safetensors(&format!("{{\"{name}\":{{{place}}}}}"), &[7]);
        std::fs::write(folder.path().join(file), bytes).unwrap();
    }
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, index).unwrap();
    let opened = Checkpoint::open(&path).map_err(|error| error.to_string());
    (folder, opened)
}

#[test]
fn an_index_opens_its_files_and_no_others() {
    let files = [("a.safetensors", "a"), ("b.safetensors", "b")];
    let (_kept, opened) =
        folder(&files, r#"{"weight_map":{"a":"a.safetensors","b":"b.safetensors"}}"#);
    assert_eq!(opened.unwrap().names(), ["a", "b"]);
    for (map, reason) in [
        (r#""a":"../a.safetensors""#, "not a file beside the index"),
        (r#""a":"/etc/passwd""#, "not a file beside the index"),
        (r#""a":"..""#, "not a file beside the index"),
        (r#""a":"x\\a.safetensors""#, "not a file beside the index"),
        (r#""a":"""#, "not a file beside the index"),
        (r#""a":"c.safetensors""#, "cannot be read"),
        (r#""a":"a.safetensors","c":"b.safetensors""#, "the index says that it has `c`"),
        (r#""a":"a.safetensors","c":"a.safetensors""#, "the index says that it has `c`"),
        (r#""a":"a.safetensors","a":"b.safetensors""#, "`a` is there twice"),
        (r#""a":"model.safetensors.index.json""#, "an index of other files"),
        ("", "0 files are listed"),
        (r#""a":3"#, "JSON"),
    ] {
        let (_kept, opened) = folder(&files, &format!("{{\"weight_map\":{{{map}}}}}"));
        let error = opened.err().unwrap();
        assert!(error.contains(reason), "{map}: {error}");
    }
    let (_kept, opened) = folder(&[("a", "a"), ("b", "a")], r#"{"weight_map":{"a":"a","b":"b"}}"#);
    assert!(opened.err().unwrap().contains("`b`"));
    let (_kept, opened) = folder(&[], r#"{"weights": {}}"#);
    assert!(opened.err().unwrap().contains("weight_map"));
}

#[test]
fn formats_are_told_by_content_and_others_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    std::fs::copy(llama().join("model-Q8_0.gguf"), &path).unwrap();
    assert!(Checkpoint::open(&path).unwrap().quantised("blk.0.ffn_up.weight").unwrap().is_some());
    assert!(Path::new(&path).exists());
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS");
    refused(b"<!DOCTYPE html><html>", "a web page");
    refused(b"\x1f\x8b\x08\0\0\0\0\0\0", "compressed");
    refused(b"FUGG\0\0\0\x03", "other byte order");
    read(&std::fs::read(llama().join("nested.ckpt")).unwrap());
}
