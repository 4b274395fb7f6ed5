//! Safetensors: a header in JSON, then the tensors one after another without holes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::MapAccess;

use super::bytes::{Bytes, Cursor};
use super::error::{Fault, malformed};
use super::file::{Contents, MAX_NAME, MAX_TENSORS};
use super::json;
use super::stored::{Stored, StoredType};

/// Longest header. Published files of some thousand tensors have less than a megabyte.
pub(super) const MAX_HEADER: usize = 25 << 20;

/// Where a tensor lies.
#[derive(Deserialize)]
struct Place {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

enum Item {
    Tensor(Place),
    Metadata(BTreeMap<String, String>),
}

impl json::Keyed for Item {
    fn value<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match key {
            "__metadata__" => Self::Metadata(map.next_value()?),
            _ => Self::Tensor(map.next_value()?),
        })
    }
}

fn stored_type(name: &str) -> Option<StoredType> {
    Some(match name {
        "BOOL" => StoredType::Bool,
        "U8" => StoredType::U8,
        "I8" => StoredType::I8,
        "I16" => StoredType::I16,
        "U16" => StoredType::U16,
        "I32" => StoredType::I32,
        "U32" => StoredType::U32,
        "I64" => StoredType::I64,
        "F8_E4M3" => StoredType::F8E4M3,
        "F16" => StoredType::F16,
        "BF16" => StoredType::BF16,
        "F32" => StoredType::F32,
        "F64" => StoredType::F64,
        _ => return None,
    })
}

pub(super) fn read(bytes: &Bytes) -> Result<Contents, Fault> {
    let mut cursor = Cursor::new(bytes);
    let (length, file) = (cursor.u64()?, bytes.len());
    let length = match usize::try_from(length) {
        Ok(length) if length <= MAX_HEADER => length,
        _ => return malformed(format!("a header of {length} bytes; {MAX_HEADER} are the most")),
    };
    if length > cursor.left() {
        return malformed(format!("the file has {file} bytes, its header needs {}", length + 8));
    }
    let header: json::Object<Item> = json::parse(cursor.take(length)?)?;
    if header.0.len() > MAX_TENSORS {
        return malformed(format!("{} tensors; {MAX_TENSORS} are the most", header.0.len()));
    }
    let base = cursor.position();
    let mut contents = Contents::default();
    let mut places = Vec::with_capacity(header.0.len());
    for (name, item) in header.0 {
        let Place { dtype, shape, data_offsets: (begin, end) } = match item {
            Item::Tensor(place) => place,
            Item::Metadata(metadata) => {
                contents.metadata = metadata;
                continue;
            }
        };
        if name.len() > MAX_NAME {
            return malformed(format!("a name of {} bytes; {MAX_NAME} are the most", name.len()));
        }
        let Some(kind) = stored_type(&dtype) else {
            return malformed(format!("`{name}` is of type {dtype}"));
        };
        let named = |fault: Fault| fault.about(&name);
        let needed = super::stored::byte_count(kind, &shape).map_err(named)?;
        if end.checked_sub(begin) != Some(needed) {
            let reason =
                format!("bytes {begin}..{end} for {dtype} {shape:?}, which needs {needed}");
            return malformed(format!("`{name}`: {reason}"));
        }
        let Some(start) = base.checked_add(begin).filter(|_| end <= file - base) else {
            let needed = end.saturating_add(base);
            return malformed(format!("the file has {file} bytes, `{name}` needs {needed}"));
        };
        let stored = Stored::contiguous(bytes, start, kind, shape).map_err(named)?;
        places.push((begin, end, name.clone()));
        contents.tensors.insert(name, stored);
    }
    check_places(places, file - base)?;
    Ok(contents)
}

/// Tensors neither overlap nor leave holes, as the format demands: a file that hides something
/// between them is not one.
fn check_places(mut places: Vec<(usize, usize, String)>, size: usize) -> Result<(), Fault> {
    places.sort();
    let mut end = 0;
    for (begin, next, name) in places {
        if begin != end {
            let what = if begin < end { "overlaps the tensor before it" } else { "leaves a hole" };
            return malformed(format!("`{name}` {what}: it begins at {begin}, not at {end}"));
        }
        end = next;
    }
    if end != size {
        return malformed(format!("{size} bytes of tensors, of which the header explains {end}"));
    }
    Ok(())
}
