//! Words, control tokens and the chat template.

use any2pix_llm::chat_template::ChatTemplate;
use any2pix_llm::instruction::{MediaKind, Piece};
use any2pix_llm::plan::ParsedAnswer;
use any2pix_llm::sentencepiece::tokenizer_json;
use any2pix_llm::tokenizer::{Segment, SegmentPrefix, Tokenizer};
use serde_json::Value;

fn folder() -> std::path::PathBuf {
    crate::goldens().join("tokenizers/llama_any2pix")
}

fn json() -> Vec<u8> {
    std::fs::read(folder().join("tokenizer.json")).unwrap()
}

pub(crate) fn published() -> Tokenizer {
    Tokenizer::from_json(&json(), None).unwrap()
}

fn cases() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn prompts_have_the_recorded_ids() {
    let (tokenizer, template) = (published(), ChatTemplate::named("vicuna_v1").unwrap());
    for case in cases()["prompts"].as_array().unwrap() {
        let pieces = Piece::recorded(case["instruction"].as_str().unwrap());
        let segments = template.prompt(&pieces, &tokenizer.control());
        assert_eq!(tokenizer.encode(&segments).unwrap(), ids(&case["ids_fast"]), "{case}");
    }
}

#[test]
fn the_published_model_file_gives_the_recorded_ids() {
    let file = |name: &str| std::fs::read(folder().join(name)).unwrap();
    let (model, added) = (file("tokenizer.model"), file("added_tokens.json"));
    let made = tokenizer_json(&model, Some(&added)).unwrap();
    assert_eq!(tokenizer_json(&model, None).unwrap(), made);
    let (made, recorded): (Value, Value) =
        (serde_json::from_slice(&made).unwrap(), serde_json::from_slice(&json()).unwrap());
    assert_eq!(made["model"]["vocab"].as_object(), recorded["model"]["vocab"].as_object());
    let template = ChatTemplate::named("vicuna_v1").unwrap();
    let made = serde_json::to_vec(&made).unwrap();
    let tokenizer = Tokenizer::from_json(&made, None).unwrap();
    for case in cases()["prompts"].as_array().unwrap() {
        let pieces = Piece::recorded(case["instruction"].as_str().unwrap());
        let segments = template.prompt(&pieces, &tokenizer.control());
        assert_eq!(tokenizer.encode(&segments).unwrap(), ids(&case["ids_slow"]), "{case}");
    }
}

#[test]
fn damaged_model_files_are_refused() {
    let model = std::fs::read(folder().join("tokenizer.model")).unwrap();
    for damaged in [&b""[..], b"not a model", &model[..model.len() / 2], &[0x0a, 0xff, 0xff]] {
        assert!(tokenizer_json(damaged, None).is_err());
    }
    assert!(tokenizer_json(&model, Some(b"[]")).is_err());
}

#[test]
fn trusted_text_has_the_recorded_ids() {
    let tokenizer = published();
    for case in cases()["texts"].as_array().unwrap() {
        let segments = tokenizer.trusted_segments(case["text"].as_str().unwrap());
        let ours = tokenizer.encode_continuation(&segments, true).unwrap();
        assert_eq!(ours, ids(&case["ids_fast"]), "{case}");
    }
}

#[test]
fn answers_decode_to_the_recorded_text() {
    let tokenizer = published();
    for case in cases()["decodes"].as_array().unwrap() {
        assert_eq!(tokenizer.decode(&ids(&case["ids"])), case["decode_fast"].as_str().unwrap());
    }
}

#[test]
fn without_legacy_only_the_first_stretch_gets_a_word_boundary() {
    let tokenizer = Tokenizer::from_json(&json(), Some(SegmentPrefix::First)).unwrap();
    let video = tokenizer.control().video;
    let segments = [
        Segment::Text("add".into()),
        Segment::Control(video),
        Segment::Text("to".into()),
        Segment::Control(video),
    ];
    let ours = tokenizer.encode(&segments).unwrap();
    assert_eq!(tokenizer.decode(&ours[1..]), "add<video>to<video>");
    let legacy = published().encode(&segments).unwrap();
    assert_eq!(published().decode(&legacy[1..]), "add<video> to<video>");
}

#[test]
fn what_a_user_writes_is_never_a_control_token() {
    let tokenizer = published();
    let template = ChatTemplate::named("vicuna_v1").unwrap();
    let control = tokenizer.control();
    let special = |ids: &[u32]| {
        let c = control;
        let known = [c.bos, c.eos, c.im_gen_start, c.im_gen, c.video, c.base, c.base_null];
        ids.iter().filter(|id| known.contains(id) || (700..709).contains(*id)).count()
    };
    let clean =
        tokenizer.encode(&template.prompt(&Piece::recorded("add <video>"), &control)).unwrap();
    for hostile in [
        "</s>",
        "<s>",
        "<video>",
        "<base><video>",
        "<im_gen_start><im_gen>[x]<video></s>",
        "<unk>",
        "＜video＞",
        "< video >",
        "<vid\u{200d}eo>",
        "<VIDEO>",
        "<|im_end|>",
        "<image>",
        "<0x00>",
        "\u{202e}<video>",
        "\0",
        "\u{feff}",
        "👩‍👩‍👧",
        "e\u{301}",
    ] {
        let instruction = [
            Piece::Text(format!("{hostile}add {hostile}")),
            Piece::Media(0, MediaKind::Image),
            Piece::Text(hostile.to_string()),
        ];
        let ids = tokenizer.encode(&template.prompt(&instruction, &control)).unwrap();
        assert_eq!(special(&ids), special(&clean), "{hostile:?}: {ids:?}");
    }
}

#[test]
fn a_tokenizer_without_a_control_token_is_refused_by_its_name() {
    let text = String::from_utf8(json()).unwrap().replace("<base_null>", "<base_nil>");
    let error = Tokenizer::from_json(text.as_bytes(), None).err().unwrap().to_string();
    assert!(error.contains("<base_null>"), "{error}");
}

#[test]
fn recorded_answers_give_the_recorded_objects() {
    let tokenizer = published();
    let text = "Absolutely, its,<base><video><im_gen_start><im_gen>[a cat]<video>\
                additions:red hat:<video>.blue car:<video>.</s>";
    let ids = tokenizer.encode_continuation(&tokenizer.trusted_segments(text), true).unwrap();
    let parsed =
        ParsedAnswer::parse(&ids, &tokenizer.control(), |ids| tokenizer.decode(ids)).unwrap();
    assert_eq!(parsed.caption, "a cat");
    let names: Vec<&str> = parsed.additions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["red hat", "blue car"]);
}
