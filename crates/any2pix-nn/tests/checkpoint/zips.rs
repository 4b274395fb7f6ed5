//! Zip files of torch whose directories lie.

use crate::make::{ZipEntry, dict, pickle, tensor, torch, zip};
use crate::{numbers, read, refused};

fn plain() -> Vec<ZipEntry> {
    let pickle = pickle(&dict(&[("w", tensor(0, &[2, 3], &[3, 1]))]));
    vec![ZipEntry::new("m/data.pkl", &pickle), ZipEntry::new("m/data/0", &[0; 24])]
}

/// The plain file with its entry `at` changed.
fn with(at: usize, change: impl FnOnce(&mut ZipEntry)) -> Vec<u8> {
    let mut entries = plain();
    change(&mut entries[at]);
    zip(&entries)
}

/// The plain file with one entry more.
fn and(entry: ZipEntry) -> Vec<u8> {
    let mut entries = plain();
    entries.push(entry);
    zip(&entries)
}

#[test]
fn a_plain_file_is_read_with_a_comment_too() {
    let mut bytes = zip(&plain());
    read(&bytes);
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&4_u16.to_le_bytes());
    bytes.extend(b"note");
    read(&bytes);
    bytes.pop();
    refused(&bytes, "without a directory");
}

/// The plain file as one of 4 GB is written: sizes and places in the fields of zip64.
fn wide() -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in plain() {
        let place = bytes.len() as u64;
        let single = zip(std::slice::from_ref(&entry));
        bytes.extend(&single[..30 + entry.name.len() + entry.data.len()]);
        directory.extend(b"PK\x01\x02");
        directory.extend([0; 16]);
        directory.extend([0xff; 8]);
        directory.extend((entry.name.len() as u16).to_le_bytes());
        directory.extend(28_u16.to_le_bytes());
        directory.extend([0; 10]);
        directory.extend([0xff; 4]);
        directory.extend(entry.name.as_bytes());
        directory.extend([1, 0, 24, 0]);
        for number in [entry.data.len() as u64, entry.data.len() as u64, place] {
            directory.extend(number.to_le_bytes());
        }
    }
    let start = bytes.len() as u64;
    bytes.extend(&directory);
    let end = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend([44, 0, 0, 0, 0, 0, 0, 0, 45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [2, 2, directory.len() as u64, start] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend(end.to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([0xff; 12]);
    bytes.extend([0, 0]);
    bytes
}

#[test]
fn sizes_of_zip64_are_read_and_checked() {
    let bytes = wide();
    assert_eq!(read(&bytes).names(), ["w"]);
    let end = bytes.len() - 22 - 20 - 56;
    let set = |at: usize, number: u64| {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    refused(&set(end + 32, u64::MAX), "in several parts");
    refused(&set(end + 40, u64::MAX), "a directory of");
    refused(&set(end + 48, u64::MAX), "a directory of");
    refused(&set(end + 56 + 8, u64::MAX), "bytes are needed");
    // The last entry's size, size again, and place.
    refused(&set(end - 24, u64::MAX), "in another size");
    refused(&set(end - 8, u64::MAX), "bytes are needed");
}

#[test]
fn packed_and_encrypted_entries_are_refused_with_a_hint() {
    refused(&with(1, |entry| entry.method = 8), "`m/data/0` is compressed");
    refused(&with(0, |entry| entry.method = 8), "`m/data.pkl` is compressed");
    refused(&with(1, |entry| entry.flags = 1), "`m/data/0` is encrypted");
}

#[test]
fn entries_that_cannot_be_are_refused() {
    refused(&with(1, |entry| entry.size = Some(u32::MAX - 1)), "bytes are needed");
    refused(&with(1, |entry| entry.size = Some(u32::MAX)), "without its zip64 sizes");
    refused(&with(1, |entry| entry.size = Some(28)), "m/data/0");
    refused(&with(1, |entry| entry.offset = Some(0)), "disagree");
    refused(&with(1, |entry| entry.offset = Some(1)), "not where it should be");
    refused(&with(1, |entry| entry.offset = Some(u32::MAX - 1)), "bytes are needed");
    refused(&and(ZipEntry::new("m/data/0", &[0; 24])), "`m/data/0` is there twice");
    // The second entry's place and name are those of the first: they share its bytes.
    let mut entries = plain();
    entries.push(ZipEntry { offset: Some(0), ..entries[0].clone() });
    refused(&zip(&entries), "there twice");
}

#[test]
fn entries_that_overlap_are_refused() {
    // The data of the first entry holds the header of the second.
    let inner = zip(&[ZipEntry::new("m/data/0", &[0; 24])]);
    let body = &inner[..30 + 8 + 24];
    let mut entries = plain();
    entries[1] = ZipEntry::new("m/data/1", body);
    let at = zip(&entries[..1]).windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let offset = at as u32 + 30 + 8;
    entries.push(ZipEntry { offset: Some(offset), ..ZipEntry::new("m/data/0", &[0; 24]) });
    refused(&zip(&entries), "entries overlap");
}

#[test]
fn other_things_than_tensors_are_refused() {
    refused(&and(ZipEntry::new("m/code/run.py", b"")), "`m/code/run.py`");
    refused(&and(ZipEntry::new("m/constants.pkl", b"")), "`m/constants.pkl`");
    refused(&and(ZipEntry::new("other/data/0", b"")), "lies outside");
    refused(&and(ZipEntry::new("n/data.pkl", b"")), "more than one data.pkl");
    refused(&and(ZipEntry::new("m/byteorder", b"big")), "byte order");
    refused(&zip(&[ZipEntry::new("m/data/0", &[0; 24])]), "without data.pkl");
    refused(&zip(&[]), "without data.pkl");
    read(&and(ZipEntry::new("m/byteorder", b"little")));
    read(&and(ZipEntry::new("m/version", b"3\n")));
}

#[test]
fn a_directory_that_claims_too_much_is_refused() {
    let bytes = zip(&plain());
    let end = bytes.len() - 22;
    let set = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[end + at..end + at + value.len()].copy_from_slice(value);
        bytes
    };
    refused(&set(8, &[200, 0, 200, 0]), "bytes are needed");
    refused(&set(8, &[1, 0, 1, 0]), "longer than its entries");
    refused(&set(8, &[1, 0, 2, 0]), "zip64");
    refused(&set(12, &u32::MAX.to_le_bytes()), "zip64");
    refused(&set(12, &(u32::MAX - 1).to_le_bytes()), "a directory of");
    refused(&set(16, &(u32::MAX - 1).to_le_bytes()), "a directory of");
    for length in 1..bytes.len() {
        refused(&bytes[..length], "");
    }
}

#[test]
fn views_keep_their_strides_and_offsets() {
    let items = [
        ("rows", tensor(3, &[1, 3], &[3, 1])),
        ("columns", tensor(0, &[3, 2], &[1, 3])),
        ("every", tensor(1, &[3], &[2])),
        ("scalar", tensor(5, &[], &[])),
        ("empty", tensor(0, &[0, 4], &[4, 1])),
        ("repeated", tensor(2, &[4], &[0])),
    ];
    let checkpoint = read(&torch(&pickle(&dict(&items))));
    assert_eq!(numbers(&checkpoint, "rows"), [3.0, 4.0, 5.0]);
    assert_eq!(numbers(&checkpoint, "columns"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(numbers(&checkpoint, "every"), [1.0, 3.0, 5.0]);
    assert_eq!(numbers(&checkpoint, "scalar"), [5.0]);
    assert!(numbers(&checkpoint, "empty").is_empty());
    assert_eq!(numbers(&checkpoint, "repeated"), [2.0; 4]);
}
