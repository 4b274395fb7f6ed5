//! Decoding: cached, constrained, sampled.

use any2pix_llm::generation::{Constraint, GenerationConfig, Sampling, Unconstrained, generate};
use any2pix_llm::grammar::{PlanConstraint, PlanGrammar};
use any2pix_llm::llama::KvCache;
use any2pix_llm::plan::ParsedAnswer;
use any2pix_llm::{
    InstructAny2PixForCausalLM, LlamaConfig, LlmError, MediaKind, Piece, Planner, Tokenizer,
};
use any2pix_nn::{Checkpoint, Generator, Parameters};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::tokenizer::published;

fn config() -> Value {
    json!({
        "vocab_size": 709, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "mm_hidden_size": 12,
    })
}

fn model(seed: u64) -> (InstructAny2PixForCausalLM, Parameters) {
    let config = LlamaConfig::from_json(config().to_string().as_bytes()).unwrap();
    let parameters = Parameters::new(seed);
    let vb = parameters.builder(&Device::Cpu);
    (InstructAny2PixForCausalLM::load(vb, &config).unwrap(), parameters)
}

fn far_apart(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn reading_token_by_token_equals_reading_at_once() {
    let (model, _) = model(1);
    let ids = Tensor::new(&[[5u32, 9, 700, 14, 2, 33, 706]], &Device::Cpu).unwrap();
    let embeds = model.llama.embed(&ids).unwrap();
    let whole = model.llama.hidden_states(&embeds).unwrap();
    for split in [1, 3, 6] {
        let mut cache = KvCache::new();
        let head = embeds.narrow(1, 0, split).unwrap();
        let mut parts = vec![model.llama.hidden_states_cached(&head, &mut cache).unwrap()];
        for at in split..7 {
            let next = embeds.narrow(1, at, 1).unwrap();
            parts.push(model.llama.hidden_states_cached(&next, &mut cache).unwrap());
        }
        assert_eq!(cache.len(), 7);
        let parts = Tensor::cat(&parts, 1).unwrap();
        assert!(far_apart(&whole, &parts) < 1e-5, "split {split}");
    }
}

#[test]
fn each_state_gives_its_token() {
    let (model, _) = model(2);
    let ids = Tensor::new(&[[1u32, 40, 50]], &Device::Cpu).unwrap();
    let embeds = model.llama.embed(&ids).unwrap();
    let config =
        GenerationConfig { max_new_tokens: 6, eos_token_id: 2, sampling: Sampling::GREEDY };
    let answer =
        generate(&model, &embeds, &config, &mut Unconstrained, &mut Generator::new(0)).unwrap();
    let best = model.llama.logits(&answer.hidden_states).unwrap().argmax(1).unwrap();
    assert_eq!(best.to_vec1::<u32>().unwrap(), answer.ids);
}

#[test]
fn embeddings_are_added_where_their_tokens_stand() {
    let (model, _) = model(3);
    let ids = Tensor::new(&[[1u32, 706, 8], [706, 5, 706]], &Device::Cpu).unwrap();
    let media = Generator::new(1).randn((2, 12), &Device::Cpu).unwrap();
    let plain = model.llama.embed(&ids).unwrap();
    let with = model.inputs_embeds(&ids, &[1, 5], Some(&media)).unwrap();
    let added = (with - plain).unwrap().reshape((6, 32)).unwrap();
    let projected = model.project(&media).unwrap();
    for (row, source) in [(1, Some(0)), (5, Some(1)), (0, None), (3, None)] {
        let expected = match source {
            Some(index) => projected.get(index).unwrap(),
            None => projected.get(0).unwrap().zeros_like().unwrap(),
        };
        assert!(far_apart(&added.get(row).unwrap(), &expected) < 1e-6, "row {row}");
    }
}

fn playroom_like() -> PlanGrammar {
    serde_json::from_value(json!({
        "sections": [
            {"key": "operation", "values": ["add", "add and remove", "look"]},
            {"key": "additions", "slot": true},
            {"key": "removals", "slot": true},
            {"key": "look"},
            {"key": "place", "values": ["left", "right"]},
        ],
        "max_caption": 20, "max_name": 6, "max_subjects": 2,
    }))
    .unwrap()
}

#[test]
fn a_constrained_answer_of_an_untrained_model_is_a_plan() {
    let tokenizer = published();
    let published_form = PlanGrammar { max_caption: 30, max_name: 8, ..PlanGrammar::published() };
    for (seed, grammar) in (0..12)
        .map(|seed| (seed, if seed % 2 == 0 { playroom_like() } else { published_form.clone() }))
    {
        let (model, _) = model(seed);
        let prompt = Tensor::new(&[[1u32, 30 + seed as u32]], &Device::Cpu).unwrap();
        let preamble = "Absolutely, its,";
        let config = GenerationConfig {
            max_new_tokens: grammar.longest_answer(preamble),
            eos_token_id: 2,
            sampling: Sampling { temperature: 3.0, top_k: 0, top_p: 1.0 },
        };
        let mut constraint = PlanConstraint::new(&grammar, &[], preamble, &tokenizer);
        let embeds = model.llama.embed(&prompt).unwrap();
        let mut generator = Generator::new(seed);
        let answer = generate(&model, &embeds, &config, &mut constraint, &mut generator).unwrap();
        let text = tokenizer.decode(&answer.ids);
        assert!(constraint.is_complete(), "{text}");
        let parsed =
            ParsedAnswer::parse(&answer.ids, &tokenizer.control(), |ids| tokenizer.decode(ids));
        let parsed = parsed.unwrap();
        assert!(!parsed.caption.is_empty(), "{text}");
        let videos = answer.ids.iter().filter(|id| **id == tokenizer.control().video).count();
        let slots = 1 + usize::from(parsed.base.is_some());
        assert_eq!(videos, slots + parsed.additions.len() + parsed.removals.len(), "{text}");
    }
}

#[test]
fn the_grammar_takes_what_the_model_is_trained_to_write() {
    let tokenizer = published();
    let grammar = playroom_like();
    for (text, accepted) in [
        (
            "<base><video><im_gen_start><im_gen>[a dog]<video>operation:add.additions:dog:<video>.place:left.</s>",
            true,
        ),
        ("<base_null><im_gen_start><im_gen>[a dog]<video></s>", true),
        ("<base_null><video><im_gen_start><im_gen>[a dog]<video></s>", false),
        ("<base><video><im_gen_start><im_gen>[]<video></s>", false),
        ("<base><video><im_gen_start><im_gen>[a]<video>place:up.</s>", false),
        ("<base><video><im_gen_start><im_gen>[a]<video>place:left.place:left.</s>", false),
        ("<base><video><im_gen_start><im_gen>[a]<video>additions:dog:<video></s>", false),
        ("<base><video><im_gen_start><im_gen>[a]<video>additions:dog.</s>", false),
    ] {
        let text = format!("Absolutely, its,{text}");
        let ids = tokenizer.encode_continuation(&tokenizer.trusted_segments(&text), true).unwrap();
        assert_eq!(is_walked(&ids, &grammar, &[], &tokenizer), accepted, "{text}");
    }
}

#[test]
fn the_published_grammar_takes_the_published_control_sequence() {
    let (tokenizer, grammar) = (published(), PlanGrammar::published());
    for (text, accepted) in [
        ("<base><video><im_gen_start><im_gen>[a shop]<video></s>", true),
        ("<base_null><im_gen_start><im_gen>[a shop]<video></s>", true),
        ("<base><video><im_gen_start><im_gen>[a shop]<video>additions:clock:<video>.</s>", true),
        (
            "<base><video><im_gen_start><im_gen>[a]<video>additions:cat:<video>.old dog:<video>.</s>",
            true,
        ),
        ("<base><video><im_gen_start><im_gen>[a]<video>clock:<video>.</s>", false),
        ("<base><video><im_gen_start><im_gen>[a]<video>removals:clock:<video>.</s>", false),
        ("<base><im_gen_start><im_gen>[a]<video></s>", false),
        ("<base><video><im_gen_start><im_gen>a<video></s>", false),
    ] {
        let text = format!("Absolutely, its,{text}");
        let segments = tokenizer.trusted_segments(&text);
        let ids = tokenizer.encode_continuation(&segments, true).unwrap();
        assert_eq!(is_walked(&ids, &grammar, &[], &tokenizer), accepted, "{text}");
    }
}

/// Whether an answer is one that the grammar takes.
fn is_walked(ids: &[u32], grammar: &PlanGrammar, names: &[String], tokenizer: &Tokenizer) -> bool {
    let mut constraint = PlanConstraint::new(grammar, names, "Absolutely, its,", tokenizer);
    let mut walked = true;
    for &id in ids {
        walked &= constraint.allows(id);
        constraint.advance(id);
    }
    walked && constraint.is_complete()
}

#[test]
fn known_names_are_the_only_ones_and_each_is_written_once() {
    let (tokenizer, grammar) = (published(), playroom_like());
    let names = ["dog", "fire truck"].map(str::to_string);
    for (sections, accepted) in [
        ("additions:dog:<video>.", true),
        ("additions: fire truck:<video>.removals: dog:<video>.", true),
        ("additions:cat:<video>.", false),
        ("additions:do:<video>.", false),
        ("additions:dog:<video>.removals:dog:<video>.", false),
        ("additions:dog:<video>.additions:fire truck:<video>.removals:dog:<video>.", false),
        ("operation:add.", true),
    ] {
        let text = format!(
            "Absolutely, its,<base><video><im_gen_start><im_gen>[a dog]<video>{sections}</s>"
        );
        let ids = tokenizer.encode_continuation(&tokenizer.trusted_segments(&text), true).unwrap();
        assert_eq!(is_walked(&ids, &grammar, &names, &tokenizer), accepted, "{sections}");
    }
}

#[test]
fn sampling_keeps_to_its_limits() {
    let candidates: Vec<(u32, f32)> = vec![(0, 0.0), (1, 3.0), (2, 2.9), (3, -1.0)];
    let mut generator = Generator::new(9);
    let mut seen = |sampling: Sampling| -> Vec<u32> {
        let mut ids: Vec<u32> =
            (0..200).filter_map(|_| sampling.draw(&candidates, &mut generator)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    assert_eq!(seen(Sampling::GREEDY), [1]);
    assert_eq!(seen(Sampling { temperature: 1.0, top_k: 2, top_p: 1.0 }), [1, 2]);
    assert_eq!(seen(Sampling { temperature: 1.0, top_k: 0, top_p: 0.4 }), [1]);
    assert_eq!(seen(Sampling { temperature: 9.0, top_k: 0, top_p: 1.0 }), [0, 1, 2, 3]);
    assert_eq!(Sampling::GREEDY.draw(&[], &mut Generator::new(0)), None);
}

fn planner() -> Planner {
    let (_, parameters) = model(4);
    let weights = Checkpoint::from_tensors("test", parameters.tensors());
    let tokenizer =
        std::fs::read(crate::goldens().join("tokenizers/llama_any2pix/tokenizer.json")).unwrap();
    let config = config().to_string();
    Planner::load((config.as_bytes(), &tokenizer), &weights, None, DType::F32, &Device::Cpu)
        .unwrap()
}

#[test]
fn a_plan_points_at_references_that_there_are() {
    let planner = planner();
    let picture = Piece::Media(1, MediaKind::Image);
    let sound = Piece::Media(0, MediaKind::Audio);
    let instruction =
        [Piece::Text("add ".into()), sound, Piece::Text(" to ".into()), picture.clone(), picture];
    let embeddings = [vec![0.5; 12], vec![-1.0; 12]];
    let plan = planner.plan(&instruction, &embeddings).unwrap();
    assert_eq!(plan, planner.plan(&instruction, &embeddings).unwrap());
    assert!(plan.base.is_none_or(|base| base.reference == 1));
    assert_eq!(plan.gen_embedding.len(), 12);
}

#[test]
fn instructions_that_cannot_be_planned_are_refused_with_their_counts() {
    let planner = planner();
    let text = |n: usize| [Piece::Text("a".repeat(n))];
    let too_long = planner.plan(&text(32_001), &[]);
    assert!(matches!(too_long, Err(LlmError::InstructionTooLong { bytes: 32_001, .. })));
    let no_room = planner.plan(&text(9_000), &[]);
    assert!(matches!(no_room, Err(LlmError::ContextTooShort { context: 2048, .. })));
    let no_reference = planner.plan(&[Piece::Media(1, MediaKind::Image)], &[vec![0.0; 12]]);
    assert!(matches!(no_reference, Err(LlmError::NoSuchReference { index: 1, count: 1 })));
    let narrow = planner.plan(&[Piece::Media(0, MediaKind::Image)], &[vec![0.0; 11]]);
    assert!(matches!(narrow, Err(LlmError::EmbeddingWidth { index: 0, width: 11, expected: 12 })));
}

#[test]
fn configs_that_cannot_be_are_refused_by_their_key() {
    for (key, value) in [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(6)),
        ("num_key_value_heads", json!(3)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("hidden_act", json!("relu")),
        ("rope_scaling", json!({"type": "linear"})),
    ] {
        let mut config = config();
        config[key] = value;
        let error = LlamaConfig::from_json(config.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}
