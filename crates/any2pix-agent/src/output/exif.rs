//! EXIF: the source's, made true of the picture that was painted.

use std::collections::BTreeSet;
use std::io::Cursor;

use exif::experimental::Writer;
use exif::{Context, Field, In, Reader, Tag, Value};

/// What is kept of the source's, at most: beside it, a segment of a JPEG holds a comment.
const MAX_BYTES: usize = 24 << 10;

/// Not true of other pixels, or not readable in another place: how pixels were stored, and what a
/// camera's maker keeps at offsets that nobody else knows.
const DROPPED: [Tag; 12] = [
    Tag::ImageWidth,
    Tag::ImageLength,
    Tag::BitsPerSample,
    Tag::Compression,
    Tag::PhotometricInterpretation,
    Tag::SamplesPerPixel,
    Tag::RowsPerStrip,
    Tag::PlanarConfiguration,
    Tag::MakerNote,
    Tag::Orientation,
    Tag::PixelXDimension,
    Tag::PixelYDimension,
];

/// The source's EXIF for upright pixels of `size` and without a thumbnail, and `comment` as its
/// user comment; `None` when that is nothing. What cannot be read, or is larger than anyone
/// needs, is left out.
pub(super) fn rewrite(
    source: Option<Vec<u8>>,
    size: (u32, u32),
    comment: Option<&str>,
) -> Option<Vec<u8>> {
    let own = comment.map(|comment| field(Tag::UserComment, Value::Undefined(coded(comment), 0)));
    let parsed = source.and_then(|bytes| {
        let mut reader = Reader::new();
        let read = reader.continue_on_error(true).read_raw(bytes);
        read.or_else(|error| error.distill_partial_result(|_| {})).ok()
    });
    let mut seen: BTreeSet<(u32, u16)> = own.iter().map(|field| key(field.tag)).collect();
    let mut kept: Vec<Field> = Vec::new();
    for field in parsed.iter().flat_map(|exif| exif.fields()) {
        if field.ifd_num == In::PRIMARY && is_kept(field) && seen.insert(key(field.tag)) {
            kept.push(field.clone());
        }
    }
    if !kept.is_empty() {
        kept.push(field(Tag::Orientation, Value::Short(vec![1])));
        kept.push(field(Tag::PixelXDimension, Value::Long(vec![size.0])));
        kept.push(field(Tag::PixelYDimension, Value::Long(vec![size.1])));
    }
    let little_endian = parsed.is_some_and(|exif| exif.little_endian());
    match write(&kept, None, little_endian) {
        Some(bytes) if bytes.len() > MAX_BYTES => write(&[], own.as_ref(), false),
        _ => write(&kept, own.as_ref(), little_endian),
    }
}

fn field(tag: Tag, value: Value) -> Field {
    Field { tag, ifd_num: In::PRIMARY, value }
}

fn key(tag: Tag) -> (u32, u16) {
    let context = match tag.context() {
        Context::Tiff => 0,
        Context::Exif => 1,
        Context::Gps => 2,
        _ => 3,
    };
    (context, tag.number())
}

fn is_kept(field: &Field) -> bool {
    !matches!(field.value, Value::Unknown(..)) && !DROPPED.contains(&field.tag)
}

fn write(fields: &[Field], own: Option<&Field>, little_endian: bool) -> Option<Vec<u8>> {
    let mut writer = Writer::new();
    fields.iter().chain(own).for_each(|field| writer.push_field(field));
    let mut bytes = Cursor::new(Vec::new());
    // No fields are an error.
    writer.write(&mut bytes, little_endian).ok()?;
    Some(bytes.into_inner())
}

/// A comment with the code of its characters, big-endian as web interfaces read it.
fn coded(comment: &str) -> Vec<u8> {
    let units = comment.encode_utf16().flat_map(u16::to_be_bytes);
    b"UNICODE\0".iter().copied().chain(units).collect()
}
