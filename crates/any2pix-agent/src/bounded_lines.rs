//! Lines of a stream that nobody vouches for: each is bounded before it takes memory.

use std::io::{BufRead, Result};

/// Longest line of a manifest or of a worker's input, in bytes.
pub const MAX_LINE_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Text.
    Text(String),
    /// Longer than [`MAX_LINE_BYTES`]; its bytes were dropped.
    TooLong,
    /// Bytes that are not UTF-8 from this place on, counted from the stream's first byte.
    Invalid {
        /// The place.
        offset: u64,
    },
}

/// Reads lines one by one; a line ends with `\n` or `\r\n`, or with the stream.
pub struct BoundedLines<R> {
    reader: R,
    offset: u64,
}

impl<R: BufRead> BoundedLines<R> {
    /// The lines of `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, offset: 0 }
    }

    /// What is left of the reader.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The next line; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        let start = self.offset;
        let (mut bytes, mut is_too_long) = (Vec::new(), false);
        loop {
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if available.is_empty() && self.offset == start {
                return Ok(None);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            is_too_long |= bytes.len() + part.len() > MAX_LINE_BYTES;
            if !is_too_long {
                bytes.extend_from_slice(part);
            }
            let is_last = available.is_empty() || end.is_some();
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            self.offset += consumed as u64;
            if is_last {
                break;
            }
        }
        Ok(Some(if is_too_long { Line::TooLong } else { text(&bytes, start) }))
    }
}

fn text(bytes: &[u8], start: u64) -> Line {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let mark =
        if start == 0 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    match std::str::from_utf8(&bytes[mark..]) {
        Ok(text) => Line::Text(text.to_string()),
        Err(error) => Line::Invalid { offset: start + (mark + error.valid_up_to()) as u64 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Line> {
        // A small buffer, so that lines run over its end.
        let mut lines = BoundedLines::new(std::io::BufReader::with_capacity(7, bytes));
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    #[test]
    fn lines_end_as_people_end_them() {
        let text = |t: &str| Line::Text(t.to_string());
        assert_eq!(
            lines(b"\xef\xbb\xbfone\r\n\ntwo and more\nlast"),
            [text("one"), text(""), text("two and more"), text("last")]
        );
        assert_eq!(lines(b"one\n"), [text("one")]);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn what_is_no_text_or_too_long_is_named_and_the_rest_is_read() {
        let mut bytes = vec![b'a'; MAX_LINE_BYTES + 1];
        bytes.extend_from_slice(b"\nok\nab\xffc\nend");
        let found = lines(&bytes);
        let offset = MAX_LINE_BYTES as u64 + 2 + 3 + 2;
        let rest = [Line::Text("ok".into()), Line::Invalid { offset }, Line::Text("end".into())];
        assert_eq!((found[0].clone(), &found[1..]), (Line::TooLong, &rest[..]));
    }
}
