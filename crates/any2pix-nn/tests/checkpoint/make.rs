//! Writers of small files, which write what they are told, true or not.

/// A safetensors file.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// An entry of a zip file.
#[derive(Clone)]
pub(crate) struct ZipEntry {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    /// As the directory has it, when that is not the truth.
    pub(crate) size: Option<u32>,
    /// The same of the entry's place.
    pub(crate) offset: Option<u32>,
}

impl ZipEntry {
    pub(crate) fn new(name: &str, data: &[u8]) -> Self {
        let (name, data) = (name.to_string(), data.to_vec());
        Self { name, data, method: 0, flags: 0, size: None, offset: None }
    }
}

pub(crate) fn zip(entries: &[ZipEntry]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = entry.offset.unwrap_or(bytes.len() as u32);
        let size = entry.size.unwrap_or(entry.data.len() as u32);
        let mut about = Vec::new();
        for number in [20, entry.flags, entry.method, 0, 0] {
            about.extend(number.to_le_bytes());
        }
        for number in [0, size, size] {
            about.extend(number.to_le_bytes());
        }
        about.extend((entry.name.len() as u16).to_le_bytes());
        about.extend(0_u16.to_le_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&about);
        bytes.extend(entry.name.as_bytes());
        bytes.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&about);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes
}

/// A file of torch around a pickle, with one storage of six floats named `0`.
pub(crate) fn torch(pickle: &[u8]) -> Vec<u8> {
    let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    zip(&[ZipEntry::new("m/data.pkl", pickle), ZipEntry::new("m/data/0", &storage)])
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

pub(crate) fn int(number: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &number.to_le_bytes()].concat()
}

pub(crate) fn tuple(numbers: &[i64]) -> Vec<u8> {
    let numbers = numbers.iter().flat_map(|n| int(*n)).collect();
    [b"(".to_vec(), numbers, b"t".to_vec()].concat()
}

/// A tensor of the storage `0` of six floats.
pub(crate) fn tensor(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    stored_tensor(("FloatStorage", "0", 6), offset, shape, strides)
}

pub(crate) fn stored_tensor(
    (kind, key, count): (&str, &str, i64),
    offset: i64,
    shape: &[i64],
    strides: &[i64],
) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{kind}\n").into_bytes(),
        text(key),
        text("cpu"),
        int(count),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// The pickle of a dictionary; values are pickles without their end.
pub(crate) fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(k, v)| [text(k), v.clone()].concat()).collect();
    [b"}(".to_vec(), items, b"u".to_vec()].concat()
}

pub(crate) fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

/// A GGUF file.
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) counts: Option<(u64, u64)>,
    /// Key, type and bytes of each value.
    pub(crate) metadata: Vec<(&'static str, u32, Vec<u8>)>,
    /// Name, dimensions as the file has them, type and offset.
    pub(crate) tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
    pub(crate) data: Vec<u8>,
}

impl Default for Gguf {
    fn default() -> Self {
        let tensors = vec![("w", vec![2, 3], 0, 0)];
        Self { version: 3, counts: None, metadata: Vec::new(), tensors, data: vec![0; 24] }
    }
}

pub(crate) fn gguf_text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Gguf {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let counts = (self.tensors.len() as u64, self.metadata.len() as u64);
        let (tensors, metadata) = self.counts.unwrap_or(counts);
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(metadata.to_le_bytes());
        for (key, code, value) in &self.metadata {
            bytes.extend(gguf_text(key));
            bytes.extend(code.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dims, code, offset) in &self.tensors {
            bytes.extend(gguf_text(name));
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend(code.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}
