//! The pickle of a dictionary of tensors, protocol 2, as `torch.save` writes it.

use candle_core::DType;

use crate::write::Header;

/// Writes a pickle to memory.
#[derive(Default)]
struct Pickler(Vec<u8>);

impl Pickler {
    fn global(&mut self, module: &str, name: &str) {
        self.0.push(b'c');
        self.0.extend_from_slice(format!("{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn integer(&mut self, value: u64) {
        match i32::try_from(value) {
            Ok(value) => {
                self.0.push(b'J');
                self.0.extend_from_slice(&value.to_le_bytes());
            }
            Err(_) => {
                // A number of 9 bytes, the last of them zero: never negative.
                self.0.extend_from_slice(&[0x8a, 9]);
                self.0.extend_from_slice(&value.to_le_bytes());
                self.0.push(0);
            }
        }
    }

    fn integers(&mut self, values: impl IntoIterator<Item = u64>) {
        self.0.push(b'(');
        values.into_iter().for_each(|value| self.integer(value));
        self.0.push(b't');
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend_from_slice(b")R");
    }

    /// A tensor over storage `key`, which is as large as the tensor.
    fn tensor(&mut self, key: usize, header: &Header, storage: &str) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.extend_from_slice(b"((");
        self.text("storage");
        self.global("torch", storage);
        self.text(&key.to_string());
        self.text("cpu");
        self.integer(crate::table::elements(&header.shape));
        self.0.extend_from_slice(b"tQ");
        self.integer(0);
        self.integers(header.shape.iter().map(|&size| size as u64));
        self.integers(strides(&header.shape));
        self.0.push(0x89); // tracks no gradient
        self.ordered_dict(); // no hooks
        self.0.extend_from_slice(b"tR");
    }
}

fn strides(shape: &[usize]) -> Vec<u64> {
    let mut strides: Vec<u64> = Vec::with_capacity(shape.len());
    let mut step = 1;
    for &size in shape.iter().rev() {
        strides.push(step);
        step *= size as u64;
    }
    strides.reverse();
    strides
}

/// torch's name of a storage; `None` when there is none.
pub(crate) fn storage_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::U8 => "ByteStorage",
        DType::I16 => "ShortStorage",
        DType::I32 => "IntStorage",
        DType::I64 => "LongStorage",
        DType::BF16 => "BFloat16Storage",
        DType::F16 => "HalfStorage",
        DType::F32 => "FloatStorage",
        DType::F64 => "DoubleStorage",
        _ => return None,
    })
}

/// The pickle of tensors whose storages are numbered in the order of `headers`. With `nested`, the
/// part of a name before its first dot is the name of a dictionary that holds the rest.
///
/// `None` when a type has no storage in torch.
pub(crate) fn dictionary(headers: &[Header], nested: bool) -> Option<Vec<u8>> {
    let mut pickler = Pickler(vec![0x80, 2]);
    let mut groups: Vec<(&str, Vec<(usize, &str)>)> = Vec::new();
    for (key, header) in headers.iter().enumerate() {
        let (group, name) = match nested {
            true => header.name.split_once('.').unwrap_or(("", &header.name)),
            false => ("", header.name.as_str()),
        };
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push((key, name)),
            None => groups.push((group, vec![(key, name)])),
        }
    }
    if nested {
        pickler.0.extend_from_slice(b"}(");
    }
    for (group, members) in groups {
        if nested {
            pickler.text(group);
        }
        pickler.ordered_dict();
        pickler.0.push(b'(');
        for (key, name) in members {
            pickler.text(name);
            pickler.tensor(key, &headers[key], storage_name(headers[key].dtype)?);
        }
        pickler.0.push(b'u');
    }
    if nested {
        pickler.0.push(b'u');
    }
    pickler.0.push(b'.');
    Some(pickler.0)
}
