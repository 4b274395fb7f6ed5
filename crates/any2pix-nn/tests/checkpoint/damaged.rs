//! Files of every format with some bytes changed, moved or cut off: they are read or refused,
//! and nothing worse.

use std::sync::LazyLock;

use any2pix_nn::Checkpoint;
use candle_core::{DType, Device};
use proptest::prelude::*;

use crate::llama;
use crate::make::safetensors;

/// Small files, so that most changes hit what describes the tensors.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let read = |file: &str| std::fs::read(llama().join(file)).unwrap();
    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
    vec![
        safetensors(header, &[1; 32]),
        read("nested.ckpt"),
        read("nested_legacy.ckpt"),
        read("kquants.gguf"),
        read("model-Q4_0.gguf"),
    ]
});

/// A change of a file.
#[derive(Clone, Debug)]
enum Change {
    /// One byte becomes another.
    Byte(prop::sample::Index, u8),
    /// Eight bytes become a number that is often a limit.
    Word(prop::sample::Index, u64),
    /// Bytes are taken out.
    Remove(prop::sample::Index, usize),
    /// Bytes are put in twice.
    Repeat(prop::sample::Index, usize),
    /// The rest is cut off.
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let words = prop_oneof![
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 62),
        Just(u64::from(u32::MAX)),
        0..300_u64,
        any::<u64>(),
    ];
    prop_oneof![
        8 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        4 => (at(), words).prop_map(|(at, word)| Change::Word(at, word)),
        2 => (at(), 1..64_usize).prop_map(|(at, n)| Change::Remove(at, n)),
        2 => (at(), 1..64_usize).prop_map(|(at, n)| Change::Repeat(at, n)),
        1 => at().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match change {
        Change::Byte(at, byte) => bytes[at.index(length)] = *byte,
        Change::Word(at, word) => {
            let at = at.index(length);
            let end = (at + 8).min(length);
            bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
        }
        Change::Remove(at, count) => {
            let at = at.index(length);
            bytes.drain(at..(at + count).min(length));
        }
        Change::Repeat(at, count) => {
            let at = at.index(length);
            let again = bytes[at..(at + count).min(length)].to_vec();
            bytes.splice(at..at, again);
        }
        Change::Cut(at) => bytes.truncate(at.index(length)),
    }
}

/// Reads all that can be read, in every way.
fn read_all(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes("damaged", bytes) else { return };
    let vb = checkpoint.builder(DType::F32, &Device::Cpu);
    for entry in checkpoint.entries() {
        let tensor = checkpoint.tensor(&entry.name);
        assert!(tensor.is_some_and(|tensor| tensor.dims() == entry.shape), "{entry:?}");
        let _ = checkpoint.quantised(&entry.name);
        let _ = vb.get(entry.shape.as_slice(), &entry.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_file_is_read_or_refused(
        file in any::<prop::sample::Index>(),
        head in any::<bool>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let mut bytes = FILES[file.index(FILES.len())].clone();
        // Half of the time what describes the tensors, which stands at the beginning mostly.
        let tail = if head && bytes.len() > 2000 { bytes.split_off(2000) } else { Vec::new() };
        for change in &changes {
            apply(&mut bytes, change);
        }
        bytes.extend(tail);
        read_all(&bytes);
    }

    #[test]
    fn bytes_of_no_format_are_refused(
        start in prop::sample::select(vec![
            &b""[..], b"GGUF\x03\0\0\0", b"PK\x03\x04", b"\x80\x02", b"{\"", b"\x02\0\0\0\0\0\0\0{}",
            b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        read_all(&[start, &rest].concat());
    }

    #[test]
    fn programs_of_random_instructions_are_read_or_refused(
        program in prop::collection::vec(
            prop::sample::select(b"().]}NaesutRbQqh\x85\x86\x87\x88\x89\x93\x94K\x00X\x01".to_vec()),
            0..60,
        ),
    ) {
        read_all(&crate::make::torch(&[&b"\x80\x02}"[..], &program, b"."].concat()));
    }
}
