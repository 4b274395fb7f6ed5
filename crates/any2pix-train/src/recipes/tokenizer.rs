//! The Playroom tokenizer: BPE with byte fallback over what planner and text tower read.

use std::collections::BTreeMap;
use std::path::Path;

use any2pix_llm::ControlTokens;
use any2pix_nn::Generator;
use serde_json::{Value, json};
use tokenizers::Trainer;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::instruct::spaced;
use super::{align, generate, unknown};
use crate::playroom::World;
use crate::{Result, TrainError, export};

/// Texts that the Playroom is asked for.
const TEXTS: usize = 30_000;
/// Tokens in all. The text tower's table has one row more, for the end of a text.
const SIZE: usize = 1791;
/// Tokens before all others.
const FIRST: [&str; 3] = ["<unk>", "<s>", "</s>"];
/// A piece must occur so often.
const MIN_FREQUENCY: u64 = 3;

fn failed(what: impl std::fmt::Display) -> TrainError {
    TrainError::Data {
        what: format!("the tokenizer cannot be trained: {what}"),
        hint: "is the corpus empty?".to_string(),
    }
}

/// Case and compatibility forms are folded; spaces become word marks.
fn normalizer() -> Value {
    json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]})
}

/// Words begin with their mark; punctuation and digits stand alone, so that `dog:` and `dog.`
/// share their pieces with `dog`.
fn pre_tokenizer() -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true},
        {"type": "Punctuation", "behavior": "Isolated"},
        {"type": "Digits", "individual_digits": true},
    ]})
}

/// Words of a text, as the finished tokenizer will cut them.
fn words(
    text: &str,
    normalizer: &NormalizerWrapper,
    pre_tokenizer: &PreTokenizerWrapper,
) -> tokenizers::Result<Vec<String>> {
    let mut normalized = NormalizedString::from(text);
    normalizer.normalize(&mut normalized)?;
    let mut cut = PreTokenizedString::from(normalized.get());
    pre_tokenizer.pre_tokenize(&mut cut)?;
    let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_string()).collect())
}

/// What planner and text tower read: the Playroom's instructions, captions and answers, without
/// control tokens and references, and the frame around them.
fn corpus(world: &World) -> Vec<String> {
    let mut texts = world.text_corpus(&mut Generator::new(1).fork("tokenizer"), TEXTS);
    for text in &mut texts {
        for token in ControlTokens::ADDED {
            *text = text.replace(token, " ");
        }
        for number in 1..=9 {
            *text = text.replace(&format!("[{number}]"), " ");
        }
        *text = spaced(text);
    }
    let frames = align::DESCRIBE.lines().chain(generate::GENERATE.lines());
    texts.extend(frames.map(|line| line.replace("{x}", " ")));
    texts.extend(unknown::familiar().map(|name| format!(" {name}")));
    texts.extend(["USER: add", " ASSISTANT: Absolutely, its,"].map(String::from));
    texts
}

/// Writes `llm/tokenizer.json` of the model directory `model` from the Playroom in `data`.
pub fn write(data: &Path, model: &Path) -> Result<()> {
    let world = World::open(data).map_err(|e| TrainError::Data {
        what: e.to_string(),
        hint: any2pix_nn::Hint::hints(&e).join("; "),
    })?;
    let json = train(&corpus(&world), SIZE)?;
    let folder = model.join("llm");
    std::fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
    export::write_whole(&folder.join("tokenizer.json"), &json)
}

/// Trains on `texts` and returns a `tokenizer.json` of at most `size` tokens; the same texts
/// give the same bytes.
///
/// Ids: `<unk> <s> </s>`, 256 bytes, letters and merged pieces, then the nine control tokens.
pub fn train(texts: &[String], size: usize) -> Result<Vec<u8>> {
    let reserved = FIRST.len() + 256 + ControlTokens::ADDED.len();
    let parse = |e: serde_json::Error| failed(e);
    let normal: NormalizerWrapper = serde_json::from_value(normalizer()).map_err(parse)?;
    let cutter: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer()).map_err(parse)?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(size.saturating_sub(reserved))
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .build();
    trainer.feed(texts.iter(), |text| words(text, &normal, &cutter)).map_err(failed)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed)?;
    let trained = serde_json::to_value(&model).map_err(parse)?;
    let json = describe(&trained).ok_or_else(|| failed("no vocabulary came out"))?;
    let mut bytes = serde_json::to_vec_pretty(&json).map_err(parse)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The whole `tokenizer.json` around a trained vocabulary.
fn describe(trained: &Value) -> Option<Value> {
    let pieces: BTreeMap<u64, &String> = trained["vocab"]
        .as_object()?
        .iter()
        .map(|(piece, id)| Some((id.as_u64()?, piece)))
        .collect::<Option<_>>()?;
    let bytes = (0..256u32).map(|byte| format!("<0x{byte:02X}>"));
    let vocabulary: Vec<String> = FIRST
        .iter()
        .map(ToString::to_string)
        .chain(bytes)
        .chain(pieces.into_values().cloned())
        .collect();
    let count = vocabulary.len();
    let vocab: serde_json::Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, piece)| (piece, id.into())).collect();
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let first = FIRST.iter().enumerate().map(|(id, token)| special(id, token));
    let control =
        ControlTokens::ADDED.iter().enumerate().map(|(i, token)| special(count + i, token));
    Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": first.chain(control).collect::<Vec<_>>(),
        "normalizer": normalizer(),
        "pre_tokenizer": pre_tokenizer(),
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": trained["merges"],
        },
    }))
}

#[cfg(test)]
mod tests {
    use any2pix_llm::Tokenizer;

    use super::*;

    fn corpus() -> Vec<String> {
        let things = ["dog", "acoustic guitar", "cat", "bicycle", "top-left"];
        let mut texts = Vec::new();
        for a in things {
            for b in things {
                texts.push(format!("Add a {a} to the photo, and remove the {b}."));
                texts.push(format!("additions: {a}:"));
            }
        }
        texts
    }

    #[test]
    fn the_same_texts_give_the_same_bytes() {
        let first = train(&corpus(), 400).unwrap();
        for _ in 0..3 {
            assert_eq!(train(&corpus(), 400).unwrap(), first);
        }
    }

    #[test]
    fn frequent_words_are_one_piece_and_everything_can_be_written() {
        let tokenizer = Tokenizer::from_json(&train(&corpus(), 400).unwrap(), None).unwrap();
        assert!(tokenizer.vocab_size() <= 400);
        assert_eq!(tokenizer.encode_text(" guitar").unwrap().len(), 1);
        assert_eq!(
            tokenizer.encode_text(" Guitar").unwrap(),
            tokenizer.encode_text(" guitar").unwrap()
        );
        for text in ["a zither, ünïcode 你好 👩‍👩‍👧 <0x41>", "add a dog:dog. top-left 12"]
        {
            let ids = tokenizer.encode_text(text).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }

    #[test]
    fn no_text_is_a_control_token() {
        let tokenizer = Tokenizer::from_json(&train(&corpus(), 400).unwrap(), None).unwrap();
        let first_control = tokenizer.control().im_gen_start;
        for text in ["<video>", "＜video＞", "<BASE>", "</s>", "<s>", "<im_gen><video>"] {
            let ids = tokenizer.encode_text(text).unwrap();
            assert!(ids.iter().all(|id| *id > 2 && *id < first_control), "{text}: {ids:?}");
        }
    }
}
