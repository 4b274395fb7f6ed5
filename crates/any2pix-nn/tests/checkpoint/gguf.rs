//! GGUF files that lie.

use any2pix_nn::Checkpoint;

use crate::make::{Gguf, gguf_text};
use crate::{read, refused};

fn with_tensor(dims: &[u64], code: u32, offset: u64, data: usize) -> Vec<u8> {
    let tensors = vec![("w", dims.to_vec(), code, offset)];
    Gguf { tensors, data: vec![0; data], ..Gguf::default() }.bytes()
}

fn with_metadata(key: &'static str, code: u32, value: &[u8]) -> Vec<u8> {
    Gguf { metadata: vec![(key, code, value.to_vec())], ..Gguf::default() }.bytes()
}

#[test]
fn a_plain_file_is_read() {
    let checkpoint = read(&Gguf::default().bytes());
    assert_eq!(checkpoint.entries()[0].shape, [3, 2]);
    let array = [&4_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[0; 8]].concat();
    assert_eq!(read(&with_metadata("k", 9, &array)).metadata()["k"], "2 values");
    assert_eq!(read(&with_metadata("k", 8, &gguf_text("llama"))).metadata()["k"], "llama");
    assert_eq!(read(&with_metadata("k", 6, &1.5_f32.to_le_bytes())).metadata()["k"], "1.5");
}

#[test]
fn versions_counts_and_texts_are_bounded() {
    let version = |version| Gguf { version, ..Gguf::default() }.bytes();
    refused(&version(1), "version 1");
    refused(&version(3_u32.swap_bytes()), "other byte order");
    let counts = |counts| Gguf { counts: Some(counts), ..Gguf::default() }.bytes();
    refused(&counts((u64::MAX, 0)), "tensors;");
    refused(&counts((0, 1 << 40)), "entries of metadata;");
    refused(&counts((200_000, 0)), "bytes are needed");
    refused(b"GGUF", "bytes are needed");
    let huge = (1_u64 << 30).to_le_bytes();
    refused(&with_metadata("k", 8, &huge), "a text of");
    refused(&with_metadata("k", 8, &u64::MAX.to_le_bytes()), "a text of");
    refused(&with_metadata("k", 13, &[]), "metadata of type 13");
    refused(&with_metadata("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "not UTF-8");
    let metadata = vec![("k", 7, vec![1]), ("k", 7, vec![1])];
    refused(&Gguf { metadata, ..Gguf::default() }.bytes(), "`k` is there twice");
}

#[test]
fn arrays_are_bounded() {
    let array = |code: u32, count: u64| [&code.to_le_bytes()[..], &count.to_le_bytes()].concat();
    refused(&with_metadata("k", 9, &array(0, u64::MAX)), "an array of");
    refused(&with_metadata("k", 9, &array(10, 1 << 61)), "an array of");
    refused(&with_metadata("k", 9, &array(8, 1 << 20)), "an array of");
    refused(&with_metadata("k", 9, &array(12, 60)), "bytes are needed");
    refused(&with_metadata("k", 9, &array(99, 1)), "an array of type 99");
    refused(&with_metadata("k", 9, &array(9, 1).repeat(65)), "nested deeper");
}

#[test]
fn alignments_are_powers_of_two() {
    for alignment in [0, 3, 1 << 31_u32, u32::MAX] {
        let bytes = with_metadata("general.alignment", 4, &alignment.to_le_bytes());
        refused(&bytes, &format!("an alignment of {alignment}"));
    }
    refused(&with_metadata("general.alignment", 8, &gguf_text("x")), "an alignment of 0");
    read(&with_metadata("general.alignment", 4, &32_u32.to_le_bytes()));
}

#[test]
fn tensors_that_cannot_be_are_refused_by_name() {
    refused(&with_tensor(&[2; 5], 0, 0, 128), "`w` has 5 dimensions");
    refused(&with_tensor(&[2; 1000], 0, 0, 128), "`w` has 1000 dimensions");
    refused(&with_tensor(&[1 << 32, 1 << 32], 0, 0, 24), "`w`: a shape");
    refused(&with_tensor(&[0, 1 << 62], 0, 0, 24), "`w` is empty");
    refused(&with_tensor(&[2, 4], 0, 0, 24), "`w`: 32 bytes at");
    refused(&with_tensor(&[2, 3], 0, u64::MAX - 31, 24), "`w`: 24 bytes at");
    refused(&with_tensor(&[2, 3], 0, 16, 64), "no multiple of 32");
    refused(&with_tensor(&[16, 2], 2, 0, 64), "blocks of 32");
    refused(&with_tensor(&[128, 2], 12, 0, 288), "blocks of 256");
    refused(&with_tensor(&[], 2, 0, 18), "blocks of 32");
    for code in [4, 9, 15, 16, 39, u32::MAX] {
        refused(&with_tensor(&[32], code, 0, 64), &format!("not read, number {code}"));
    }
    let two = |first: &'static str, offset| {
        let tensors = vec![(first, vec![8], 0, 0), ("w", vec![8], 0, offset)];
        Gguf { tensors, data: vec![0; 64], ..Gguf::default() }.bytes()
    };
    read(&two("v", 32));
    refused(&two("w", 32), "`w` is there twice");
    refused(&two("v", 0), "tensors overlap");
}

#[test]
fn blocks_with_scales_that_are_not_finite_are_refused() {
    let mut bytes = with_tensor(&[32, 2], 8, 0, 68);
    let checkpoint = Checkpoint::from_bytes("file.bin", &bytes).unwrap();
    assert!(checkpoint.quantised("w").unwrap().is_some());
    let scale = bytes.len() - 34;
    bytes[scale..scale + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    let checkpoint = Checkpoint::from_bytes("file.bin", &bytes).unwrap();
    let error = checkpoint.quantised("w").unwrap_err().to_string();
    assert!(error.contains("`w` has numbers that are not finite"), "{error}");
}
