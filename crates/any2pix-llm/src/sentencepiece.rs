//! A published Llama's `tokenizer.model` (SentencePiece) as the `tokenizer.json` that it means.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::LlmError;
use crate::tokenizer::ControlTokens;

/// What a piece is for, as far as it matters here.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
/// The kind of model whose pieces are merged in pairs.
const BPE: u64 = 2;

#[derive(Debug, Default)]
struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

#[derive(Debug, Default)]
struct Model {
    pieces: Vec<Piece>,
    kind: u64,
}

fn malformed(reason: &str) -> LlmError {
    LlmError::Tokenizer { reason: format!("tokenizer.model: {reason}") }
}

/// A value of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Float(f32),
    Other,
}

/// The fields of a message, each with its number.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], LlmError> {
        if count > self.0.len() {
            return Err(malformed("it is cut short"));
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, LlmError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(self.take(1)?[0]);
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a number in it has no end"))
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, LlmError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Float(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            _ => return Err(malformed("it is no SentencePiece model")),
        };
        Ok(Some((tag >> 3, field)))
    }
}

fn read_piece(bytes: &[u8]) -> Result<Piece, LlmError> {
    let mut piece = Piece::default();
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text);
                piece.text = text.map_err(|_| malformed("a piece is not UTF-8"))?.to_string();
            }
            (2, Field::Float(score)) => piece.score = score,
            (3, Field::Number(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Ok(piece)
}

fn read(bytes: &[u8]) -> Result<Model, LlmError> {
    let mut model = Model::default();
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(piece)) => model.pieces.push(read_piece(piece)?),
            (2, Field::Bytes(trainer)) => {
                let mut fields = Fields(trainer);
                while let Some(field) = fields.next()? {
                    if let (3, Field::Number(kind)) = field {
                        model.kind = kind;
                    }
                }
            }
            _ => {}
        }
    }
    if model.pieces.is_empty() || model.kind != BPE {
        return Err(malformed("it is no byte-pair model"));
    }
    Ok(model)
}

/// Every way to make a piece of two others, the best pieces first: SentencePiece keeps scores of
/// pieces, a byte-pair encoder wants its merges in order.
fn merges(model: &Model, ids: &BTreeMap<&str, usize>) -> Vec<[String; 2]> {
    let mut all = Vec::new();
    for piece in &model.pieces {
        let splits = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        let mut local: Vec<_> = splits
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        local.sort_by_key(|(left, right, ..)| (*left, *right));
        all.extend(local.into_iter().map(|(_, _, left, right)| (piece.score, left, right)));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, left, right)| [left.to_string(), right.to_string()]).collect()
}

/// The bytes of a `tokenizer.json` with the pieces of `tokenizer.model` and the tokens of
/// `added_tokens.json` (text to id), which are all control tokens; without that file, the
/// method's own tokens follow the pieces.
pub fn tokenizer_json(model: &[u8], added_tokens: Option<&[u8]>) -> Result<Vec<u8>, LlmError> {
    let model = read(model)?;
    let added: BTreeMap<String, u32> = match added_tokens {
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|e| LlmError::Tokenizer { reason: format!("added_tokens.json: {e}") })?,
        None => {
            let ids = model.pieces.len() as u32..;
            ControlTokens::ADDED.iter().map(|token| (*token).to_string()).zip(ids).collect()
        }
    };
    let ids: BTreeMap<&str, usize> =
        model.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
    let special = |id: usize, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let own = model.pieces.iter().enumerate();
    let mut tokens: Vec<Value> = own
        .filter(|(_, piece)| [UNKNOWN, CONTROL].contains(&piece.kind))
        .map(|(id, piece)| special(id, &piece.text))
        .collect();
    let mut by_id: Vec<(&String, &u32)> = added.iter().collect();
    by_id.sort_by_key(|(_, id)| **id);
    tokens.extend(by_id.into_iter().map(|(text, id)| special(*id as usize, text)));
    let unknown = model.pieces.iter().find(|piece| piece.kind == UNKNOWN);
    let document = json!({
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "model": {
            "type": "BPE",
            "unk_token": unknown.map(|piece| piece.text.as_str()),
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": ids,
            "merges": merges(&model, &ids),
        },
    });
    serde_json::to_vec(&document).map_err(|e| malformed(&e.to_string()))
}
