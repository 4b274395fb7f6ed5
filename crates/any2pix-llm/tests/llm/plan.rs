//! Answers taken apart and made into plans.

use any2pix_llm::plan::{EditPlan, Operation, ParsedAnswer, References, cosine, nearest};
use any2pix_llm::{LlmError, MediaKind};
use any2pix_nn::Generator;

use crate::tokenizer::published;

fn ids(text: &str) -> Vec<u32> {
    let tokenizer = published();
    tokenizer.encode_continuation(&tokenizer.trusted_segments(text), true).unwrap()
}

fn parse(text: &str) -> Result<ParsedAnswer, LlmError> {
    let tokenizer = published();
    ParsedAnswer::parse(&ids(text), &tokenizer.control(), |ids| tokenizer.decode(ids))
}

fn names(list: &[(String, usize)]) -> Vec<&str> {
    list.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn answers_are_taken_apart() {
    type Row<'a> = (&'a str, bool, &'a str, &'a [&'a str], &'a [&'a str], &'a [(&'a str, &'a str)]);
    let head = "Absolutely, its,<base><video><im_gen_start><im_gen>";
    let table: [Row; 8] = [
        ("[a dog in a park]<video></s>", true, "a dog in a park", &[], &[], &[]),
        ("[a]<video>additions:dog:<video>.</s>", true, "a", &["dog"], &[], &[]),
        (
            "[a]<video>additions:dog:<video>.additions:cat:<video>.",
            true,
            "a",
            &["dog", "cat"],
            &[],
            &[],
        ),
        (
            "[a]<video>removals:cat:<video>.additions:dog:<video>.place:left.",
            true,
            "a",
            &["dog"],
            &["cat"],
            &[("place", "left")],
        ),
        (
            "[a]<video>operation:add.place:left.additions:dog:<video>.look:night.</s>",
            true,
            "a",
            &["dog"],
            &[],
            &[("operation", "add"), ("place", "left"), ("look", "night")],
        ),
        (
            "[a]<video>operation:add and remove.</s>additions:x:<video>.",
            true,
            "a",
            &[],
            &[],
            &[("operation", "add and remove")],
        ),
        ("<video></s>", true, "", &[], &[], &[]),
        ("[[a] b]<video>dog:<video>.", true, "[a", &[], &[], &[]),
    ];
    for (tail, has_base, caption, additions, removals, words) in table {
        let parsed = parse(&format!("{head}{tail}")).unwrap();
        assert_eq!(parsed.base.is_some(), has_base, "{tail}");
        assert_eq!(parsed.caption, caption, "{tail}");
        assert_eq!(names(&parsed.additions), additions, "{tail}");
        assert_eq!(names(&parsed.removals), removals, "{tail}");
        for (key, value) in words {
            assert_eq!(parsed.word(key), Some(*value), "{tail}");
        }
    }
    let none = parse("Absolutely, its,<base_null><im_gen_start><im_gen>[a]<video></s>").unwrap();
    assert_eq!(none.base, None);
}

#[test]
fn the_last_im_gen_is_the_anchor() {
    let text = "<base><video><im_gen>[a]<video><im_gen>[b]<video></s>";
    let parsed = parse(text).unwrap();
    assert_eq!(parsed.caption, "b");
    assert_eq!(parsed.gen_slot, ids(text).len() - 2);
}

#[test]
fn refusals_name_what_is_missing() {
    for (text, token) in [
        ("I cannot do that.</s>", "<im_gen>"),
        ("", "<im_gen>"),
        ("<base><video><im_gen_start><im_gen>[a]</s>", "<video>"),
        ("<base><im_gen_start><im_gen>[a]<video></s>", "<video>"),
        ("<im_gen_start><im_gen>[a]<video></s>", "<base>"),
        ("</s><base><video><im_gen_start><im_gen>[a]<video>", "<im_gen>"),
    ] {
        match parse(text) {
            Err(LlmError::Refusal { missing, .. }) => assert_eq!(missing, token, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn any_token_stream_is_parsed_or_refused() {
    let tokenizer = published();
    let control = tokenizer.control();
    let frequent = [
        control.video,
        control.im_gen,
        control.base,
        control.eos,
        control.base_null,
        control.bos,
        control.im_gen_start,
    ];
    let words = ids("additions:removals:operation:place:.[]");
    let mut generator = Generator::new(5);
    let (mut parsed, mut refused) = (0, 0);
    for _ in 0..3000 {
        let length = generator.below(24);
        let stream: Vec<u32> = (0..length)
            .map(|_| match generator.below(4) {
                0 | 1 => *generator.choose(&frequent).unwrap(),
                2 => *generator.choose(&words).unwrap(),
                _ => generator.below(800) as u32,
            })
            .collect();
        match ParsedAnswer::parse(&stream, &control, |ids| tokenizer.decode(ids)) {
            Ok(answer) => {
                parsed += 1;
                assert_eq!(stream[answer.gen_slot], control.video);
                for (_, step) in answer.additions.iter().chain(&answer.removals) {
                    assert_eq!(stream[*step], control.video);
                    assert!(*step > answer.gen_slot);
                }
            }
            Err(LlmError::Refusal { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(parsed > 50 && refused > 50, "{parsed} parsed, {refused} refused");
}

#[test]
fn the_base_is_a_picture_and_a_subject_is_not_the_base() {
    let tokenizer = published();
    let text = "<base><video><im_gen_start><im_gen>[a]<video>\
                additions:dog:<video>.additions:cat:<video>.operation:add.</s>";
    let ids = ids(text);
    let embeddings = [vec![1.0, 0.0, 0.0], vec![0.9, 0.1, 0.0], vec![0.0, 0.0, 1.0]];
    let kinds = [MediaKind::Audio, MediaKind::Image, MediaKind::Audio];
    let mentions = [1; 3];
    let references =
        References { embeddings: &embeddings, kinds: &kinds, mentions: &mentions, min_cosine: 0.6 };
    let steps: Vec<usize> =
        (0..ids.len()).filter(|k| ids[*k] == tokenizer.control().video).collect();
    let slots = |step: usize| {
        Ok(match steps.iter().position(|s| *s == step).unwrap() {
            0 => vec![1.0, 0.0, 0.0], // nearest is the sound; the picture must win
            1 => vec![0.5, 0.5, 0.5],
            2 => vec![0.9, 0.1, 0.05], // nearest is the base; another is near enough
            _ => vec![0.0, 1.0, 0.0],  // near to nothing
        })
    };
    let plan = EditPlan::read(&ids, slots, &tokenizer, &references).unwrap();
    assert_eq!(plan.base.unwrap().reference, 1);
    assert_eq!(plan.gen_embedding, [0.5, 0.5, 0.5]);
    assert_eq!(plan.additions[0].reference, Some(0));
    assert_eq!(plan.additions[1].reference, None);
    assert_eq!(plan.operation, Some(Operation::Add));

    let sounds = References { kinds: &[MediaKind::Audio; 3], ..references };
    let refused = EditPlan::read(&ids, slots, &tokenizer, &sounds);
    assert!(matches!(refused, Err(LlmError::NoBaseImage)));
}

#[test]
fn a_reference_stands_for_one_subject_a_mention() {
    let tokenizer = published();
    let text = "<base><video><im_gen_start><im_gen>[a]<video>\
                additions:dog:<video>.removals:cat:<video>.operation:replace.</s>";
    let ids = ids(text);
    let embeddings = [vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]];
    let kinds = [MediaKind::Image, MediaKind::Image];
    let steps: Vec<usize> =
        (0..ids.len()).filter(|k| ids[*k] == tokenizer.control().video).collect();
    let slots = |step: usize| {
        Ok(match steps.iter().position(|s| *s == step).unwrap() {
            0 | 1 => vec![1.0, 0.0, 0.0],
            2 => vec![0.0, 0.8, 0.6],
            _ => vec![0.0, 0.9, 0.1], // nearer to the reference than the addition is
        })
    };
    let read = |mentions: &[usize]| {
        let references =
            References { embeddings: &embeddings, kinds: &kinds, mentions, min_cosine: 0.6 };
        let plan = EditPlan::read(&ids, slots, &tokenizer, &references).unwrap();
        (plan.additions[0].reference, plan.removals[0].reference)
    };
    assert_eq!(read(&[1, 1]), (None, Some(1)));
    assert_eq!(read(&[1, 2]), (Some(1), Some(1)));
}

#[test]
fn operations_have_one_word_each() {
    for (operation, word) in Operation::WORDS {
        assert_eq!(Operation::from_word(word), Some(operation));
        assert_eq!(operation.word(), word);
    }
    assert_eq!(Operation::from_word("explode"), None);
}

#[test]
fn cosine_of_nothing_is_zero() {
    assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    assert_eq!(nearest(&[1.0], std::iter::empty()), None);
}
