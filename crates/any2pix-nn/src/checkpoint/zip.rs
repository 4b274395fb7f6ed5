//! The directory of a zip file whose entries are stored as they are, as `torch.save` writes it.
//!
//! Entries are never unpacked: their bytes are used where they lie. What a general reader would
//! forgive (two entries of one name, entries that overlap, a directory that disagrees with the
//! entries) is refused here, since no honest writer does it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::bytes::Cursor;
use super::error::{Fault, malformed};
use super::file::{MAX_NAME, MAX_TENSORS};
use super::json::short;

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// Bytes of the end of the directory, without its comment.
const END_BYTES: usize = 22;

/// Longest comment of a file.
const MAX_COMMENT: usize = 65_535;

/// In a field of 32 bits: the number is in the extra field of 64.
const ELSEWHERE: u64 = u32::MAX as u64;

const STORE: &str = "save it again with torch.save, which stores tensors uncompressed";

/// Where each entry's bytes lie.
pub(super) type Entries = BTreeMap<String, Range<usize>>;

/// Where the directory is and how many entries it has.
struct Directory {
    start: usize,
    size: usize,
    count: usize,
}

fn expect(cursor: &mut Cursor<'_>, signature: &[u8], what: &str) -> Result<(), Fault> {
    match cursor.take(signature.len())? == signature {
        true => Ok(()),
        false => malformed(format!("{what} is not where it should be; is the file cut short?")),
    }
}

fn directory(bytes: &[u8]) -> Result<Directory, Fault> {
    let first = bytes.len().saturating_sub(END_BYTES + MAX_COMMENT);
    let tail = &bytes[first..];
    // The end is the last place where the comment that follows reaches just the file's end.
    let ends_here = |at: &usize| {
        let rest = &tail[*at..];
        rest.starts_with(END)
            && rest.len() >= END_BYTES
            && rest.len() - END_BYTES == usize::from(u16::from_le_bytes([rest[20], rest[21]]))
    };
    let Some(at) = (0..tail.len()).rev().find(ends_here).map(|at| first + at) else {
        return malformed("a zip file without a directory; is it cut short?");
    };
    let mut cursor = Cursor::starting(bytes, at + END.len());
    let (disk, first_disk) = (cursor.u16()?, cursor.u16()?);
    let (here, count) = (cursor.u16()?, cursor.u16()?);
    let (size, start) = (cursor.u32()?, cursor.u32()?);
    let narrow = disk == 0 && first_disk == 0 && here == count;
    if count != u16::MAX && size != u32::MAX && start != u32::MAX && narrow {
        let (start, size, count) = (start as usize, size as usize, usize::from(count));
        return bounded(Directory { start, size, count }, at);
    }
    let Some(place) = at.checked_sub(20) else {
        return malformed("a zip file in several parts");
    };
    let mut cursor = Cursor::starting(bytes, place);
    expect(&mut cursor, LOCATOR_64, "the locator of the zip64 directory")?;
    let (disk, end) = (cursor.u32()?, cursor.size()?);
    let mut cursor = Cursor::starting(bytes, end);
    expect(&mut cursor, END_64, "the end of the zip64 directory")?;
    cursor.take(8 + 2 + 2)?;
    let disks = (disk, cursor.u32()?, cursor.u32()?);
    let (here, count) = (cursor.size()?, cursor.size()?);
    let (size, start) = (cursor.size()?, cursor.size()?);
    if disks != (0, 0, 0) || here != count {
        return malformed("a zip file in several parts");
    }
    bounded(Directory { start, size, count }, end)
}

/// The directory must lie before its own end.
fn bounded(directory: Directory, end: usize) -> Result<Directory, Fault> {
    let Directory { start, size, count } = directory;
    if count > MAX_TENSORS {
        return malformed(format!("{count} entries; {MAX_TENSORS} are the most"));
    }
    match start.checked_add(size) {
        Some(after) if after <= end => Ok(directory),
        _ => malformed(format!("a directory of {size} bytes at {start}, which ends at {end}")),
    }
}

/// What the directory says of an entry.
struct Entry<'a> {
    name: &'a str,
    size: u64,
    header: u64,
}

fn entry<'a>(cursor: &mut Cursor<'a>) -> Result<Entry<'a>, Fault> {
    expect(cursor, ENTRY, "an entry of the directory")?;
    cursor.take(4)?;
    let (flags, method) = (cursor.u16()?, cursor.u16()?);
    cursor.take(8)?;
    let (packed, size) = (u64::from(cursor.u32()?), u64::from(cursor.u32()?));
    let lengths = [cursor.u16()?, cursor.u16()?, cursor.u16()?].map(usize::from);
    cursor.take(8)?;
    let header = u64::from(cursor.u32()?);
    let name = cursor.take(lengths[0])?;
    let extra = cursor.take(lengths[1])?;
    cursor.take(lengths[2])?;
    let Ok(name) = std::str::from_utf8(name) else {
        return malformed("an entry whose name is not UTF-8");
    };
    if name.len() > MAX_NAME {
        return malformed(format!("an entry with a name of {} bytes", name.len()));
    }
    if flags & 1 != 0 {
        return Err(Fault::Refused(format!("`{}` is encrypted", short(name)), STORE));
    }
    if method != 0 {
        return Err(Fault::Refused(format!("`{}` is compressed", short(name)), STORE));
    }
    let mut fields = [size, packed, header];
    wide_fields(extra, &mut fields)?;
    let [size, packed, header] = fields;
    match packed == size {
        true => Ok(Entry { name, size, header }),
        false => malformed(format!("`{}` is stored, in another size than its own", short(name))),
    }
}

/// Fields that stand in the zip64 extra field, in their order.
fn wide_fields(extra: &[u8], fields: &mut [u64; 3]) -> Result<(), Fault> {
    let mut extra = Cursor::new(extra);
    let mut wide = None;
    while extra.left() >= 4 {
        let (tag, length) = (extra.u16()?, usize::from(extra.u16()?));
        let body = extra.take(length)?;
        if tag == 1 {
            wide = Some(Cursor::new(body));
        }
    }
    for field in fields.iter_mut().filter(|field| **field == ELSEWHERE) {
        match &mut wide {
            Some(wide) => *field = wide.u64()?,
            None => return malformed("an entry of 4 GB or more without its zip64 sizes"),
        }
    }
    Ok(())
}

/// Where the bytes of an entry begin, behind a header of its own that must agree.
fn data(bytes: &[u8], entry: &Entry<'_>) -> Result<Range<usize>, Fault> {
    let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let mut cursor = Cursor::starting(bytes, place(entry.header));
    expect(&mut cursor, LOCAL, "an entry's header")?;
    cursor.take(4)?;
    let method = cursor.u16()?;
    cursor.take(16)?;
    let lengths = [usize::from(cursor.u16()?), usize::from(cursor.u16()?)];
    let name = cursor.take(lengths[0])?;
    cursor.take(lengths[1])?;
    if method != 0 || name != entry.name.as_bytes() {
        return malformed(format!("`{}` and its header disagree", short(entry.name)));
    }
    let start = cursor.position();
    cursor.take(place(entry.size))?;
    Ok(start..cursor.position())
}

/// Lists the entries of a zip file.
pub(super) fn entries(bytes: &[u8]) -> Result<Entries, Fault> {
    let Directory { start, size, count } = directory(bytes)?;
    let mut cursor = Cursor::new(&bytes[start..start + size]);
    let mut entries = Entries::new();
    let mut places = Vec::new();
    for _ in 0..count {
        let entry = entry(&mut cursor)?;
        let data = data(bytes, &entry)?;
        if data.end > start {
            return malformed(format!("`{}` reaches into the directory", short(entry.name)));
        }
        places.push((usize::try_from(entry.header).unwrap_or(usize::MAX), data.end));
        if entries.insert(entry.name.to_string(), data).is_some() {
            return malformed(format!("`{}` is there twice", short(entry.name)));
        }
    }
    if cursor.left() > 0 {
        return malformed("the directory is longer than its entries");
    }
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return malformed("entries overlap");
    }
    Ok(entries)
}
