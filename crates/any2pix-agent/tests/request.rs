//! The grammar of instructions: a table of hostile and of plain ones, and properties.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::path::PathBuf;

use any2pix_agent::request::{Bindings, MAX_CHARACTERS};
use any2pix_agent::{AgentError, EditRequest, EditSettings, ErrorClass, Instruction, Segment};
use proptest::prelude::*;

fn texts(instruction: &Instruction) -> String {
    let of = |segment: &Segment| match segment {
        Segment::Text(text) => text.clone(),
        Segment::Reference(index) => format!("<{index}>"),
    };
    instruction.segments.iter().map(of).collect()
}

#[test]
fn references_are_taken_out_in_order_and_once_each() {
    let cases: [(&str, &str, &[&str]); 9] = [
        ("add [a.wav] to [b.png]", "add <0> to <1>", &["a.wav", "b.png"]),
        ("swap [x] and [x] in [y]", "swap <0> and <0> in <1>", &["x", "y"]),
        (r"write \[sic\] on [a b.png]", "write [sic] on <0>", &["a b.png"]),
        (r"use [odd\]name\[.png]", "use <0>", &["odd]name[.png"]),
        (r"use [C:\pics\x.png]", "use <0>", &[r"C:\pics\x.png"]),
        (r"a \\ b \n c", r"a \ b \n c", &[]),
        ("[a][b] merge", "<0><1> merge", &["a", "b"]),
        // Control tokens and markers are words like any others.
        ("say </s> <video> <|im_end|> to [p]", "say </s> <video> <|im_end|> to <0>", &["p"]),
        (
            "\u{feff}добавь \u{202e}кота\u{200d} в [фото.png]",
            "\u{feff}добавь \u{202e}кота\u{200d} в <0>",
            &["фото.png"],
        ),
    ];
    for (text, expected, names) in cases {
        let instruction = Instruction::parse(text).unwrap();
        assert_eq!(texts(&instruction), expected, "{text}");
        assert_eq!(instruction.names, names, "{text}");
        assert_eq!(Instruction::parse(&instruction.to_string()).unwrap(), instruction, "{text}");
    }
}

#[test]
fn what_does_not_parse_is_pointed_at() {
    let cases = [
        ("add [a", 5, "never closed"),
        ("añadé [a", 7, "never closed"),
        ("add a] b", 6, "closes nothing"),
        ("add [[a]]", 6, "inside a reference"),
        ("add [] to it", 5, "without a name"),
        ("add [  ] to it", 5, "without a name"),
        ("add [a\0b] to it", 7, "NUL"),
        (r"add [a\] to it", 5, "never closed"),
    ];
    for (text, expected, words) in cases {
        match Instruction::parse(text) {
            Err(AgentError::Syntax { column, reason }) => {
                assert_eq!(column, expected, "{text}: {reason}");
                assert!(reason.contains(words), "{text}: {reason}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn an_instruction_without_words_is_refused() {
    for text in ["", "   ", "\n\n", "[a.png]", " [a.png] , [b.wav] ", "…!"] {
        assert!(matches!(Instruction::parse(text), Err(AgentError::EmptyInstruction)), "{text}");
    }
}

#[test]
fn limits_are_named() {
    let long = "a".repeat(MAX_CHARACTERS + 1);
    let message = Instruction::parse(&long).unwrap_err().to_string();
    assert!(message.contains("32001") && message.contains("32000"), "{message}");
    Instruction::parse(&long[1..]).unwrap();
    let many: String = (0..17).map(|n| format!("and [{n}.png] ")).collect();
    let message = Instruction::parse(&many).unwrap_err().to_string();
    assert!(message.contains("references") && message.contains("16"), "{message}");
    // The same picture seventeen times is one input.
    Instruction::parse(&"and [a.png] ".repeat(17)).unwrap();
}

fn parse(text: &str, bindings: &Bindings) -> Result<EditRequest, AgentError> {
    EditRequest::parse(text, bindings, EditSettings::default())
}

#[test]
fn names_are_bound_or_paths_and_files_are_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("odd]name.png");
    std::fs::write(&file, b"bytes").unwrap();
    let bindings = Bindings { images: vec![file.clone()], audios: vec![] };
    let request = parse("recolour [image1]", &bindings).unwrap();
    assert_eq!(&*request.references[0].bytes, b"bytes");
    assert!(bindings.unused(&request.instruction).is_empty());

    // The name of a bound file is never parsed again; a path needs the escape.
    let escaped = file.display().to_string().replace(']', "\\]");
    let request = parse(&format!("recolour [{escaped}]"), &bindings).unwrap();
    assert_eq!(request.references[0].path.as_deref(), Some(file.as_path()));
    assert_eq!(bindings.unused(&request.instruction), ["image1"]);

    for (text, words) in [
        ("recolour [image2]".to_string(), "nothing is bound"),
        ("recolour [image0]".to_string(), "nothing is bound"),
        ("play [audio1]".to_string(), "nothing is bound"),
        ("use [no such file.png]".to_string(), "cannot be read"),
        (format!("use [{}]", folder.path().display()), "a directory"),
        ("use [/dev/null]".to_string(), "not a regular file"),
    ] {
        let error = parse(&text, &bindings).unwrap_err();
        assert!(error.to_string().contains(words), "{text}: {error}");
        assert_eq!(error.class(), ErrorClass::Refused, "{text}");
    }
    let empty = folder.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let bindings = Bindings { images: vec![PathBuf::from(&empty)], audios: vec![] };
    assert!(parse("use [image1]", &bindings).unwrap_err().to_string().contains("is empty"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn printing_and_parsing_are_inverse(text in r"([a-z\[\]\\ é]|\PC){0,40}") {
        if let Ok(instruction) = Instruction::parse(&text) {
            prop_assert_eq!(Instruction::parse(&instruction.to_string()).unwrap(), instruction);
        }
    }

    #[test]
    fn any_name_survives_as_data(name in r"[^\x00]{0,20}[a-z]", word in "[a-z]{1,8}") {
        let instruction = Instruction {
            segments: vec![Segment::Text(word.clone()), Segment::Reference(0)],
            names: vec![name],
        };
        prop_assert_eq!(Instruction::parse(&instruction.to_string()).unwrap(), instruction);
    }
}
