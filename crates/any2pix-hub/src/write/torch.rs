//! A zip file of tensors as `torch.save` writes it: stored, every storage at a multiple of 64.

use std::io::{Seek, Write};

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::error::{HubError, Result};
use crate::write::{Counting, Fill, Header, pickle};

/// Where torch aligns storages to.
const ALIGNMENT: u16 = 64;

/// Writes tensors in the order of `headers`; `origin` names the file in errors. With `nested`, a
/// name's part before its first dot is a dictionary of its own.
pub(crate) fn write(
    origin: &str,
    out: impl Write + Seek,
    headers: &[Header],
    nested: bool,
    fill: Fill<'_>,
) -> Result<()> {
    let Some(pickle) = pickle::dictionary(headers, nested) else {
        return Err(HubError::malformed(origin, "torch has no storage for a tensor's type"));
    };
    let failed = |e: zip::result::ZipError| HubError::malformed(origin, e);
    let io = HubError::io;
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .with_alignment(ALIGNMENT);
    let mut zip = ZipWriter::new(out);
    for (name, bytes) in [("data.pkl", pickle.as_slice()), ("byteorder", b"little")] {
        zip.start_file(format!("archive/{name}"), options).map_err(failed)?;
        zip.write_all(bytes).map_err(io(origin))?;
    }
    for (key, header) in headers.iter().enumerate() {
        let large = header.bytes() >= u64::from(u32::MAX);
        let options = options.large_file(large);
        zip.start_file(format!("archive/data/{key}"), options).map_err(failed)?;
        let mut counting = Counting { inner: &mut zip, written: 0 };
        fill(header, &mut counting)?;
        if counting.written != header.bytes() {
            let reason = format!("`{}` was given {} bytes", header.name, counting.written);
            return Err(HubError::malformed(origin, reason));
        }
    }
    zip.start_file("archive/version", options).map_err(failed)?;
    zip.write_all(b"3\n").map_err(io(origin))?;
    zip.finish().map_err(failed)?;
    Ok(())
}
