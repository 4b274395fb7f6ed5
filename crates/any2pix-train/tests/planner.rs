//! The planner's loss: what it is shown twice it knows by heart.
#![allow(clippy::unwrap_used, reason = "a test fails by unwrapping")]

use any2pix_llm::{Embedding, MediaKind, Operation, Piece};
use any2pix_nn::Generator;
use any2pix_train::optimizer::{AdamW, AdamWSettings};
use any2pix_train::recipes::language::{AnswerPart, Example, LanguageLoss, LanguageModel};
use any2pix_train::recipes::tokenizer;
use serde_json::json;

const WIDTH: usize = 24;

fn embedding(seed: u64) -> Embedding {
    let mut generator = Generator::new(seed);
    let raw: Vec<f32> = (0..WIDTH).map(|_| generator.normal()).collect();
    let norm = raw.iter().map(|v| v * v).sum::<f32>().sqrt();
    raw.iter().map(|v| v / norm * 20.0).collect()
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_string())
}

fn answer(text: &str) -> AnswerPart {
    AnswerPart::Text(text.to_string())
}

/// A sound added to a picture, and an object in words taken out of the other of two pictures.
fn examples() -> Vec<Example> {
    let (bark, park, beach) = (embedding(1), embedding(2), embedding(3));
    vec![
        Example {
            instruction: vec![
                text("add "),
                Piece::Media(0, MediaKind::Audio),
                text(" to "),
                Piece::Media(1, MediaKind::Image),
                text(" on the left"),
            ],
            references: vec![bark.clone(), park.clone()],
            answer: vec![
                answer("Absolutely, its,<base>"),
                AnswerPart::Slot(Some(park.clone())),
                answer("<im_gen_start><im_gen>[a dog in a park]"),
                AnswerPart::Slot(Some(embedding(4))),
                answer("additions: dog:"),
                AnswerPart::Slot(Some(bark)),
                answer(".place:LEFT.operation:add."),
            ],
        },
        Example {
            instruction: vec![
                text("take the cat out of "),
                Piece::Media(0, MediaKind::Image),
                text(" and make it look like "),
                Piece::Media(1, MediaKind::Image),
            ],
            references: vec![beach.clone(), park],
            answer: vec![
                answer("Absolutely, its,<base>"),
                AnswerPart::Slot(Some(beach)),
                answer("<im_gen_start><im_gen>[a beach]"),
                AnswerPart::Slot(Some(embedding(5))),
                answer("removals: cat:"),
                AnswerPart::Slot(Some(embedding(6))),
                answer(".operation:remove."),
            ],
        },
    ]
}

fn tokenizer_json() -> Vec<u8> {
    let said = [
        "user: add to on the left assistant: absolutely, its, a dog in a park additions: dog:",
        "user: take the cat out of and make it look like assistant: a beach removals: cat:",
        "place:left. operation:add. operation:remove.",
    ];
    let corpus: Vec<String> = said.iter().cycle().take(30).map(ToString::to_string).collect();
    tokenizer::train(&corpus, 400).unwrap()
}

fn model() -> LanguageModel {
    let config = json!({
        "vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 700, "rms_norm_eps": 1e-5,
        "mm_hidden_size": WIDTH, "tie_word_embeddings": true, "chat_template": "playroom",
        "retrieval_min_cosine": 0.5,
        "plan_grammar": {
            "sections": [
                {"key": "additions", "slot": true},
                {"key": "removals", "slot": true},
                {"key": "place", "values": ["LEFT", "RIGHT"]},
                {"key": "operation", "values": ["add", "remove"]},
            ],
        },
    });
    LanguageModel::new(config.to_string().as_bytes(), tokenizer_json(), 3).unwrap()
}

#[test]
fn two_examples_are_learned_by_heart_and_planned() {
    let language = model();
    let examples = examples();
    let batch = language.frame().unwrap().batch(&examples).unwrap();
    assert_eq!(batch.len(), 2);
    let settings =
        AdamWSettings { betas: (0.9, 0.99), epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 };
    let mut adam = AdamW::new(&language.parameters, settings);
    for _ in 0..200 {
        let loss = LanguageLoss::of(&language.model, &batch).unwrap();
        adam.step(&loss.total(1.0).unwrap().backward().unwrap(), 3e-3).unwrap();
    }
    let loss = LanguageLoss::of(&language.model, &batch).unwrap();
    assert!(loss.right > 0.99 && loss.cosine > 0.99, "{} {}", loss.right, loss.cosine);

    let planner = language.planner().unwrap();
    let plan = |i: usize| planner.plan(&examples[i].instruction, &examples[i].references).unwrap();
    let add = plan(0);
    assert_eq!(add.operation, Some(Operation::Add));
    assert_eq!(add.base.unwrap().reference, 1);
    assert_eq!(add.caption, "a dog in a park");
    assert_eq!(add.additions[0].name, "dog");
    assert_eq!(add.additions[0].reference, Some(0));
    assert_eq!(add.place.as_deref(), Some("LEFT"));
    assert!(any2pix_llm::plan::cosine(&add.gen_embedding, &embedding(4)) > 0.98);
    let remove = plan(1);
    assert_eq!(remove.operation, Some(Operation::Remove));
    assert_eq!(remove.base.unwrap().reference, 0);
    assert_eq!(remove.removals[0].name, "cat");
    assert_eq!(remove.removals[0].reference, None);
}

#[test]
fn padding_does_not_change_the_loss() {
    let language = model();
    let frame = language.frame().unwrap();
    let examples = examples();
    let alone = |i: usize| {
        let batch = frame.batch(&examples[i..=i]).unwrap();
        LanguageLoss::of(&language.model, &batch).unwrap()
    };
    let together = LanguageLoss::of(&language.model, &frame.batch(&examples).unwrap()).unwrap();
    // Both have three slots, so the mean over slots is the mean of the two.
    let value = |loss: &LanguageLoss| loss.embedding.as_ref().unwrap().to_scalar::<f32>().unwrap();
    let mean = (value(&alone(0)) + value(&alone(1))) / 2.0;
    assert!((value(&together) - mean).abs() < 1e-5);
}
