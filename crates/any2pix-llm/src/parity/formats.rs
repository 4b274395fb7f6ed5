//! `formats`: the same small Llama in every container that weights are published in.

use any2pix_nn::golden::{GoldenCase, Outputs};
use any2pix_nn::{Checkpoint, CheckpointError};
use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::malformed;
use crate::config::LlamaConfig;
use crate::error::LlmError;
use crate::llama::LlamaForCausalLM;
use crate::llama_cpp::as_hugging_face;

/// Files that hold the very numbers of another one, in another container.
const TWINS: &[(&str, &[&str])] = &[
    (
        "weights.safetensors",
        &[
            "pytorch_model.bin",
            "legacy.pth",
            "sharded_safetensors/model.safetensors.index.json",
            "sharded_bin/pytorch_model.bin.index.json",
        ],
    ),
    ("model.fp16.safetensors", &["pytorch_model.fp16.bin"]),
    ("model.bf16.safetensors", &["pytorch_model.bf16.bin"]),
];

/// What a Lightning checkpoint puts before its tensors.
const STATE: &str = "state_dict.";

fn differs(origin: &str, name: &str) -> LlmError {
    let reason = format!("`{name}` is not what another container of the same weights has");
    LlmError::Checkpoint(CheckpointError::Malformed { origin: origin.to_string(), reason })
}

/// Same shape, same type, same numbers.
fn same(a: &Tensor, b: &Tensor) -> Result<bool, LlmError> {
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        return Ok(false);
    }
    let values = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    Ok(values(a)? == values(b)?)
}

fn check_twin(a: &Checkpoint, b: &Checkpoint) -> Result<(), LlmError> {
    if a.names() != b.names() {
        return Err(differs(b.origin(), "the list of names"));
    }
    for name in a.names() {
        match (a.tensor(&name), b.tensor(&name)) {
            (Some(a), Some(b)) if same(&a, &b)? => {}
            _ => return Err(differs(b.origin(), &name)),
        }
    }
    Ok(())
}

struct Formats<'a> {
    case: &'a GoldenCase,
    config: LlamaConfig,
    outputs: Outputs,
}

impl Formats<'_> {
    fn open(&self, file: &str) -> Result<Checkpoint, LlmError> {
        Ok(Checkpoint::open(self.case.dir.join(file))?)
    }

    fn logits(&mut self, name: &str, weights: &Checkpoint) -> Result<(), LlmError> {
        let vb = weights.builder(DType::F32, &Device::Cpu);
        let model = LlamaForCausalLM::load(vb, &self.config)?;
        weights.finish(&[])?;
        let states = model.hidden_states(&model.embed(&self.case.input("input_ids")?)?)?;
        self.outputs.insert(name.to_string(), model.logits(&states)?);
        Ok(())
    }

    /// safetensors, both containers of torch, and their indices.
    fn dense(&mut self) -> Result<(), LlmError> {
        for (file, twins) in TWINS {
            let weights = self.open(file)?;
            for twin in *twins {
                check_twin(&weights, &self.open(twin)?)?;
            }
            let output = match file.strip_prefix("model.").and_then(|f| f.split_once('.')) {
                Some((precision, _)) => format!("logits_from_{precision}"),
                None => "logits".to_string(),
            };
            self.logits(&output, &weights)?;
        }
        Ok(())
    }

    /// Views, shared storages and types of numbers, in dictionaries in dictionaries.
    fn nested(&mut self) -> Result<(), LlmError> {
        let weights = self.open("nested.ckpt")?;
        for name in weights.names() {
            let Some(key) = name.strip_prefix(STATE) else { continue };
            let Some(tensor) = weights.tensor(&name) else { continue };
            if tensor.elem_count() > 0 {
                self.outputs.insert(format!("nested.{key}"), tensor);
            } else if tensor.dims() != [0, 3] {
                return Err(differs(weights.origin(), &name));
            }
        }
        let legacy = self.open("nested_legacy.ckpt")?;
        for name in legacy.names() {
            match (weights.tensor(&name), legacy.tensor(&name)) {
                (Some(a), Some(b)) if same(&a, &b)? => {}
                _ => return Err(differs(legacy.origin(), &name)),
            }
        }
        Ok(())
    }

    /// GGUF: tensors one by one, and the model under Hugging Face's names.
    fn gguf(&mut self) -> Result<(), LlmError> {
        for name in self.case.output_names() {
            let Some(format) = name.strip_prefix("logits_from_gguf_") else { continue };
            let weights = self.open(&format!("model-{format}.gguf"))?;
            for wanted in self.case.output_names() {
                let inner = wanted.strip_prefix("deq.").and_then(|w| w.strip_prefix(format));
                let Some(inner) = inner.and_then(|w| w.strip_prefix('.')) else { continue };
                if let Some(tensor) = weights.tensor(inner) {
                    self.outputs.insert(wanted.clone(), tensor.to_dtype(DType::F32)?);
                }
            }
            let weights = as_hugging_face(&weights, &self.config)?;
            self.logits(&name, &weights)?;
        }
        let blocks = self.open("kquants.gguf")?;
        for name in blocks.names() {
            if let (Some(format), Some(tensor)) = (name.strip_prefix("t."), blocks.tensor(&name)) {
                self.outputs.insert(format!("kquant.{format}"), tensor);
            }
        }
        Ok(())
    }
}

pub(super) fn run(case: &GoldenCase) -> Result<Outputs, LlmError> {
    let mut config = case.config.clone();
    // A plain Llama has no embeddings of media; the width of none changes nothing.
    config["mm_hidden_size"] = json!(1);
    let config: LlamaConfig = serde_json::from_value(config).map_err(|e| malformed(case, &e))?;
    config.check()?;
    let mut formats = Formats { case, config, outputs: Outputs::new() };
    formats.dense()?;
    formats.nested()?;
    formats.gguf()?;
    Ok(formats.outputs)
}
