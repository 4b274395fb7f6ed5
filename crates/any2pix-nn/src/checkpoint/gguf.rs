//! GGUF: metadata, then where each tensor lies, then the tensors at multiples of an alignment.

use super::bytes::{Bytes, Cursor};
use super::error::{Fault, malformed};
use super::file::{Contents, MAX_NAME, MAX_TENSORS};
use super::json::short;
use super::stored::{Stored, StoredType, byte_count};

/// Most entries of metadata.
const MAX_METADATA: usize = 65_536;

/// Longest text; templates of chats have some thousand bytes.
const MAX_TEXT: usize = 16 << 20;

/// Deepest nesting of arrays.
const MAX_DEPTH: usize = 4;

/// Most dimensions of a tensor.
const MAX_RANK: u32 = 4;

const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;

const QUANTISE: &str = "formats that are read: F32, F16, BF16, Q4_0 to Q8_0, Q2_K to Q6_K, IQ4";

/// Types of metadata.
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

fn stored_type(code: u32) -> Option<StoredType> {
    Some(match code {
        0 => StoredType::F32,
        1 => StoredType::F16,
        2 => StoredType::Q4_0,
        3 => StoredType::Q4_1,
        6 => StoredType::Q5_0,
        7 => StoredType::Q5_1,
        8 => StoredType::Q8_0,
        10 => StoredType::Q2K,
        11 => StoredType::Q3K,
        12 => StoredType::Q4K,
        13 => StoredType::Q5K,
        14 => StoredType::Q6K,
        20 => StoredType::Iq4Nl,
        23 => StoredType::Iq4Xs,
        24 => StoredType::I8,
        25 => StoredType::I16,
        26 => StoredType::I32,
        27 => StoredType::I64,
        28 => StoredType::F64,
        30 => StoredType::BF16,
        _ => return None,
    })
}

fn text<'a>(cursor: &mut Cursor<'a>, most: usize) -> Result<&'a str, Fault> {
    let length = cursor.size()?;
    if length > most {
        return malformed(format!("a text of {length} bytes; {most} are the most"));
    }
    match std::str::from_utf8(cursor.take(length)?) {
        Ok(text) => Ok(text),
        Err(error) => malformed(format!("a text that is not UTF-8: {error}")),
    }
}

/// Bytes of a number of that type.
fn width(code: u32) -> Option<usize> {
    Some(match code {
        0 | 1 | BOOL => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// A value as text; arrays only by their length.
fn value(cursor: &mut Cursor<'_>, code: u32, depth: usize) -> Result<String, Fault> {
    Ok(match code {
        TEXT => short(text(cursor, MAX_TEXT)?),
        ARRAY => {
            let (inner, count) = (cursor.u32()?, cursor.size()?);
            skip_array(cursor, (inner, count), depth)?;
            format!("{count} values")
        }
        0 | BOOL => cursor.u8()?.to_string(),
        1 => cursor.u8()?.cast_signed().to_string(),
        2 => cursor.u16()?.to_string(),
        3 => cursor.u16()?.cast_signed().to_string(),
        4 => cursor.u32()?.to_string(),
        5 => cursor.u32()?.cast_signed().to_string(),
        6 => f32::from_bits(cursor.u32()?).to_string(),
        10 => cursor.u64()?.to_string(),
        11 => cursor.u64()?.cast_signed().to_string(),
        12 => f64::from_bits(cursor.u64()?).to_string(),
        _ => return malformed(format!("metadata of type {code}")),
    })
}

/// Goes past an array. Every value has a byte at least, so that the file bounds the work.
fn skip_array(
    cursor: &mut Cursor<'_>,
    (inner, count): (u32, usize),
    depth: usize,
) -> Result<(), Fault> {
    if depth >= MAX_DEPTH {
        return malformed(format!("arrays nested deeper than {MAX_DEPTH}"));
    }
    if count > cursor.left() {
        return malformed(format!("an array of {count} values, {} bytes are left", cursor.left()));
    }
    if let Some(width) = width(inner) {
        return match count.checked_mul(width) {
            Some(bytes) => cursor.take(bytes).map(|_| ()),
            None => malformed(format!("an array of {count} values")),
        };
    }
    for _ in 0..count {
        match inner {
            TEXT => {
                text(cursor, MAX_TEXT)?;
            }
            ARRAY => {
                let within = (cursor.u32()?, cursor.size()?);
                skip_array(cursor, within, depth + 1)?;
            }
            _ => return malformed(format!("an array of type {inner}")),
        }
    }
    Ok(())
}

fn counted(cursor: &mut Cursor<'_>, what: &str, most: usize) -> Result<usize, Fault> {
    match cursor.size()? {
        count if count <= most => Ok(count),
        count => malformed(format!("{count} {what}; {most} are the most")),
    }
}

struct Info<'a> {
    name: &'a str,
    kind: StoredType,
    shape: Vec<usize>,
    offset: usize,
}

fn info<'a>(cursor: &mut Cursor<'a>) -> Result<Info<'a>, Fault> {
    let name = text(cursor, MAX_NAME)?;
    let shown = short(name);
    let rank = cursor.u32()?;
    if rank > MAX_RANK {
        return malformed(format!("`{shown}` has {rank} dimensions; {MAX_RANK} are the most"));
    }
    let mut shape = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        shape.push(cursor.size()?);
    }
    // The file names the dimension that varies fastest first.
    shape.reverse();
    let code = cursor.u32()?;
    let Some(kind) = stored_type(code) else {
        let reason = format!("`{shown}` is of a type that is not read, number {code}");
        return Err(Fault::Refused(reason, QUANTISE));
    };
    if shape.contains(&0) {
        return malformed(format!("`{shown}` is empty: {shape:?}"));
    }
    Ok(Info { name, kind, shape, offset: cursor.size()? })
}

pub(super) fn read(bytes: &Bytes) -> Result<Contents, Fault> {
    let mut cursor = Cursor::starting(bytes, 4);
    let version = cursor.u32()?;
    if !matches!(version, 2 | 3) {
        let order = if version.swap_bytes() < 16 { " of the other byte order" } else { "" };
        return malformed(format!("GGUF{order}, version {version}; 2 and 3 are read"));
    }
    let tensors = counted(&mut cursor, "tensors", MAX_TENSORS)?;
    let entries = counted(&mut cursor, "entries of metadata", MAX_METADATA)?;
    let mut contents = Contents::default();
    let mut alignment = DEFAULT_ALIGNMENT;
    for _ in 0..entries {
        let key = text(&mut cursor, MAX_NAME)?;
        let code = cursor.u32()?;
        let value = value(&mut cursor, code, 0).map_err(|fault| fault.about(key))?;
        if key == "general.alignment" {
            alignment = value.parse().unwrap_or(0);
        }
        if contents.metadata.insert(key.to_string(), value).is_some() {
            return malformed(format!("metadata `{}` is there twice", short(key)));
        }
    }
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return malformed(format!("an alignment of {alignment}"));
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(info(&mut cursor)?);
    }
    let base = cursor.position().next_multiple_of(alignment as usize);
    place(bytes, (base, alignment as usize), infos, &mut contents)?;
    Ok(contents)
}

/// Puts the tensors where they lie; they may leave holes, which align them, but not overlap.
fn place(
    bytes: &Bytes,
    (base, alignment): (usize, usize),
    infos: Vec<Info<'_>>,
    contents: &mut Contents,
) -> Result<(), Fault> {
    let mut places = Vec::with_capacity(infos.len());
    for Info { name, kind, shape, offset } in infos {
        let named = |fault: Fault| fault.about(name);
        if !offset.is_multiple_of(alignment) {
            let reason = format!("offset {offset} is no multiple of {alignment}");
            return malformed(format!("`{}`: {reason}", short(name)));
        }
        let length = byte_count(kind, &shape).map_err(named)?;
        let start = base.saturating_add(offset);
        let stored = Stored::contiguous(bytes, start, kind, shape).map_err(named)?;
        places.push((start, start + length));
        if contents.tensors.insert(name.to_string(), stored).is_some() {
            return malformed(format!("`{}` is there twice", short(name)));
        }
    }
    places.sort_unstable();
    match places.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        true => malformed("tensors overlap"),
        false => Ok(()),
    }
}
