//! Golden cases of this crate: `any2pix_lm`, `formats` and the tokenizer of the published model.

mod formats;

use any2pix_nn::golden::{GoldenCase, Outputs, Row};
use any2pix_nn::{CheckpointError, Generator};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::chat_template::ChatTemplate;
use crate::config::LlamaConfig;
use crate::error::LlmError;
use crate::generation::{GenerationConfig, Sampling, Unconstrained, generate};
use crate::instruction::Piece;
use crate::model::InstructAny2PixForCausalLM;
use crate::plan::nearest;
use crate::tokenizer::Tokenizer;

/// The ids that a case's `config.json` gives.
#[derive(Deserialize)]
struct AddedTokens {
    #[serde(rename = "<im_gen>")]
    im_gen: u32,
    #[serde(rename = "<video>")]
    video: u32,
    #[serde(rename = "<base>")]
    base: u32,
}

#[derive(Deserialize)]
struct CaseConfig {
    added_tokens: AddedTokens,
}

/// Runs `case` when its component lives in this crate.
pub fn run(case: &GoldenCase) -> Option<Result<Outputs, LlmError>> {
    match case.meta.component.as_str() {
        "any2pix_lm" => Some(language_model(case)),
        "formats" => Some(formats::run(case)),
        _ => None,
    }
}

/// Compares `case` when it records a tokenizer of this crate: texts and ids, not tensors.
pub fn compare_texts(case: &GoldenCase) -> Option<Result<Vec<Row>, LlmError>> {
    let ours = case.meta.component == "tokenizers" && case.dir.join("tokenizer.json").is_file();
    ours.then(|| tokenizer(case))
}

fn malformed(case: &GoldenCase, error: &serde_json::Error) -> LlmError {
    malformed_file(case, "config.json", error)
}

fn malformed_file(case: &GoldenCase, file: &str, error: &serde_json::Error) -> LlmError {
    let origin = case.dir.join(file).display().to_string();
    LlmError::Checkpoint(CheckpointError::Malformed { origin, reason: error.to_string() })
}

/// `cases.json` of a tokenizer's case.
#[derive(Deserialize)]
struct TextCases {
    prompts: Vec<PromptCase>,
    texts: Vec<TextCase>,
    decodes: Vec<DecodeCase>,
}

#[derive(Deserialize)]
struct PromptCase {
    instruction: String,
    ids_fast: Vec<u32>,
}

#[derive(Deserialize)]
struct TextCase {
    text: String,
    ids_fast: Vec<u32>,
}

#[derive(Deserialize)]
struct DecodeCase {
    ids: Vec<u32>,
    decode_fast: String,
}

fn tokenizer(case: &GoldenCase) -> Result<Vec<Row>, LlmError> {
    let file = |name: &str| {
        let path = case.dir.join(name);
        std::fs::read(&path)
            .map_err(|source| LlmError::Checkpoint(CheckpointError::Unreadable { path, source }))
    };
    let tokenizer = Tokenizer::from_json(&file("tokenizer.json")?, None)?;
    let template = ChatTemplate::named("vicuna_v1")?;
    let cases: TextCases = serde_json::from_slice(&file("cases.json")?)
        .map_err(|e| malformed_file(case, "cases.json", &e))?;
    let mut rows = Vec::new();
    let mut row = |name: String, ours: Vec<u32>, reference: Vec<u32>| -> Result<(), LlmError> {
        let tensor = |ids: Vec<u32>| Tensor::new(ids, &Device::Cpu);
        rows.push(case.compare_one(&name, &tensor(ours)?, &tensor(reference)?)?);
        Ok(())
    };
    for (i, prompt) in cases.prompts.into_iter().enumerate() {
        let segments = template.prompt(&Piece::recorded(&prompt.instruction), &tokenizer.control());
        row(format!("prompts.{i}"), tokenizer.encode(&segments)?, prompt.ids_fast)?;
    }
    for (i, text) in cases.texts.into_iter().enumerate() {
        let segments = tokenizer.trusted_segments(&text.text);
        row(format!("texts.{i}"), tokenizer.encode_continuation(&segments, true)?, text.ids_fast)?;
    }
    for (i, answer) in cases.decodes.into_iter().enumerate() {
        let codes = |text: &str| text.chars().map(u32::from).collect();
        let ours = tokenizer.decode(&answer.ids);
        row(format!("decodes.{i}"), codes(&ours), codes(&answer.decode_fast))?;
    }
    Ok(rows)
}

fn language_model(case: &GoldenCase) -> Result<Outputs, LlmError> {
    let config: LlamaConfig =
        serde_json::from_value(case.config.clone()).map_err(|e| malformed(case, &e))?;
    config.check()?;
    let tokens: CaseConfig =
        serde_json::from_value(case.config.clone()).map_err(|e| malformed(case, &e))?;
    let tokens = tokens.added_tokens;
    let weights = case.weights()?;
    let device = Device::Cpu;
    let model = InstructAny2PixForCausalLM::load(weights.builder(DType::F32, &device), &config)?;
    let ignored = InstructAny2PixForCausalLM::ignored_prefixes(&config);
    weights.finish(&ignored.iter().map(String::as_str).collect::<Vec<_>>())?;

    let input_ids = case.input("input_ids")?;
    let ids = input_ids.flatten_all()?.to_vec1::<i64>()?;
    let aux_info = model.normalise(&case.input("mm_embeds_raw")?)?;
    let references = aux_info.dim(0)?;
    let positions: Vec<u32> = (0u32..)
        .zip(&ids)
        .filter(|(_, id)| **id == i64::from(tokens.video))
        .map(|(position, _)| position)
        .take(references)
        .collect();
    if positions.len() < references {
        return Err(LlmError::NoSuchReference { index: positions.len(), count: positions.len() });
    }
    let inputs_embeds = model.inputs_embeds(&input_ids, &positions, Some(&aux_info))?;
    let last_hidden = model.llama.hidden_states(&inputs_embeds)?;
    let plain = model.llama.hidden_states(&model.llama.embed(&input_ids)?)?;

    let max_new_tokens = match case.input_maybe("max_new_tokens") {
        Some(count) => count.to_dtype(DType::I64)?.to_scalar::<i64>()? as usize,
        None => 100,
    };
    let generation = GenerationConfig {
        max_new_tokens,
        eos_token_id: config.eos_token_id,
        sampling: Sampling::GREEDY,
    };
    let answer =
        generate(&model, &inputs_embeds, &generation, &mut Unconstrained, &mut Generator::new(0))?;

    let mut outputs = Outputs::new();
    outputs.insert("projected".into(), model.project(&aux_info)?);
    outputs.insert("logits".into(), model.llama.logits(&last_hidden)?);
    outputs.insert("logits_no_mm".into(), model.llama.logits(&plain)?);
    outputs.insert("inputs_embeds".into(), inputs_embeds);
    outputs.insert("last_hidden".into(), last_hidden);
    read_out(&model, &tokens, &answer, &aux_info, &mut outputs)?;
    outputs.insert("aux_info".into(), aux_info);
    Ok(outputs)
}

/// What the reference pipeline takes from the answer, by its own rules.
fn read_out(
    model: &InstructAny2PixForCausalLM,
    tokens: &AddedTokens,
    answer: &crate::generation::Generation,
    aux_info: &Tensor,
    outputs: &mut Outputs,
) -> Result<(), LlmError> {
    let device = aux_info.device();
    let width = aux_info.dim(1)?;
    let generated: Vec<i64> = answer.ids.iter().map(|id| i64::from(*id)).collect();
    let predicted = model.predict(&answer.hidden_states)?;
    let rows = predicted.to_vec2::<f32>()?;
    let references = aux_info.to_vec2::<f32>()?;
    let retrieve = |step: usize| nearest(&rows[step], references.iter().map(Vec::as_slice));

    let anchor = answer.ids.iter().rposition(|id| *id == tokens.im_gen);
    let slots: Vec<usize> = match anchor {
        Some(anchor) => {
            (anchor + 1..answer.ids.len()).filter(|k| answer.ids[*k] == tokens.video).collect()
        }
        None => Vec::new(),
    };
    let steps: Vec<i64> = slots.iter().map(|k| *k as i64).collect();
    outputs.insert("video_steps".into(), Tensor::new(steps, device)?);
    if let Some((first, rest)) = slots.split_first() {
        outputs.insert("image_embeds".into(), predicted.get(*first)?.reshape((1, 1, width))?);
        let rest_index: Vec<u32> = rest.iter().map(|k| *k as u32).collect();
        let found: Vec<i64> = rest.iter().filter_map(|k| retrieve(*k)).map(|i| i as i64).collect();
        if !rest.is_empty() {
            let extra = predicted.index_select(&Tensor::new(rest_index, device)?, 0)?;
            outputs.insert("extra_embeds".into(), extra);
            outputs.insert("extra_idx".into(), Tensor::new(found, device)?);
        }
    }
    let base = answer.ids.iter().position(|id| *id == tokens.base).map(|j| j + 1);
    if let Some(step) = base.filter(|step| *step < rows.len()) {
        outputs.insert("base_embed".into(), predicted.narrow(0, step, 1)?);
        if let Some(index) = retrieve(step) {
            outputs.insert("base_idx".into(), Tensor::new(index as i64, device)?);
        }
    }
    let count = generated.len();
    outputs.insert("generated_ids".into(), Tensor::from_vec(generated, (1, count), device)?);
    outputs.insert("step_hidden".into(), answer.hidden_states.clone());
    outputs.insert("step_pred_embeds".into(), predicted);
    Ok(())
}
