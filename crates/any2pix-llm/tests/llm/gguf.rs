//! Models from GGUF files, whose quantised layers keep their blocks.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;

use any2pix_llm::llama::{LlamaForCausalLM, linears_of};
use any2pix_llm::llama_cpp::as_hugging_face;
use any2pix_llm::{InstructAny2PixForCausalLM, LlamaConfig, MediaKind, Piece, Planner};
use any2pix_nn::golden::GoldenCase;
use any2pix_nn::ops::Quantisation;
use any2pix_nn::{Checkpoint, Parameters};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "vocab_size": 709, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "mm_hidden_size": 12,
    })
}

/// Weights that are not trained, as a file's are.
fn weights() -> HashMap<String, Tensor> {
    let config = LlamaConfig::from_json(config().to_string().as_bytes()).unwrap();
    let parameters = Parameters::new(11);
    InstructAny2PixForCausalLM::load(parameters.builder(&Device::Cpu), &config).unwrap();
    parameters.tensors().into_iter().map(|(name, tensor)| (name, tensor.detach())).collect()
}

/// llama.cpp's name of a tensor; the projectors, which it does not know, keep theirs.
fn llama_cpp_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj.", "."),
    ];
    pairs.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to))
}

/// Rows as llama.cpp's converter orders them: halves of a head become pairs.
fn paired(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, k) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, k)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, k)).unwrap()
}

/// The model as llama.cpp's converter and quantiser would write it.
fn gguf(tensors: &HashMap<String, Tensor>, format: GgmlDType) -> Vec<u8> {
    let mut written = Vec::new();
    for (name, tensor) in tensors.iter().collect::<BTreeMap<_, _>>() {
        let tensor = match name {
            name if name.contains("q_proj") => paired(tensor, 4),
            name if name.contains("k_proj") => paired(tensor, 2),
            _ => tensor.clone(),
        };
        let linear = name.contains("_proj.") || name.starts_with("lm_head");
        let dtype = if linear { format } else { GgmlDType::F32 };
        let kept = name.contains("vae_");
        let name = if kept { name.clone() } else { llama_cpp_name(name) };
        written.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
    }
    let tensors: Vec<_> = written.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let architecture = gguf_file::Value::String("llama".to_string());
    let mut bytes = Cursor::new(Vec::new());
    let metadata = [("general.architecture", &architecture)];
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

#[test]
fn a_planner_from_blocks_is_the_planner_that_quantises_by_itself() {
    let tensors = weights();
    let tokenizer =
        std::fs::read(crate::goldens().join("tokenizers/llama_any2pix/tokenizer.json")).unwrap();
    let config = config().to_string();
    let plan = |weights: &Checkpoint, format| {
        let files = (config.as_bytes(), &tokenizer[..]);
        let planner = Planner::load(files, weights, format, DType::F32, &Device::Cpu).unwrap();
        let instruction = [Piece::Text("add ".into()), Piece::Media(0, MediaKind::Image)];
        planner.plan(&instruction, &[vec![0.5; 12]]).unwrap()
    };
    let dense = Checkpoint::from_tensors("test", tensors.clone());
    for (dtype, format) in
        [(GgmlDType::Q8_0, Quantisation::Q8_0), (GgmlDType::Q4_0, Quantisation::Q4_0)]
    {
        let blocks = Checkpoint::from_bytes("test.gguf", &gguf(&tensors, dtype)).unwrap();
        assert_eq!(plan(&blocks, None), plan(&dense, Some(format)));
    }
}

#[test]
fn blocks_give_nearly_what_dequantised_weights_give() {
    let case = GoldenCase::open(crate::goldens().join("formats/llama")).unwrap();
    let mut config = case.config.clone();
    config["mm_hidden_size"] = json!(1);
    let config = LlamaConfig::from_json(config.to_string().as_bytes()).unwrap();
    let ids = case.input("input_ids").unwrap();
    for (format, tolerance) in [("Q8_0", 0.02), ("Q5_1", 0.02), ("Q4_0", 0.02)] {
        let path = case.dir.join(format!("model-{format}.gguf"));
        let logits = |keep: bool| {
            let weights = as_hugging_face(&Checkpoint::open(&path).unwrap(), &config).unwrap();
            let vb = weights.builder(DType::F32, &Device::Cpu);
            let model = if keep {
                LlamaForCausalLM::load_with(vb, &config, &linears_of(&weights, None))
            } else {
                LlamaForCausalLM::load(vb, &config)
            };
            let model = model.unwrap();
            weights.finish(&[]).unwrap();
            let states = model.hidden_states(&model.embed(&ids).unwrap()).unwrap();
            model.logits(&states).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let (blocks, dense) = (logits(true), logits(false));
        let far = blocks.iter().zip(&dense).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = dense.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(far <= tolerance * largest, "{format}: {far} of {largest}");
    }
}

#[test]
fn weights_of_another_architecture_are_refused() {
    let other = gguf_file::Value::String("gemma".to_string());
    let zeros = Tensor::zeros((2, 32), DType::F32, &Device::Cpu).unwrap();
    let tensor = QTensor::quantize(&zeros, GgmlDType::F32).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    let metadata = [("general.architecture", &other)];
    gguf_file::write(&mut bytes, &metadata, &[("token_embd.weight", &tensor)]).unwrap();
    let weights = Checkpoint::from_bytes("test.gguf", bytes.get_ref()).unwrap();
    let config = LlamaConfig::from_json(config().to_string().as_bytes()).unwrap();
    let error = as_hugging_face(&weights, &config).err().map(|e| e.to_string());
    assert!(error.is_some_and(|e| e.contains("gemma")));
}
