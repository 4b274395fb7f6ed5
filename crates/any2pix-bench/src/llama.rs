//! The language model in the shape of 7 B: tokens of a decoder, tokens of a prompt.

use std::borrow::Cow;
use std::ops::ControlFlow;

use any2pix_llm::llama::KvCache;
use any2pix_llm::{LlamaConfig, LlamaForCausalLM};
use any2pix_nn::ops::{Precision, PrecisionScope, Quantisation, Quantised};
use any2pix_nn::{Linear, operations_so_far};
use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Result};

use crate::cases::numbers;
use crate::timing::{Bench, Failure, Outcome, Report, Work, peak_mb};
use crate::weights;

/// Tokens of the prompt.
const PROMPT: usize = 256;
/// Rows of weights that are quantised; larger layers repeat them.
const ROWS: usize = 64;

/// Vicuna-7B's shape; the vocabulary's table is left small, since nothing is multiplied with it.
fn config() -> std::result::Result<LlamaConfig, Failure> {
    let json = serde_json::json!({
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "mm_hidden_size": 1024,
    });
    Ok(LlamaConfig::from_json(&serde_json::to_vec(&json)?)?)
}

/// A linear layer of random weights in `format`, in memory of its own.
fn quantised(format: Quantisation, inputs: usize, outputs: usize) -> Result<Linear> {
    let few = weights::random().get((ROWS, inputs), "weight")?;
    let few = QTensor::quantize(&few, format.dtype())?;
    let block = few.data()?;
    let bytes: Vec<u8> =
        block.iter().copied().cycle().take(format.bytes(inputs * outputs)).collect();
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, format.dtype())?;
    Ok(Linear::from_quantised(Quantised::new(QTensor::new(storage, (outputs, inputs))?)?))
}

/// A whole model, and the bytes of weights that a token reads.
fn model(format: Quantisation) -> std::result::Result<(LlamaForCausalLM, usize), Failure> {
    let config = config()?;
    let bytes = std::cell::Cell::new(0);
    let load = |_: candle_nn::VarBuilder<'_>, inputs: usize, outputs: usize| {
        bytes.set(bytes.get() + format.bytes(inputs * outputs));
        quantised(format, inputs, outputs)
    };
    let model = LlamaForCausalLM::load_with(weights::random(), &config, &load)?;
    Ok((model, bytes.get()))
}

/// Formats in the order of the report.
const FORMATS: [(Quantisation, &str); 2] =
    [(Quantisation::Q4K, "q4_k"), (Quantisation::Q4_0, "q4_0")];

pub(crate) fn decode(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    for (format, name) in FORMATS {
        let (model, bytes) = model(format)?;
        let (prompt, token) = (numbers(&[1, 16, 4096])?, numbers(&[1, 1, 4096])?);
        let mut cache = KvCache::new();
        model.hidden_states_cached(&prompt, &mut cache)?;
        let seconds = bench.median(|| -> Result<()> {
            let states = model.hidden_states_cached(&token, &mut cache.clone())?;
            model.logits(&states).map(drop)
        })?;
        let mut row =
            bench.row("7B, one token".into(), Precision::F32, seconds, Work::Bytes(bytes as f64));
        (row.dtype, row.samples_per_s, row.peak_mb) = (name, Some(1.0 / seconds), peak_mb());
        if report(&row).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

pub(crate) fn prefill(bench: &Bench<'_>, report: Report<'_>) -> Outcome {
    for (format, name) in FORMATS {
        let (model, _) = model(format)?;
        let prompt = numbers(&[1, PROMPT, 4096])?;
        let before = operations_so_far();
        model.hidden_states(&prompt)?;
        let operations = (operations_so_far() - before) as f64;
        let precision = bench.precisions().first().copied().unwrap_or_default();
        let _scope = PrecisionScope::new(precision);
        let seconds = bench.median(|| model.hidden_states(&prompt).map(drop))?;
        let shape = format!("7B, {PROMPT} tokens");
        let mut row = bench.row(shape, precision, seconds, Work::Operations(operations));
        (row.dtype, row.peak_mb) = (name, peak_mb());
        row.samples_per_s = Some(PROMPT as f64 / seconds);
        if report(&row).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}
