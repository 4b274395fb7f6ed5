//! What bytes look like before a decoder sees them: their kind, whether their end is there, and
//! whether they hold more than one picture.

use image::ImageFormat;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

fn big_endian(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn little_endian(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Known formats that no decoder here reads, and that `image` would not name.
pub(crate) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(match bytes.get(8..12) {
            Some(b"avif" | b"avis") => "AVIF",
            Some(b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1" | b"heim" | b"heis") => "HEIC",
            Some(b"M4A ") => "M4A (AAC)",
            _ => "MP4 video",
        });
    }
    let start = bytes.get(..bytes.len().min(512)).unwrap_or_default();
    let text = start.trim_ascii_start();
    let has = |needle: &[u8]| start.windows(needle.len()).any(|w| w == needle);
    let magic: [(&[u8], &str); 8] = [
        (b"%PDF", "PDF"),
        (b"8BPS", "PSD"),
        (b"\0\0\x01\0", "ICO"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
        (b"PK\x03\x04", "ZIP"),
    ];
    if let Some((_, name)) = magic.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(name);
    }
    if text.starts_with(b"<svg") || (text.starts_with(b"<?xml") && has(b"<svg")) {
        return Some("SVG");
    }
    None
}

/// What bytes are that no decoder knows, in words.
pub(crate) fn describe(bytes: &[u8]) -> &'static str {
    let start = bytes.get(..bytes.len().min(512)).unwrap_or_default();
    if start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WAVE")
        || start.starts_with(b"fLaC")
        || start.starts_with(b"OggS")
        || start.starts_with(b"ID3")
    {
        "it is a sound"
    } else if image::guess_format(start).is_ok() {
        "it is a picture"
    } else if std::str::from_utf8(start).is_ok_and(|t| !t.contains('\0')) {
        "it is text"
    } else {
        "its content is of no known kind"
    }
}

/// Width and height that a PNG's header claims.
pub(crate) fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    if !bytes.starts_with(PNG) || bytes.get(12..16) != Some(b"IHDR") {
        return None;
    }
    Some((big_endian(bytes, 16)?, big_endian(bytes, 20)?))
}

/// What is missing at the end of the file, when something is.
pub(crate) fn missing_end(format: ImageFormat, bytes: &[u8]) -> Option<String> {
    let missing = |what: &str| Some(format!("{what} is missing"));
    match format {
        ImageFormat::Png if png_chunk(bytes, b"IEND").is_none() => missing("its end (IEND)"),
        ImageFormat::Jpeg if !jpeg_ends(bytes) => missing("its end (EOI)"),
        ImageFormat::WebP => {
            let claimed = u64::from(little_endian(bytes, 4)?) + 8;
            (claimed > bytes.len() as u64)
                .then(|| format!("{} of {claimed} bytes are there", bytes.len()))
        }
        ImageFormat::Gif if gif_frames(bytes).is_none() => missing("its end"),
        _ => None,
    }
}

/// Where the chunk `kind` starts; `None` when the file ends before it.
fn png_chunk(bytes: &[u8], kind: &[u8; 4]) -> Option<usize> {
    let mut at = PNG.len();
    loop {
        let length = big_endian(bytes, at)? as usize;
        let end = at.checked_add(length)?.checked_add(12)?;
        if end > bytes.len() {
            return None;
        }
        if bytes.get(at + 4..at + 8)? == kind {
            return Some(at);
        }
        at = end;
    }
}

/// Whether an end-of-image marker follows the scans; segments (thumbnails in them) are skipped.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        if first != 0xff {
            at += 1; // entropy-coded data
            continue;
        }
        match marker {
            0xd9 => return true,
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            _ => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        }
    }
    false
}

/// Whether a JPEG without its end marker has all of its data: then what is appended comes after
/// the last block and changes no pixel.
pub(crate) fn scan_is_whole(bytes: &[u8]) -> bool {
    let pixels = |tail: &[u8]| {
        let closed = [bytes, tail, &[0xff, 0xd9]].concat();
        image::load_from_memory_with_format(&closed, ImageFormat::Jpeg).ok()
    };
    // Any bytes will do that are no marker and decode to something.
    let tail: Vec<u8> = (0..512u32).map(|i| (i * 151 % 251) as u8).collect();
    pixels(&[]).is_some_and(|plain| pixels(&tail) == Some(plain))
}

/// How many frames a GIF has (counted up to 2); `None` when it ends before its first frame does.
fn gif_frames(bytes: &[u8]) -> Option<usize> {
    let table = |flags: u8| if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 };
    let mut at = 13 + table(*bytes.get(10)?);
    let mut frames = 0;
    let blocks_end = |mut at: usize| -> Option<usize> {
        loop {
            match *bytes.get(at)? {
                0 => return Some(at + 1),
                length => at += 1 + usize::from(length),
            }
        }
    };
    while frames < 2 {
        let next = match bytes.get(at) {
            Some(0x21) => blocks_end(at + 2),
            Some(0x2c) => {
                let data = at + 10 + table(*bytes.get(at + 9)?) + 1;
                let end = blocks_end(data);
                frames += usize::from(end.is_some());
                end
            }
            _ => break,
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    (frames > 0).then_some(frames)
}

/// What a user should know about a file that decodes.
pub(crate) fn warnings(format: ImageFormat, bytes: &[u8]) -> Vec<String> {
    let animated = match format {
        ImageFormat::Gif => gif_frames(bytes).is_some_and(|frames| frames > 1),
        ImageFormat::WebP => {
            bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|f| f & 2 != 0)
        }
        ImageFormat::Png => png_chunk(bytes, b"acTL").is_some(),
        _ => false,
    };
    if animated { vec!["it is animated: its first frame was used".to_string()] } else { Vec::new() }
}

/// Whether an I/O "unexpected end" is at the root of `error`.
pub(crate) fn is_unexpected_end(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::UnexpectedEof
        {
            return true;
        }
        cause = error.source();
    }
    let text = error.to_string().to_ascii_lowercase();
    text.contains("unexpected end") || text.contains("unexpected eof")
}
