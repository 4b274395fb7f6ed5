//! `Tokenizer`: text to ids, with control tokens that only this program can write.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::LlmError;

/// Ids of the tokens that plans are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlTokens {
    /// `<s>`
    pub bos: u32,
    /// `</s>`
    pub eos: u32,
    /// `<im_gen_start>`
    pub im_gen_start: u32,
    /// `<im_gen>`: the slot of the result follows.
    pub im_gen: u32,
    /// `<video>`: a place for an embedding, in prompt and answer.
    pub video: u32,
    /// `<base>`: the slot of the source follows.
    pub base: u32,
    /// `<base_null>`: there is no source.
    pub base_null: u32,
}

impl ControlTokens {
    /// Texts of every token that the method adds, in the order of their ids.
    pub const ADDED: [&'static str; 9] = [
        "<im_gen_start>",
        "<im_gen>",
        "<mask_gen>",
        "<audio_gen>",
        "<audio_gen_start>",
        "<audio>",
        "<video>",
        "<base>",
        "<base_null>",
    ];

    /// Finds each token by its text.
    pub fn find(id_of: impl Fn(&str) -> Option<u32>) -> Result<Self, LlmError> {
        let find = |token| id_of(token).ok_or(LlmError::MissingControlToken { token });
        Ok(Self {
            bos: find("<s>")?,
            eos: find("</s>")?,
            im_gen_start: find("<im_gen_start>")?,
            im_gen: find("<im_gen>")?,
            video: find("<video>")?,
            base: find("<base>")?,
            base_null: find("<base_null>")?,
        })
    }
}

/// Which stretches of text between control tokens begin with a word boundary of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentPrefix {
    /// Every one (Llama's tokenizer with `legacy`, and its fast version).
    Every,
    /// The first alone (Llama's tokenizer without `legacy`).
    First,
    /// None.
    Never,
}

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text; never read as control tokens.
    Text(String),
    /// A control token.
    Control(u32),
}

/// A BPE tokenizer whose control tokens cannot be written in text.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    prefix: SegmentPrefix,
    special: BTreeMap<u32, String>,
    pieces: Vec<Option<String>>,
    control: ControlTokens,
}

fn malformed(reason: impl std::fmt::Display) -> LlmError {
    LlmError::Tokenizer { reason: reason.to_string() }
}

/// Takes the word boundary that a tokenizer puts before every text out of its description, so
/// that [`Tokenizer`] can put it by its own rule. Tells whether there was one.
fn take_prefix(json: &mut Value) -> bool {
    let mut found = false;
    let is_prepend = |v: &Value| v["type"] == "Prepend";
    match &mut json["normalizer"] {
        normalizer if is_prepend(normalizer) => {
            *normalizer = Value::Null;
            found = true;
        }
        normalizer => {
            if let Some(list) = normalizer["normalizers"].as_array_mut() {
                let before = list.len();
                list.retain(|v| !is_prepend(v));
                found |= list.len() < before;
            }
        }
    }
    let pre_tokenizer = &mut json["pre_tokenizer"];
    if pre_tokenizer["type"] == "Metaspace" {
        found |= pre_tokenizer["prepend_scheme"] != "never";
        pre_tokenizer["prepend_scheme"] = "never".into();
    }
    found
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `prefix` overrides what the file says about word boundaries
    /// after control tokens (published checkpoints say it in `tokenizer_config.json`).
    pub fn from_json(json: &[u8], prefix: Option<SegmentPrefix>) -> Result<Self, LlmError> {
        let mut json: Value = serde_json::from_slice(json).map_err(malformed)?;
        let described =
            if take_prefix(&mut json) { SegmentPrefix::Every } else { SegmentPrefix::Never };
        for part in ["post_processor", "truncation", "padding"] {
            json[part] = Value::Null;
        }
        let added = json["added_tokens"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
        for token in added {
            // Only special tokens are skipped when text is split.
            token["special"] = true.into();
        }
        let text = serde_json::to_vec(&json).map_err(malformed)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&text).map_err(malformed)?;
        inner.set_encode_special_tokens(true);
        let special: BTreeMap<u32, String> = inner
            .get_added_tokens_decoder()
            .iter()
            .map(|(id, token)| (*id, token.content.clone()))
            .collect::<BTreeMap<_, _>>();
        let count = inner.get_vocab_size(true) as u32;
        let top = special.keys().last().map_or(count, |last| count.max(last + 1));
        let pieces = (0..top)
            .map(|id| if special.contains_key(&id) { None } else { inner.id_to_token(id) })
            .map(|piece| piece.map(|p| p.replace('▁', " ")))
            .collect();
        let control = ControlTokens::find(|token| inner.token_to_id(token))?;
        let tokenizer =
            Self { inner, prefix: prefix.unwrap_or(described), special, pieces, control };
        tokenizer.check_that_text_is_data()?;
        Ok(tokenizer)
    }

    /// A vocabulary that turns the mere text of a control token into that token is refused.
    fn check_that_text_is_data(&self) -> Result<(), LlmError> {
        for text in self.special.values() {
            self.encode_text(text)?;
        }
        Ok(())
    }

    /// The control tokens.
    pub fn control(&self) -> ControlTokens {
        self.control
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The text of `id`, with spaces as spaces; `None` for control tokens and unused ids.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize)?.as_deref()
    }

    /// Text as ids, none of which is a control token; no word boundary is put before it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, LlmError> {
        let encoding = self.inner.encode_fast(text, false).map_err(malformed)?;
        let ids = encoding.get_ids().to_vec();
        match ids.iter().find_map(|id| self.special.get(id)) {
            Some(token) if token != "<unk>" => {
                Err(malformed(format!("plain text became the control token `{token}`")))
            }
            _ => Ok(ids),
        }
    }

    /// A prompt as ids, `<s>` first.
    pub fn encode(&self, segments: &[Segment]) -> Result<Vec<u32>, LlmError> {
        let mut ids = vec![self.control.bos];
        ids.extend(self.encode_continuation(segments, true)?);
        Ok(ids)
    }

    /// Segments as ids without `<s>`; `at_start` when nothing came before them.
    pub fn encode_continuation(
        &self,
        segments: &[Segment],
        at_start: bool,
    ) -> Result<Vec<u32>, LlmError> {
        let mut ids = Vec::new();
        let mut first = at_start;
        let mut text = String::new();
        for segment in segments {
            match segment {
                Segment::Text(more) => text.push_str(more),
                Segment::Control(id) => {
                    self.flush(&mut text, first, &mut ids)?;
                    ids.push(*id);
                    first = false;
                }
            }
        }
        self.flush(&mut text, first, &mut ids)?;
        Ok(ids)
    }

    fn flush(&self, text: &mut String, first: bool, ids: &mut Vec<u32>) -> Result<(), LlmError> {
        if text.is_empty() {
            return Ok(());
        }
        let bounded = match self.prefix {
            SegmentPrefix::Every => true,
            SegmentPrefix::First => first,
            SegmentPrefix::Never => false,
        };
        if bounded {
            text.insert(0, ' ');
        }
        ids.extend(self.encode_text(text)?);
        text.clear();
        Ok(())
    }

    /// Splits text of **our own** at the control tokens it names. Never for a user's words.
    pub fn trusted_segments(&self, text: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = self
                .special
                .iter()
                .filter_map(|(id, token)| rest.find(token.as_str()).map(|at| (at, *id, token)))
                .min_by_key(|(at, _, token)| (*at, usize::MAX - token.len()));
            let Some((at, id, token)) = next else {
                segments.push(Segment::Text(rest.to_string()));
                break;
            };
            if at > 0 {
                segments.push(Segment::Text(rest[..at].to_string()));
            }
            segments.push(Segment::Control(id));
            rest = &rest[at + token.len()..];
        }
        segments
    }

    /// Ids as text, control tokens by their names, as the reference's fast tokenizer does.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes: Vec<u8> = Vec::new();
        for id in ids {
            if let Some(token) = self.special.get(id) {
                bytes.extend_from_slice(token.as_bytes());
            } else if let Some(piece) = self.piece(*id) {
                match byte_of(piece) {
                    Some(byte) => bytes.push(byte),
                    None => bytes.extend_from_slice(piece.as_bytes()),
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        text.strip_prefix(' ').unwrap_or(&text).to_string()
    }
}

/// The byte that a fallback piece `<0x41>` stands for.
pub(crate) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
