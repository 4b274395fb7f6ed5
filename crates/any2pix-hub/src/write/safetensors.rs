//! A safetensors file, written as a stream.

use std::io::Write;

use candle_core::DType;
use serde_json::{Map, Value, json};

use crate::error::{HubError, Result};
use crate::write::{Counting, Fill, Header};

/// The format's name of a type; `None` when it has none.
pub(crate) fn type_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::U8 => "U8",
        DType::U32 => "U32",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::F8E4M3 => "F8_E4M3",
        _ => return None,
    })
}

/// Writes tensors in the order of `headers`; `origin` names the file in errors.
pub(crate) fn write(
    origin: &str,
    out: &mut dyn Write,
    headers: &[Header],
    fill: Fill<'_>,
) -> Result<()> {
    let mut index = Map::new();
    index.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut end = 0;
    for header in headers {
        let Some(dtype) = type_name(header.dtype) else {
            let reason = format!("`{}`: {:?} has no place here", header.name, header.dtype);
            return Err(HubError::malformed(origin, reason));
        };
        let begin = end;
        end += header.bytes();
        let entry = json!({ "dtype": dtype, "shape": header.shape, "data_offsets": [begin, end] });
        index.insert(header.name.clone(), entry);
    }
    let mut text = Value::Object(index).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let io = HubError::io(origin);
    let length = (text.len() as u64).to_le_bytes();
    out.write_all(&length).and_then(|()| out.write_all(&text)).map_err(io)?;
    for header in headers {
        let mut counting = Counting { inner: out, written: 0 };
        fill(header, &mut counting)?;
        if counting.written != header.bytes() {
            let reason = format!("`{}` was given {} bytes", header.name, counting.written);
            return Err(HubError::malformed(origin, reason));
        }
    }
    Ok(())
}
