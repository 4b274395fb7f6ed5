//! Safetensors files, and what is wrong with some.

use std::io::Write;

use any2pix_nn::{Checkpoint, Linear};
use candle_core::{DType, Device};

use crate::make::safetensors;
use crate::{numbers, read, refused};

const ONE: &str = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn a_file_is_read_with_what_it_says_of_itself() {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},
        "b":{"dtype":"BOOL","shape":[1,2],"data_offsets":[2,4]},
        "c":{"dtype":"U16","shape":[],"data_offsets":[4,6]}}"#;
    let checkpoint = read(&safetensors(header, &[0xff, 3, 1, 0, 0xff, 0xff]));
    assert_eq!(checkpoint.metadata()["format"], "pt");
    assert_eq!(numbers(&checkpoint, "a"), [-1.0, 3.0]);
    assert_eq!(numbers(&checkpoint, "b"), [1.0, 0.0]);
    assert_eq!(numbers(&checkpoint, "c"), [65_535.0]);
    let listed: Vec<_> = checkpoint.entries().into_iter().map(|e| (e.dtype, e.bytes)).collect();
    assert_eq!(listed, [("I8".into(), 2), ("BOOL".into(), 2), ("U16".into(), 2)]);
}

#[test]
fn a_header_that_cannot_be_is_refused() {
    let long = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    refused(&long(1 << 63), "a header of");
    refused(&long(100 << 20), "a header of");
    refused(&long(3), "the file has 10 bytes, its header needs 11");
    refused(&long(0), "JSON");
    refused(&[1, 2, 3], "8 bytes are needed");
    refused(&safetensors("no", &[]), "JSON");
    refused(&safetensors(&"[".repeat(100_000), &[]), "JSON");
    refused(&safetensors(&format!("{{\"w\":{}", "[".repeat(100_000)), &[]), "JSON");
    let mut bytes = safetensors(ONE, &[0; 8]);
    bytes[10] = 0xff;
    refused(&bytes, "JSON");
}

#[test]
fn tensors_that_cannot_be_are_refused_by_name() {
    let with = |item: &str, data: &[u8]| safetensors(&format!("{{\"w\":{item}}}"), data);
    let w = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    refused(&with(&w("F4", "[2]", 0, 8), &[0; 8]), "`w` is of type F4");
    refused(&with(&w("F32", "[3]", 0, 8), &[0; 8]), "`w`: bytes 0..8 for F32 [3]");
    refused(&with(&w("F32", "[2]", 8, 0), &[0; 8]), "`w`: bytes 8..0");
    refused(&with(&w("F32", "[2]", 0, 8), &[0; 7]), "`w` needs");
    refused(&with(&w("F32", "[2]", u64::MAX - 7, u64::MAX), &[0; 8]), "w");
    refused(&with(&w("F32", "[4294967296,4294967296]", 0, 8), &[0; 8]), "`w`: a shape");
    refused(&with(&w("F32", "[0,4611686018427387904]", 0, 0), &[]), "`w`: a shape");
    refused(&with(&w("F32", "[-1]", 0, 4), &[0; 4]), "JSON");
    refused(&with(&w("U8", "[1,1,1,1,1,1,1,1,1]", 0, 1), &[0]), "9 dimensions");
    refused(&with(&w("F32", "[2]", 0, 8), &[0; 9]), "9 bytes of tensors");
    refused(&with(&w("F32", "[2]", 1, 9), &[0; 9]), "leaves a hole");
    let name = "n".repeat(2000);
    let header = format!("{{\"{name}\":{}}}", w("U8", "[1]", 0, 1));
    refused(&safetensors(&header, &[0]), "a name of 2000 bytes");
}

#[test]
fn two_tensors_may_share_neither_name_nor_bytes() {
    let two = |names: [&str; 2], offsets: [[usize; 2]; 2]| {
        let item = |i: usize| {
            let [begin, end] = offsets[i];
            let place = format!("\"shape\":[2],\"data_offsets\":[{begin},{end}]");
            format!("\"{}\":{{\"dtype\":\"U8\",{place}}}", names[i])
        };
        safetensors(&format!("{{{},{}}}", item(0), item(1)), &[0; 4])
    };
    read(&two(["a", "b"], [[0, 2], [2, 4]]));
    refused(&two(["a", "a"], [[0, 2], [2, 4]]), "`a` is there twice");
    refused(&two(["a", "b"], [[0, 2], [1, 3]]), "`b` overlaps");
    refused(&two(["a", "b"], [[0, 2], [0, 2]]), "`b` overlaps");
}

/// What the builder says of a layer of two by four that it loads from `dtype` and `data`.
fn layer(dtype: &str, data: &[u8]) -> Result<(), String> {
    let place = format!(r#""shape":[2,4],"data_offsets":[0,{}]"#, data.len());
    let header = format!(r#"{{"l.weight":{{"dtype":"{dtype}",{place}}}}}"#);
    let checkpoint = Checkpoint::from_bytes("file.bin", &safetensors(&header, data)).unwrap();
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    Linear::load_no_bias(vb.pp("l"), 4, 2).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn weights_that_are_not_finite_or_no_numbers_are_named_when_a_layer_loads() {
    let of = |value: f32| {
        let values = [1.0, -2.0, f32::MAX, 0.0, f32::MIN_POSITIVE / 2.0, 0.5, value, 3.0];
        values.iter().flat_map(|v: &f32| v.to_le_bytes()).collect::<Vec<_>>()
    };
    layer("F32", &of(4.0)).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = layer("F32", &of(bad)).unwrap_err();
        assert!(error.contains("`l.weight` has numbers that are not finite"), "{error}");
    }
    layer("F16", &0x7bff_u16.to_le_bytes().repeat(8)).unwrap();
    layer("F16", &0xfc00_u16.to_le_bytes().repeat(8)).unwrap_err();
    layer("BF16", &0x7f7f_u16.to_le_bytes().repeat(8)).unwrap();
    layer("BF16", &0x7fc0_u16.to_le_bytes().repeat(8)).unwrap_err();
    layer("F64", &f64::NAN.to_le_bytes().repeat(8)).unwrap_err();
    let error = layer("I64", &[0; 64]).unwrap_err();
    assert!(error.contains("`l.weight` is of type I64"), "{error}");
}

#[test]
fn opening_reads_no_tensor_however_large_the_file_is() {
    let size = 1_u64 << 36;
    let place = format!(r#""shape":[{}],"data_offsets":[0,{size}]"#, size / 4);
    let header = format!(r#"{{"w":{{"dtype":"F32",{place}}}}}"#);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&safetensors(&header, &[])).unwrap();
    // A hole: 64 GB that no disk holds.
    file.as_file().set_len(8 + header.len() as u64 + size).unwrap();
    let checkpoint = Checkpoint::open(file.path()).unwrap();
    assert_eq!(checkpoint.entries()[0].bytes as u64, size);
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    assert!(vb.get(2, "w").unwrap_err().to_string().contains("asks for [2]"));
}

#[test]
fn what_is_no_regular_file_is_refused_unopened() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &std::path::Path| Checkpoint::open(path).err().unwrap().to_string();
    assert!(error(folder.path()).contains("it is a folder"));
    assert!(error(&folder.path().join("none")).contains("cannot be read"));
    std::fs::write(folder.path().join("empty"), b"").unwrap();
    assert!(error(&folder.path().join("empty")).contains("it is empty"));
    #[cfg(unix)]
    assert!(error(std::path::Path::new("/dev/zero")).contains("not a regular file"));
}
