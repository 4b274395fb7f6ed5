//! CLIP's byte-pair encoding: lower-cased words that end in `</w>`.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Sequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::error::EncoderError;

/// The merges that every published CLIP shares; the vocabulary follows from them.
const MERGES: &str = include_str!("../../../models/clip/merges.txt");
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// The first byte of the vocabulary.
const EXCLAMATION: u32 = 0;
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Text → ids of a fixed number.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    /// Ids that one text has, padding included.
    context: usize,
}

/// What fills a row after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The end token again: SD 1.5 and the first encoder of SDXL.
    End,
    /// `!`, id 0, which thereby becomes a token of its own in the text too: the second encoder
    /// of SDXL.
    Exclamation,
    /// Plain zeros: ImageBind.
    Zero,
}

/// The printable stand-ins of the 256 bytes, in the order of the vocabulary.
fn byte_alphabet() -> Vec<char> {
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let (mut alphabet, rest): (Vec<u32>, Vec<u32>) = (0..256).partition(printable);
    alphabet.extend((0..rest.len() as u32).map(|i| 256 + i));
    alphabet.into_iter().filter_map(char::from_u32).collect()
}

fn vocabulary(merges: &Merges) -> Vocab {
    let bytes = byte_alphabet();
    let single = bytes.iter().map(char::to_string);
    let closing = bytes.iter().map(|c| format!("{c}</w>"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let specials = [START.to_string(), END.to_string()];
    single.chain(closing).chain(merged).chain(specials).zip(0u32..).collect()
}

fn failed(error: impl std::fmt::Display) -> EncoderError {
    EncoderError::Tokenizer(error.to_string())
}

impl ClipTokenizer {
    /// The published vocabulary, 77 ids a text.
    pub fn new() -> Result<Self, EncoderError> {
        Self::from_merges(MERGES, 77)
    }

    /// Over the `merges.txt` of a model folder.
    pub fn open(merges: impl AsRef<Path>, context: usize) -> Result<Self, EncoderError> {
        let path = merges.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| EncoderError::Unreadable { path: path.to_path_buf(), source })?;
        Self::from_merges(&text, context)
    }

    /// Over the lines of a `merges.txt`; a line that starts with `#version` is skipped.
    pub fn from_merges(merges: &str, context: usize) -> Result<Self, EncoderError> {
        let merges: Merges = merges
            .lines()
            .filter(|line| !line.starts_with("#version"))
            .filter_map(|line| line.split_once(' '))
            .map(|(a, b)| (a.to_string(), b.trim_end().to_string()))
            .collect();
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary(&merges), merges)
            .unk_token(END.to_string())
            .end_of_word_suffix("</w>".to_string())
            .build()
            .map_err(failed)?;
        let mut tokenizer = Tokenizer::new(bpe);
        let normalizer = Sequence::new(vec![NormalizerWrapper::NFC(NFC)]);
        tokenizer.with_normalizer(Some(normalizer)).map_err(failed)?;
        let words = SplitPattern::Regex(PATTERN.to_string());
        let split = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(failed)?;
        tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
            PreTokenizerWrapper::Split(split),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
        ])));
        let specials = [AddedToken::from(START, true), AddedToken::from(END, true)];
        tokenizer.add_special_tokens(specials).map_err(failed)?;
        let id = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| failed(format!("no token {token}")))
        };
        let (start, end) = (id(START)?, id(END)?);
        Ok(Self { tokenizer, start, end, context })
    }

    /// The ids of `text`: start, words, end, padding; a longer text is cut before its end token.
    pub fn encode(&self, text: &str, padding: Padding) -> Result<Vec<u32>, EncoderError> {
        let cleaned = clean(text);
        let mut ids = vec![self.start];
        let parts: Vec<&str> = match padding {
            Padding::Exclamation => cleaned.split('!').collect(),
            _ => vec![&cleaned],
        };
        for (i, part) in parts.into_iter().enumerate() {
            if i > 0 {
                ids.push(EXCLAMATION);
            }
            ids.extend(self.tokenizer.encode_fast(part, false).map_err(failed)?.get_ids());
        }
        ids.truncate(self.context.saturating_sub(1));
        ids.push(self.end);
        let pad = if padding == Padding::End { self.end } else { EXCLAMATION };
        ids.resize(self.context, pad);
        Ok(ids)
    }
}

/// The everyday part of what `ftfy` mends, then single spaces and lower case: character
/// entities, curly quotes, ligatures, full-width letters, control characters.
fn clean(text: &str) -> String {
    let unescaped = if text.contains('<') { text.to_string() } else { unescape(text) };
    let mut plain = String::with_capacity(unescaped.len());
    for c in unescaped.chars() {
        match c {
            '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' | '\u{02bc}' => plain.push('\''),
            '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' => plain.push('"'),
            '\u{fb00}' => plain.push_str("ff"),
            '\u{fb01}' => plain.push_str("fi"),
            '\u{fb02}' => plain.push_str("fl"),
            '\u{fb03}' => plain.push_str("ffi"),
            '\u{fb04}' => plain.push_str("ffl"),
            '\u{ff01}'..='\u{ff5e}' => {
                plain.push(char::from_u32(c as u32 - 0xfee0).unwrap_or(c));
            }
            '\u{3000}' => plain.push(' '),
            '\u{feff}' | '\u{200e}' | '\u{200f}' => {}
            c if c.is_control() && !c.is_whitespace() => {}
            c => plain.push(c),
        }
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// The character entities that prompts copied from web pages hold.
fn unescape(text: &str) -> String {
    const NAMED: [(&str, &str); 6] = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ];
    NAMED.iter().fold(text.to_string(), |text, (entity, plain)| text.replace(entity, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_has_the_published_size() {
        let tokenizer = ClipTokenizer::new().unwrap();
        assert_eq!((tokenizer.start, tokenizer.end), (49_406, 49_407));
        let ids = tokenizer.encode("", Padding::Zero).unwrap();
        assert_eq!((ids.len(), &ids[..3]), (77, &[49_406, 49_407, 0][..]));
    }

    #[test]
    fn curly_quotes_and_full_width_letters_read_as_plain_ones() {
        assert_eq!(
            clean("It\u{2019}s\u{3000}\u{ff21}  \u{fb01}ne &amp; dandy"),
            "it's a fine & dandy"
        );
    }
}
