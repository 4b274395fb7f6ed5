//! A tokenizer for random weights: the published ids of bytes and control tokens, other pieces.

use serde_json::{Value, json};

use crate::error::{HubError, Result};

/// Tokens that the method adds after the vocabulary, in the order of their ids.
const ADDED: [&str; 9] = [
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
/// What begins a word.
const SPACE: char = '▁';

/// `tokenizer.json` of Llama's kind with `size` ids in all. The pieces of the published one were
/// learned by others and cannot be made here; these are letters joined to twos and threes.
pub(crate) fn byte_fallback(size: usize) -> Result<Value> {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    pieces.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let characters: Vec<char> = (' '..='~').map(|c| if c == ' ' { SPACE } else { c }).collect();
    pieces.extend(characters.iter().map(char::to_string));
    let learned = size.saturating_sub(ADDED.len());
    let mut merges = Vec::new();
    if learned < pieces.len() {
        let reason = format!("{size} ids are too few for bytes, letters and control tokens");
        return Err(HubError::malformed("vocab_size", reason));
    }
    join(learned, &mut pieces, &mut merges);
    let vocabulary: serde_json::Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.clone(), json!(id))).collect();
    let special = ["<unk>", "<s>", "</s>"].into_iter().enumerate();
    let added = ADDED.into_iter().enumerate().map(|(i, token)| (learned + i, token));
    let token = |(id, content): (usize, &str)| {
        json!({
            "id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.chain(added).map(token).collect::<Vec<_>>(),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": SPACE },
            { "type": "Replace", "pattern": { "String": " " }, "content": SPACE },
        ] },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": SPACE }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": true,
            "vocab": vocabulary, "merges": merges,
        },
    }))
}

/// Adds pieces of two, three, … letters with the merges that make them, until there are `count`.
fn join(count: usize, pieces: &mut Vec<String>, merges: &mut Vec<[String; 2]>) {
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let mut shorter: Vec<String> = letters.clone();
    shorter.insert(0, SPACE.to_string());
    while pieces.len() < count {
        let mut longer = Vec::new();
        for head in &shorter {
            for letter in &letters {
                if pieces.len() == count {
                    return;
                }
                let piece = format!("{head}{letter}");
                merges.push([head.clone(), letter.clone()]);
                pieces.push(piece.clone());
                longer.push(piece);
            }
        }
        shorter = longer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_where_the_published_ones_are() {
        let json = byte_fallback(32_009).unwrap();
        let vocabulary = json["model"]["vocab"].as_object().unwrap();
        assert_eq!(vocabulary.len(), 32_000);
        assert_eq!(vocabulary["<0x41>"], 3 + 0x41);
        let mut ids: Vec<u64> = vocabulary.values().filter_map(Value::as_u64).collect();
        ids.sort();
        assert!(ids.iter().enumerate().all(|(i, id)| i as u64 == *id));
        let added = json["added_tokens"].as_array().unwrap();
        let video = added.iter().find(|token| token["content"] == "<video>").unwrap();
        assert_eq!(video["id"], 32_006);
        assert!(byte_fallback(300).is_err());
    }
}
